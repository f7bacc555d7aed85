"""How long a tick takes to its alert: rounds of `streams_latency`, a table, the figures."""

from collections.abc import Collection
from statistics import median
from typing import Final

from benchmarks import streams_latency
from benchmarks.choice import Figures
from benchmarks.peers.race import SpoiltError
from benchmarks.streams_latency import Latency
from benchmarks.table import show
from pulsestream.local.kafka import EmbeddedKafka

ALONE: Final = "alerts"
BESIDE: Final = "alerts-1000-tenants"
PARTS: Final = (ALONE, BESIDE)
OTHERS: Final = 1_000


def run(broker: EmbeddedKafka, parts: Collection[str], rounds: int | None, *, quick: bool) -> Figures:
    """Measure what is wanted of the parts; a quick run leaves out the thousand tenants, whose topics take minutes."""
    seconds = 3.0 if quick else 30.0
    figures: Figures = {}
    if ALONE in parts:
        figures |= _alone(broker, seconds, rounds or (1 if quick else 5))
    if BESIDE in parts and not quick:
        figures |= _beside(broker, seconds)
    return figures


def _alone(broker: EmbeddedKafka, seconds: float, rounds: int) -> Figures:
    try:
        runs = [streams_latency.measure(broker, seconds)[0] for _ in range(rounds)]
    except SpoiltError as error:
        return {"alert_p99_ms": None, "alert_over_bare_p99_ms": None, "alert_p99_ms_reason": str(error)}
    _show("one tenant", runs)
    return {
        "alert_p99_ms": median(one.p99 for one in runs),
        "alert_over_bare_p99_ms": median(one.over_bare for one in runs),
        "alert_p50_ms": median(one.p50 for one in runs),
    }


def _beside(broker: EmbeddedKafka, seconds: float) -> Figures:
    try:
        beside, created = streams_latency.measure(broker, seconds, others=OTHERS, partitions=1)
    except SpoiltError as error:
        return {"alert_1000_tenants_p99_ms": None, "alert_1000_tenants_p99_ms_reason": str(error)}
    _show(f"beside {OTHERS:,} tenants' topics, which took {created:.0f} s to create", [beside])
    return {"alert_1000_tenants_p99_ms": beside.p99, "alert_1000_tenants_over_bare_p99_ms": beside.over_bare}


def _show(title: str, runs: list[Latency]) -> None:
    columns = ("round", "p50, ms", "p99, ms", "bare p50, ms", "bare p99, ms", "ticks a second", "alerts")
    show(
        f"tick to alert at {streams_latency.RATE:,} ticks a second, {title}", columns, map(_row, range(len(runs)), runs)
    )


def _row(number: int, one: Latency) -> tuple[str, ...]:
    shown = [f"{value:.1f}" for value in (one.p50, one.p99, one.bare_p50, one.bare_p99)]
    return (str(number + 1), *shown, f"{one.rate:,.0f}", f"{one.alerts:,}")
