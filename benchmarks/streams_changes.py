"""How soon a running worker folds a new tenant's records, and evaluates a new rule.

A tenant's topics are counted from the moment the broker has made them, a rule from its acknowledgement; the worker is
asked for its metrics every 20 ms. Meanwhile it folds nothing else.
"""

import time
from collections.abc import Callable, Collection
from statistics import median
from typing import Final

from benchmarks.choice import Figures
from benchmarks.peers.race import SpoiltError
from benchmarks.peers.ticks import BEGIN
from benchmarks.streams_cost import Load
from benchmarks.streams_stand import EXCHANGE, Stand, Worker
from benchmarks.table import show
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka

PARTS: Final = ("changes",)
PARTITIONS: Final = 3
TIMES: Final = 10
_LOOK: Final = 0.02
_PATIENCE: Final = 60.0


def run(broker: EmbeddedKafka, parts: Collection[str], rounds: int | None, *, quick: bool) -> Figures:
    """Measure if it is among the parts, print a table, and return the figures: the slowest of all."""
    if not set(PARTS) & set(parts):
        return {}
    times = rounds or (2 if quick else TIMES)
    try:
        with Stand.on(broker, PARTITIONS) as stand:
            stand.tenants(["before"])
            with stand.workers(1) as (worker,):
                topics = [_new_topic(stand, worker, number) for number in range(times)]
                rules = [_new_rule(stand, worker, number) for number in range(times)]
    except SpoiltError as error:
        return {"new_topic_s": None, "rule_in_force_s": None, "new_topic_s_reason": str(error)}
    rows = [_row("a new tenant's first record", topics), _row("a new rule", rules)]
    show("until a running worker acts on a change", ("change", "median, s", "most, s", "times"), rows)
    return {"new_topic_s": max(topics), "rule_in_force_s": max(rules)}


def _new_topic(stand: Stand, worker: Worker, number: int) -> float:
    load = Load(1, 1.0)
    tenant, before = f"new-{number}", worker.folded()
    stand.subscribe([(tenant, load.subscriptions()[0][1])])
    stand.tenants([tenant])
    began = time.monotonic()
    stand.write((tenant_topic(tenant, "ticks"), key, value) for _, key, value in load.ticks(BEGIN))
    return _until(lambda: worker.folded() > before, began, "the first record of a new tenant")


def _new_rule(stand: Stand, worker: Worker, number: int) -> float:
    def known() -> float:
        return worker.figures().get("pulsestream_stream_rules", 0.0)

    before = known()
    condition = {"type": "price", "above": 110.0}
    stand.rule("new-0", {"name": f"rule {number}", "product": "*", "exchange": EXCHANGE, "condition": condition})
    return _until(lambda: known() > before, time.monotonic(), "a new rule")


def _until(done: Callable[[], bool], began: float, what: str) -> float:
    while not done():
        if time.monotonic() - began > _PATIENCE:
            raise SpoiltError(f"{what}: nothing after {_PATIENCE:.0f} s")
        time.sleep(_LOOK)
    return time.monotonic() - began


def _row(change: str, seconds: Collection[float]) -> tuple[str, ...]:
    return (change, f"{median(seconds):.2f}", f"{max(seconds):.2f}", str(len(seconds)))
