"""What keys and limits cost on the hot path: the API as it is against the same one with its door open.

Both are processes of the same application on the same broker and database, started anew for each round (so that one
process's luck with its memory counts for one round only), and asked in turn by the same load; see `open_api`.
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Final

from api.ingestion.app import BATCH, SINGLE
from benchmarks.choice import Figures
from benchmarks.ingest_stand import (
    CLI,
    TENANT,
    Server,
    Stand,
    Turn,
    await_port,
    bare_stand,
    process_on,
    register,
    send_one,
    served_api,
)
from benchmarks.peers import open_api
from benchmarks.table import show
from pulsestream.local import process

CONNECTIONS: Final = {"single": 64, "batch": 16}
EVENTS: Final = {"single": 1, "batch": 100}
ROUNDS: Final = 7
Turns = Mapping[str, Sequence[Turn]]


def run(parts: Collection[str], rounds: int | None, *, quick: bool, scale: float) -> Figures:
    """Measure if it is among the parts, print a table, and return the figures."""
    if "auth" not in parts:
        return {}
    count, seconds, warm_up = (2, 1.0, 0.5) if quick else (rounds or ROUNDS, 4.0 * scale, 1.5 * scale)
    with bare_stand() as made:
        _make_tenant(made)
        turns: dict[str, list[Turn]] = {}
        for number in range(1 + count):
            for case, turn in _round(made, number, seconds, warm_up):
                turns.setdefault(case, []).append(turn)
        _check_stored(turns, made.stored(TENANT))
    counted = {case: each[1:] for case, each in turns.items()}  # the first round warms up broker and database
    _show(counted)
    return figures(counted)


def _make_tenant(made: Stand) -> None:
    with served_api(made) as api, process_on(-1, [*CLI, "relay"], made.folder, made.settings("relay")):
        made.key = register(api.port, TENANT)
        send_one(api.port, made.key)


def _round(made: Stand, number: int, seconds: float, warm_up: float) -> Iterator[tuple[str, Turn]]:
    with served_api(made), _served_open(made):
        order = ["single", "open single", "batch", "open batch"]
        for case in order if number % 2 == 0 else reversed(order):
            connections = CONNECTIONS[case.removeprefix("open ")]
            yield case, made.turn(case, connections, seconds, warm_up)


@contextmanager
def _served_open(made: Stand) -> Iterator[None]:
    port = process.free_port()
    command = [sys.executable, "-m", open_api.__name__, TENANT]
    with process_on(0, command, made.folder, made.settings("api") | {"api_port": port}) as pid:
        await_port(port)
        made.cases["open single"] = Server("open", port, SINGLE, 1, pid)
        made.cases["open batch"] = Server("open", port, BATCH, 100, pid)
        yield


def _check_stored(turns: Turns, stored: int) -> None:
    """Every event that was sent, and so answered 202, is on the topic; the first one made it."""
    sent = 1 + sum(
        EVENTS[case.removeprefix("open ")] * turn.load.sent_in_all for case, each in turns.items() for turn in each
    )
    if sent != stored:
        raise AssertionError(f"{sent} events were sent, {stored} are on the topic")


def figures(turns: Turns) -> Figures:
    """Return the ratios: with keys and limits / without, by wall time and by CPU time of the API a request."""
    found: Figures = {}
    for case, prefix in (("single", "auth_overhead"), ("batch", "auth_overhead_batch")):
        pairs = list(zip(turns[case], turns[f"open {case}"], strict=True))
        found[f"{prefix}_ratio"] = median(free.load.rate / kept.load.rate for kept, free in pairs)
        found[f"{prefix}_cpu_ratio"] = median(kept.micros / free.micros for kept, free in pairs)
        found[f"{prefix}_cpu_us"] = median(kept.micros - free.micros for kept, free in pairs)
    return found


def _show(turns: Turns) -> None:
    rows = []
    for case, each in turns.items():
        rates = [turn.load.rate for turn in each]
        micros = [turn.micros for turn in each]
        rows.append(
            (
                case,
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                f"{median(micros):,.1f}",
                f"{min(micros):,.1f} to {max(micros):,.1f}",
                f"{median(turn.load.p50 for turn in each):.2f}",
                f"{median(turn.load.p99 for turn in each):.2f}",
            )
        )
    columns = ("case", "requests/s", "spread", "CPU us", "spread", "p50, ms", "p99, ms")
    show("acknowledged requests; open: without keys and limits", columns, rows)
