"""What the API and the relay decide without touching anything: searches, topics, what is published already."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cursor import Position
from api.outbox_publisher import Confirmed, OutboxRow, already_published
from api.reconciler import Wanted, plan_topics, wrong_partitions
from api.search.plan import SearchError, SearchRequest, order_key, plan
from pulsestream.core.kafka import TopicInfo, TopicSpec
from pulsestream.core.topics import OUTPUT_DATASETS, RULES, tenant_topic
from schemas.codec import codec
from schemas.records import Rule

# ---- searches ----


def filters(request: SearchRequest, behind: Position | None = None) -> dict[str, tuple[str, ...]]:
    return {part.dataset.name: part.filters for part in plan(request, behind)}


def test_ticks_and_events_are_searched_together_by_default() -> None:
    assert filters(SearchRequest()) == {"ticks": (), "events": ()}


def test_a_field_that_only_one_of_the_default_datasets_has_leaves_the_other_out() -> None:
    assert list(filters(SearchRequest(fields={"type": "a"}))) == ["events"]
    assert list(filters(SearchRequest(fields={"exchange": "coinbase"}))) == ["ticks"]


@pytest.mark.parametrize(
    ("request_", "parameter", "words"),
    [
        (SearchRequest("bogus"), "dataset", "alerts, bars, events, stats, ticks, trades"),
        (SearchRequest("trades", {"period": "1m"}), "period", "trades have no period"),
        (SearchRequest("ticks", {"type": "a"}), "type", "ticks have no type"),
        (SearchRequest(None, {"type": "a", "exchange": "b"}), "dataset", "type and exchange"),
        (SearchRequest(from_time=5, to_time=5), "to", "after from"),
    ],
)
def test_an_impossible_search_says_what_to_change(request_: SearchRequest, parameter: str, words: str) -> None:
    with pytest.raises(SearchError, match=words) as raised:
        plan(request_, None)

    assert raised.value.parameter == parameter


def test_behind_a_row_each_dataset_goes_on_where_the_walk_stands() -> None:
    tick, event = Position(10, "ticks", "a"), Position(10, "events", "a")

    assert filters(SearchRequest(), event) == {"ticks": ("filter_at_or_behind",), "events": ("filter_behind",)}
    assert filters(SearchRequest(), tick) == {"ticks": ("filter_behind",), "events": ("filter_strictly_behind",)}
    ascending = SearchRequest(ascending=True)
    assert filters(ascending, tick) == {"ticks": ("filter_behind",), "events": ("filter_at_or_behind",)}
    assert filters(ascending, event) == {"ticks": ("filter_strictly_behind",), "events": ("filter_behind",)}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ticks", "events"])), unique=True, min_size=2), st.booleans()
)
def test_the_merge_order_is_by_time_and_the_same_backwards(rows: list[tuple[int, str]], up: bool) -> None:  # noqa: FBT001 - drawn
    ordered = sorted(rows, key=lambda row: order_key(*row, ascending=up))
    times = [time for time, _ in ordered]

    assert all((a <= b) if up else (a >= b) for a, b in pairwise(times))
    assert sorted(rows, key=lambda row: order_key(*row, ascending=not up)) == ordered[::-1]


# ---- topics ----


def wanted(tenant: str, *datasets: str, partitions: int = 3) -> list[Wanted]:
    return [Wanted(tenant, dataset, TopicSpec(tenant_topic(tenant, dataset), partitions, {})) for dataset in datasets]


def test_outputs_are_made_before_inputs() -> None:
    made = plan_topics(wanted("acme", "alerts", "dlq", "events", "stats", "ticks"), {}, 100)

    assert {topic.dataset for topic in made.outputs} <= set(OUTPUT_DATASETS)
    assert [topic.dataset for topic in made.inputs] == ["events", "ticks"]
    assert made.refused == []


def test_a_tenant_beyond_the_budget_is_refused_whole_and_the_next_that_fits_is_served() -> None:
    asked = [*wanted("first", "stats", "ticks"), *wanted("large", "stats", "alerts", "dlq"), *wanted("small", "stats")]

    made = plan_topics(asked, {"ps.old.ticks.v1": 3, "ps._platform.rules.v1": 1}, 12)

    assert [topic.tenant for topic in made.outputs + made.inputs] == ["first", "small", "first"]
    assert {refusal.wanted.tenant for refusal in made.refused} == {"large"}
    assert "9 more partitions are needed and 9 of 12 are used" in made.refused[0].detail


def test_what_exists_already_costs_nothing() -> None:
    existing = {"ps.acme.stats.v1": 3, "ps.acme.ticks.v1": 3}

    made = plan_topics(wanted("acme", "stats", "ticks"), existing, 6)

    assert (len(made.outputs), len(made.inputs), made.refused) == (1, 1, [])


@pytest.mark.parametrize(("dataset", "refused"), [("ticks", True), ("own-ticks", True), ("events", False)])
def test_a_different_partition_count_matters_where_the_streams_rely_on_it(dataset: str, refused: bool) -> None:  # noqa: FBT001 - parametrised
    topic = wanted("acme", dataset)[0]

    assert (wrong_partitions(topic, TopicInfo(topic.spec.name, "id", 4)) is not None) is refused
    assert wrong_partitions(topic, TopicInfo(topic.spec.name, "id", 3)) is None


# ---- the outbox after a crash ----


def rule(rule_id: str, version: int) -> Rule:
    return Rule(
        rule_id=rule_id,
        tenant="acme",
        name="n",
        enabled=True,
        deleted=False,
        definition="{}",
        created_at=1,
        version=version,
    )


def row(number: int, record: Rule) -> OutboxRow:
    return OutboxRow(number, RULES, record.rule_id, codec(Rule).encode(record))


def test_a_rule_on_the_topic_is_not_published_again_and_keeps_its_first_append_time() -> None:
    waiting = [row(1, rule("a", 1)), row(2, rule("b", 1))]

    found = already_published(waiting, [(rule("a", 1), 1000), (rule("a", 1), 2000)])

    assert found == [Confirmed(waiting[0], 1000)]


def test_a_version_that_the_topic_has_passed_is_not_published_over_the_newer_one() -> None:
    waiting = [row(1, rule("a", 1)), row(2, rule("a", 2)), row(3, rule("a", 3))]

    found = already_published(waiting, [(rule("a", 2), 2000)])

    assert found == [Confirmed(waiting[0], None), Confirmed(waiting[1], 2000)]
