"""What tenants, workers, rules and busy products cost, by rounds of `streams_cost`, and how much a core takes."""

from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Final

import httpx

from benchmarks import streams_cost
from benchmarks.choice import Figures
from benchmarks.peers.race import SpoiltError
from benchmarks.streams_cost import (
    BUSY,
    ONE,
    ONE_LIVE,
    ONE_WORKER,
    RULED,
    TENANTS,
    TENANTS_LIVE,
    TWO_WORKERS,
    Case,
    capacity,
)
from benchmarks.streams_stand import Cost
from benchmarks.table import show
from pulsestream.local.kafka import EmbeddedKafka

CASES: Final = {
    "tenants": (ONE, TENANTS, ONE_LIVE, TENANTS_LIVE),
    "workers": (ONE_WORKER, TWO_WORKERS),
    "capacity": (ONE, BUSY),
    "rules": (ONE, RULED),
}
PARTS: Final = tuple(CASES)
RATIOS: Final = {
    "tenants_200_cost_ratio": (TENANTS, ONE),
    "tenants_200_live_cost_ratio": (TENANTS_LIVE, ONE_LIVE),
    "two_workers_cpu_ratio": (TWO_WORKERS, ONE_WORKER),
    "rules_10000_cost_ratio": (RULED, ONE),
}
_QUICK: Final = frozenset({ONE_WORKER, TWO_WORKERS})
"""What a quick run has the time for."""
_RATES: Final = (0.1, 1.0, 10.0, 100.0)
"""Ticks a second of a product."""
_PRODUCTS: Final = (10, 50, 250)
"""Of a tenant."""


def run(broker: EmbeddedKafka, parts: Collection[str], rounds: int | None, *, quick: bool) -> Figures:
    """Measure the cases of these parts in turn, and return their ratios."""
    names = {name for part, names in CASES.items() if part in parts for name in names}
    cases = streams_cost.cases(*((20_000, 2.0) if quick else (400_000, 20.0)))
    wanted = {name: case for name, case in cases.items() if name in (names & _QUICK if quick else names)}
    if not wanted:
        return {}
    measured: dict[str, list[Cost | None]] = {name: [] for name in wanted}
    reasons: dict[str, str] = {}
    for _ in range(rounds or (1 if quick else 5)):
        for name, case in wanted.items():
            measured[name].append(_cost(broker, name, case, reasons))
    columns = ("case", "CPU us a record", "least", "most", "MiB of a worker at most")
    show("what a record costs the worker", columns, map(_row, measured.items()))
    costs = {name: [cost.micros if cost else None for cost in turns] for name, turns in measured.items()}
    peaks = [cost.peak_mib for turns in measured.values() for cost in turns if cost]
    return {**_figures(costs, reasons), "worker_peak_mib": max(peaks, default=None)}


def _cost(broker: EmbeddedKafka, name: str, case: Case, reasons: dict[str, str]) -> Cost | None:
    try:
        return case(broker)
    except (SpoiltError, httpx.TransportError) as error:
        reasons[name] = str(error)
        print(f"{name}: {error}", flush=True)
        return None


def _row(measured: tuple[str, Sequence[Cost | None]]) -> tuple[str, ...]:
    name, turns = measured
    counted = [turn for turn in turns if turn is not None]
    if not counted:
        return (name, "-", "-", "-", "-")
    micros = [turn.micros for turn in counted]
    shown = (f"{value:.2f}" for value in (median(micros), min(micros), max(micros)))
    return (name, *shown, f"{max(turn.peak_mib for turn in counted):.0f}")


def _known(costs: Sequence[float | None]) -> list[float]:
    return [cost for cost in costs if cost is not None]


def _figures(costs: Mapping[str, Sequence[float | None]], reasons: Mapping[str, str]) -> Figures:
    figures: Figures = {}
    for key, (dear, base) in RATIOS.items():
        if dear in costs and base in costs:
            ratios = [
                one / other
                for one, other in zip(costs[dear], costs[base], strict=True)
                if one is not None and other is not None
            ]
            figures[key] = median(ratios) if ratios else None
            if not ratios:
                figures[f"{key}_reason"] = reasons.get(dear) or reasons.get(base)
    one, busy = _known(costs.get(ONE, ())), _known(costs.get(BUSY, ()))
    if one and busy:
        record, second = capacity(median(one), median(busy))
        figures |= {"record_cost_us": record, "key_second_cost_us": second}
        _show_capacity(record, second)
    return figures


def _show_capacity(record: float, second: float) -> None:
    """Print how many tenants a core takes, from what a record and an active second of a product cost (micros)."""
    columns = ("products of a tenant", *(f"{rate:g} ticks/s each" for rate in _RATES))
    rows = [
        (str(products), *(f"{1e6 / products / (rate * record + min(rate, 1.0) * second):,.0f}" for rate in _RATES))
        for products in _PRODUCTS
    ]
    show("tenants that one core takes, a product having ticks as often as this", columns, rows)
