"""The feed: how fast a frame becomes an Avro record, what a tenant more costs, how long until the broker has it.

- `vs_orjson_fastavro`: how many times as fast as orjson + fastavro, frame bytes -> validated tick -> Avro bytes
- `per_second`: frames to Avro bytes on one core
"""

from typing import Final

from benchmarks import feed_codec
from benchmarks.rounds import Rounds
from benchmarks.table import show

_MICROS: Final = 1_000_000


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Measure, print tables, and return the figures."""
    rounds = feed_codec.measure(500 if quick else 5_000, 3 if quick else 21)
    _show_steps(rounds)
    return {
        "vs_orjson_fastavro": rounds.ratio("orjson + fastavro", "whole path"),
        "per_second": 1 / rounds.median("whole path"),
    }


def _show_steps(rounds: Rounds) -> None:
    rows = [
        (case, f"{rounds.median(case) * _MICROS:.2f}", f"{1 / rounds.median(case):,.0f}") for case in rounds.seconds
    ]
    show("frame bytes -> validated tick -> Avro bytes", ("step", "us a frame (CPU)", "a second"), rows)
