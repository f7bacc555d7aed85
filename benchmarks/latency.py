"""A frame on the exchange's socket to its committed row, at 10,000 frames a second through all of the path.

- `frame_to_row_p99_ms`: the 99th percentile, the median of the turns; `..._least_ms`, `..._most_ms`: of the turns
- `frame_to_row_p50_ms`: the median
- `frame_to_receipt_p99_ms`, `receipt_to_append_p99_ms`, `append_to_row_p99_ms`: its parts, each by itself
- `frames_per_second`: as they were stored
"""

import tempfile
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from benchmarks.broker import running_broker
from benchmarks.latency_stand import RATE, Turn, fresh_database, prepare, turn
from benchmarks.peers.race import SpoiltError
from benchmarks.sink_stand import running_server
from benchmarks.table import show

PARTS: Final = {
    "frame_to_row": "frame to committed row",
    "frame_to_receipt": "frame to its receipt by the producer",
    "receipt_to_append": "receipt to the broker's append",
    "append_to_row": "append to committed row",
}


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Measure, print a table, and return the figures."""
    turns, seconds = (1, 5.0) if quick else (5, 20.0)
    with (
        running_broker() as broker,
        running_server() as server,
        tempfile.TemporaryDirectory(prefix="pulsestream-benchmark-") as folder,
    ):
        prepare(broker)
        measured: list[Turn] = []
        for number in range(turns):
            with fresh_database(server) as database:
                try:
                    measured.append(turn(broker, database, Path(folder) / str(number), seconds))
                except SpoiltError as error:
                    print(f"a turn that does not count: {error}", flush=True)
                else:
                    _tell(measured[-1])
    if not measured:
        raise SystemExit("no turn counts: try again when the machine has less to do")
    _show(measured)
    return _figures(measured)


def _tell(one: Turn) -> None:
    cpu = ", ".join(f"{name} {share:.2f}" for name, share in one.cpu.items())
    print(f"p99 {_percentile(one, 'frame_to_row', 99):.1f} ms, processors: {cpu}", flush=True)


def _show(turns: list[Turn]) -> None:
    rows = []
    for part, title in PARTS.items():
        p99 = [_percentile(one, part, 99) for one in turns]
        middle = [median(_percentile(one, part, share) for one in turns) for share in (50, 99)]
        rows.append((title, *(f"{each:.1f}" for each in middle), f"{min(p99):.1f} to {max(p99):.1f}"))
    show(f"latency at {RATE:,} frames a second, ms", ("path", "p50", "p99", "p99, least to most"), rows)


def _figures(turns: list[Turn]) -> dict[str, float]:
    whole = [_percentile(one, "frame_to_row", 99) for one in turns]
    return {
        "frame_to_row_p99_ms": median(whole),
        "frame_to_row_least_ms": min(whole),
        "frame_to_row_most_ms": max(whole),
        "frame_to_row_p50_ms": median(_percentile(one, "frame_to_row", 50) for one in turns),
        **{
            f"{part}_p99_ms": median(_percentile(one, part, 99) for one in turns)
            for part in PARTS
            if part != "frame_to_row"
        },
        "frames_per_second": median(one.per_second for one in turns),
    }


def _percentile(one: Turn, part: str, share: float) -> float:
    return float(np.percentile(getattr(one, part), share))
