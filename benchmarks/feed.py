"""The feed: how fast a frame becomes an Avro record, what a tenant more costs, how long until the broker has it.

- `vs_orjson_fastavro`: how many times as fast as orjson + fastavro, frame bytes -> validated tick -> Avro bytes
- `per_second`: frames to Avro bytes on one core
- `fanout_cost_ratio`: what a tenant more costs the publisher, against a bare produce() call of the same record
"""

from typing import Final

from benchmarks import feed_codec, feed_fanout
from benchmarks.broker import running_broker
from benchmarks.feed_fanout import Fanout
from benchmarks.rounds import Rounds
from benchmarks.table import show

_MICROS: Final = 1_000_000


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Measure, print tables, and return the figures."""
    rounds = feed_codec.measure(500 if quick else 5_000, 3 if quick else 21)
    _show_steps(rounds)
    with running_broker() as broker:
        fanout = feed_fanout.measure(broker, *((100, 10, 3) if quick else (1_000, 10, 5)))
    _show_fanout(fanout)
    return {
        "vs_orjson_fastavro": rounds.ratio("orjson + fastavro", "whole path"),
        "per_second": 1 / rounds.median("whole path"),
        "fanout_cost_ratio": fanout.ratio,
    }


def _show_steps(rounds: Rounds) -> None:
    rows = [
        (case, f"{rounds.median(case) * _MICROS:.2f}", f"{1 / rounds.median(case):,.0f}") for case in rounds.seconds
    ]
    show("frame bytes -> validated tick -> Avro bytes", ("step", "us a frame (CPU)", "a second"), rows)


def _show_fanout(fanout: Fanout) -> None:
    rows = [
        ("a tenant more, through the publisher", f"{fanout.copy * _MICROS:.2f}"),
        ("a bare produce() call", f"{fanout.bare * _MICROS:.2f}"),
    ]
    show(f"one tick to {fanout.tenants:,} tenants", ("copy", "us (CPU of the calling thread)"), rows)
