"""How long stored records took, in the sink's histogram."""

from collections.abc import Iterator

import pytest
from prometheus_client import Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pulsestream.core.metrics import REGISTRY, SINK_STAGE_SECONDS
from schemas.codec import codec
from schemas.records import Record
from sinks import timing
from sinks.intake import take_in
from sinks.rows import Arrived, Row, read
from tests.support.sinking import START, alert, event, stat, taken, tick, trade

STAGES = ("exchange_to_receipt", "receipt_to_append", "append_to_commit", "exchange_to_commit")


@pytest.fixture(autouse=True)
def nothing_counted_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(SINK_STAGE_SECONDS, "_counts", {})
        patched.setattr(SINK_STAGE_SECONDS, "_sums", {})
        yield


def row(dataset: str, record: Record, appended_at: int) -> Row:
    made = read(Arrived(f"ps.acme.{dataset}.v1", 0, 0, appended_at, None, codec(type(record)).encode(record)), START)
    assert isinstance(made, Row)
    return made


def told(dataset: str, stage: str) -> tuple[list[float], float]:
    """Return the cumulative counts of a stage as a scrape gives them, and its sum."""
    named = {"dataset": dataset, "stage": stage}
    families = text_string_to_metric_families(generate_latest(REGISTRY).decode())
    [family] = [family for family in families if family.name == "pulsestream_sink_stage_seconds"]
    own = [sample for sample in family.samples if named.items() <= sample.labels.items()]
    counts = [sample.value for sample in own if sample.name.endswith("_bucket")]
    return counts, next(sample.value for sample in own if sample.name.endswith("_sum"))


@pytest.mark.parametrize("micros", [0, 1, 999, 1_000, 1_001, 59_999_999, 60_000_000, 60_000_001, 10**15])
def test_a_time_falls_into_the_buckets_that_prometheus_client_gives_it(micros: int) -> None:
    oracle = Histogram("oracle", "", buckets=SINK_STAGE_SECONDS.BOUNDS, registry=None)
    oracle.observe(micros / 1e6)
    expected = [sample.value for sample in next(iter(oracle.collect())).samples if sample.name == "oracle_bucket"]

    timing.observe({"stats": [row("stats", stat(1, 1), START)]}, START + micros)

    assert told("stats", "append_to_commit") == (expected, micros / 1e6)


@pytest.mark.parametrize(
    ("dataset", "record"), [("ticks", tick(1)), ("trades", trade(1)), ("events", event(1))], ids=str
)
def test_each_stage_of_what_comes_from_outside_is_told(dataset: str, record: Record) -> None:
    happened = getattr(record, "exchange_time", None) or record.time  # type: ignore[union-attr]
    received = record.received_time  # type: ignore[union-attr]

    timing.observe({dataset: [row(dataset, record, received + 2_000)]}, received + 5_000)

    sums = [told(dataset, stage)[1] for stage in STAGES]
    assert sums == [(received - happened) / 1e6, 0.002, 0.003, (received + 5_000 - happened) / 1e6]


def test_rows_by_columns_are_counted_as_rows_one_by_one() -> None:
    ticks = [tick(number) for number in range(100)]
    arrived = [
        Arrived("ps.acme.ticks.v1", 0, number, START + 200_000, None, codec(type(each)).encode(each))
        for number, each in enumerate(ticks)
    ]
    timing.observe({"ticks": [row("ticks", each, START + 200_000) for each in ticks]}, START + 300_000)
    one_by_one = {stage: told("ticks", stage) for stage in STAGES}

    timing.observe(take_in([taken(*arrived)], START).rows, START + 300_000)

    both = {stage: told("ticks", stage) for stage in STAGES}
    assert both == {
        stage: ([2 * count for count in counts], pytest.approx(2 * seconds))
        for stage, (counts, seconds) in one_by_one.items()
    }
    assert both["exchange_to_commit"][0][-1] == 200


def test_clocks_that_disagree_give_no_negative_time() -> None:
    timing.observe({"alerts": [row("alerts", alert(1), START)]}, START - 5_000_000)

    counts, seconds = told("alerts", "append_to_commit")
    assert (counts[0], seconds) == (1, 0)
