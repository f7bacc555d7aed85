"""What the API and the relay decide without touching anything: searches, topics, what is published already."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cursor import Position
from api.outbox_publisher import Confirmed, OutboxRow, already_published
from api.reconciler import Wanted, plan_topics, wrong_partitions
from api.search.plan import SearchError, SearchRequest, order_key, plan, prefix_end
from pulsestream.core.kafka import TopicInfo, TopicSpec
from pulsestream.core.topics import OUTPUT_DATASETS, RULES, tenant_topic
from schemas.codec import codec
from schemas.records import Rule

# ---- searches ----


def filters(request: SearchRequest, behind: Position | None = None) -> dict[str, tuple[str, ...]]:
    return {part.collection.name: tuple(one.query for one in part.conditions) for part in plan(request, behind)}


def test_ticks_and_events_are_searched_together_by_default() -> None:
    assert filters(SearchRequest()) == {"ticks": (), "events": ()}


def test_a_field_that_only_one_of_the_default_datasets_has_leaves_the_other_out() -> None:
    assert list(filters(SearchRequest(filters={"type": "a"}))) == ["events"]
    assert list(filters(SearchRequest(filters={"exchange": "coinbase"}))) == ["ticks"]


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


def places(request: SearchRequest, behind: Position) -> dict[str, tuple[str, int]]:
    """Return of each collection how its rows are compared with a position, and by how many columns."""
    found = {}
    for part in plan(request, behind):
        *_, last = part.conditions
        assert last.columns == part.keys[: len(last.values)]
        found[part.collection.name] = last.query, len(last.columns)
    return found


def test_behind_a_row_each_dataset_goes_on_where_the_walk_stands() -> None:
    tick, event = Position(10, "ticks", "a"), Position(10, "events", "a")

    assert places(SearchRequest(), event) == {"ticks": ("where_at_or_behind", 1), "events": ("where_behind", 2)}
    assert places(SearchRequest(), tick) == {"ticks": ("where_behind", 2), "events": ("where_behind", 1)}
    ascending = SearchRequest(ascending=True)
    assert places(ascending, tick) == {"ticks": ("where_behind", 2), "events": ("where_at_or_behind", 1)}
    assert places(ascending, event) == {"ticks": ("where_behind", 1), "events": ("where_behind", 2)}
    ingested = SearchRequest(ingested=True)
    stored = Position(10, "ticks", "a", 7)
    assert places(ingested, stored) == {"ticks": ("where_behind", 3), "events": ("where_at_or_behind", 2)}


@given(st.text(min_size=1), st.text())
def test_the_texts_with_a_prefix_are_those_from_it_up_to_its_end(prefix: str, text: str) -> None:
    end = prefix_end(prefix)

    assert text.startswith(prefix) == (text >= prefix and (end is None or text < end))
    assert prefix + text < end if end is not None else set(prefix) == {chr(0x10FFFF)}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ticks", "events"])), unique=True, min_size=2), st.booleans()
)
def test_the_merge_order_is_by_time_and_the_same_backwards(rows: list[tuple[int, str]], up: bool) -> None:  # noqa: FBT001 - drawn
    ordered = sorted(rows, key=lambda row: order_key((row[0],), row[1], ascending=up))
    times = [time for time, _ in ordered]

    assert all((a <= b) if up else (a >= b) for a, b in pairwise(times))
    assert sorted(rows, key=lambda row: order_key((row[0],), row[1], ascending=not up)) == ordered[::-1]


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
