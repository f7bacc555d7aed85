"""The feed: how fast a frame becomes an Avro record, what a tenant more costs, how long until the broker has it.

- `vs_orjson_fastavro`: how many times as fast as orjson + fastavro, frame bytes -> validated tick -> Avro bytes
- `per_second`: frames to Avro bytes on one core
- `fanout_cost_ratio`: what a tenant more costs the publisher, against a bare produce() call of the same record
- `socket_to_ack_p99_ms`: from a frame's receipt to the broker's acknowledgement, at 2,000 ticks a second
- `bare_produce_p99_ms`: the same of produce() calls alone, in the same run; what the machine and the broker take
- `socket_to_ack_per_second`: ticks that arrived in a second; less than 2,000: the machine was too busy to measure
"""

from statistics import median
from typing import Final

from benchmarks import feed_codec, feed_fanout, feed_latency
from benchmarks.broker import running_broker
from benchmarks.feed_fanout import Fanout
from benchmarks.feed_latency import Latency
from benchmarks.rounds import Rounds
from benchmarks.table import show

_MICROS: Final = 1_000_000


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Measure, print tables, and return the figures."""
    rounds = feed_codec.measure(500 if quick else 5_000, 3 if quick else 21)
    _show_steps(rounds)
    with running_broker() as broker:
        fanout = feed_fanout.measure(broker, *((100, 10, 3) if quick else (1_000, 10, 5)))
        fed, bare = feed_latency.measure(broker, 3.0 if quick else 20.0)
    _show_fanout(fanout)
    _show_latency(fed, bare)
    return {
        "vs_orjson_fastavro": rounds.ratio("orjson + fastavro", "whole path"),
        "per_second": 1 / rounds.median("whole path"),
        "fanout_cost_ratio": fanout.ratio,
        "socket_to_ack_p99_ms": fed.p99,
        "bare_produce_p99_ms": median(one.p99 for one in bare),
        "socket_to_ack_per_second": fed.rate,
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


def _show_latency(fed: Latency, bare: list[Latency]) -> None:
    named = [("socket to acknowledgement", fed), *(("bare produce() to acknowledgement", one) for one in bare)]
    rows = [(name, f"{one.p50:.1f}", f"{one.p99:.1f}", f"{one.rate:,.0f}") for name, one in named]
    show(f"latency at {feed_latency.RATE:,} ticks a second", ("path", "p50, ms", "p99, ms", "ticks a second"), rows)
