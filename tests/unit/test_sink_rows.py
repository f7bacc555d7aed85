"""What becomes of a record before it meets the database."""

from struct import unpack_from
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.abc import Transformer as TransformerProtocol
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format

from pulsestream.core.clock import to_datetime
from pulsestream.core.topics import FEEDS
from schemas.codec import codec
from schemas.records import Alert, DeadLetter, Event, Feed, Record, Stat, Tick
from sinks.copy_binary import HEADER, TRAILER, Kind, encode_row, packers, stream
from sinks.plan import Place, Position, as_of_rank, distinct_events, moves, newest_stats, plan, surviving
from sinks.rows import MAX_FUTURE, Arrived, Refused, Removed, Row, dead_letter, event_body, read, time_ahead
from sinks.tables import ALERTS, BY_DATASET, EVENTS, STATS, TICKS, Table
from tests.support.sinking import START, alert, event, stat, taken, tick
from tests.support.strategies import records

NOW = START + 10**9
OIDS: dict[Kind, int] = {
    "text": 25,
    "double precision": 701,
    "bigint": 20,
    "integer": 23,
    "boolean": 16,
    "timestamptz": 1184,
    "bytea": 17,
}
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    "text": st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00")),
    "double precision": st.floats(),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
    "timestamptz": st.integers(-(10**15), 4 * 10**15),
    "bytea": st.binary(),
}


def arrived(record: Record | bytes | None, dataset: str = "ticks", offset: int = 7, partition: int = 2) -> Arrived:
    value = codec(type(record)).encode(record) if isinstance(record, Record) else record
    topic = FEEDS if dataset == "feeds" else f"ps.acme.{dataset}.v1"
    return Arrived(topic, partition, offset, NOW, b"BTC-USD", value, (("ce_id", b"1"), ("empty", None)))


def row(record: Record, dataset: str, offset: int = 7) -> Row:
    reading = read(arrived(record, dataset, offset), NOW)
    assert isinstance(reading, Row), reading
    return reading


@st.composite
def typed_rows(draw: st.DrawFn) -> tuple[list[Kind], list[Any]]:
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=12))
    return kinds, [draw(st.none() | VALUES[kind]) for kind in kinds]


@given(typed_rows())
def test_rows_are_encoded_as_psycopg_encodes_them(typed: tuple[list[Kind], list[Any]]) -> None:
    kinds, values = typed

    assert encode_row(packers(kinds), values) == _psycopg_row(kinds, values)


def _psycopg_row(kinds: list[Kind], values: list[Any]) -> bytes:
    transformer: TransformerProtocol = Transformer()
    transformer.set_dumper_types([OIDS[kind] for kind in kinds], Format.BINARY)
    adapted = [
        to_datetime(value) if kind == "timestamptz" and value is not None else value
        for kind, value in zip(kinds, values, strict=True)
    ]
    fields = transformer.dump_sequence(adapted, [PyFormat.BINARY] * len(adapted))
    written = [b"\xff\xff\xff\xff" if field is None else len(field).to_bytes(4) + bytes(field) for field in fields]
    return len(fields).to_bytes(2) + b"".join(written)


def test_a_stream_is_framed_by_the_signature_and_the_trailer() -> None:
    assert stream([b"one", b"two"]) == HEADER + b"one" + b"two" + TRAILER
    assert len(HEADER) == 19


@pytest.mark.parametrize(
    ("record", "dataset", "table"),
    [
        (tick(1), "ticks", TICKS),
        (tick(1, exchange="x-desk"), "own-ticks", TICKS),
        (event(1), "events", EVENTS),
        (stat(1, 5), "stats", STATS),
        (alert(1), "alerts", ALERTS),
    ],
)
def test_a_good_record_is_a_row_with_as_many_fields_as_its_table(record: Record, dataset: str, table: Table) -> None:
    reading = row(record, dataset)

    assert (reading.tenant, reading.record) == ("acme", record)
    assert unpack_from("!h", reading.encoded) == (len(table.columns),)
    assert BY_DATASET[dataset] is table


@given(st.sampled_from([Tick, Event, Stat, Alert]).flatmap(records), st.sampled_from(sorted(BY_DATASET)))
def test_any_record_on_any_topic_is_a_row_or_refused(record: Record, dataset: str) -> None:
    reading = read(arrived(record, dataset), NOW)

    assert isinstance(reading, Row | Refused)


@given(st.none() | st.binary(max_size=80), st.sampled_from([*sorted(BY_DATASET), "feeds"]))
def test_any_bytes_on_any_topic_are_refused_or_removed(value: bytes | None, dataset: str) -> None:
    reading = read(arrived(value, dataset), NOW)

    assert isinstance(reading, Refused | Removed)
    assert reading.arrived.value == value


def test_a_topic_that_is_not_stored_is_refused() -> None:
    reading = read(Arrived("ps.acme.notes.v1", 0, 0, NOW, None, b""), NOW)

    assert isinstance(reading, Refused)
    assert reading.code == "unknown_topic"


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (tick, "exchange_time"),
        (tick, "received_time"),
        (event, "time"),
        (event, "received_time"),
    ],
)
def test_a_time_is_taken_up_to_five_minutes_ahead(made: Any, field: str) -> None:
    at = START + MAX_FUTURE

    assert time_ahead(made(1, **{field: at}), START) is None
    assert time_ahead(made(1, **{field: at + 1}), START) == at + 1


def test_a_dead_letter_carries_the_record_whole() -> None:
    refused = Refused(arrived(b"\xffnoise"), "undecodable", "not a tick: \ud800" + "x" * 1000)

    letter = dead_letter(refused, first_seen=NOW)

    assert (letter.topic, letter.partition, letter.offset) == ("ps.acme.ticks.v1", 2, 7)
    assert (letter.key, letter.value, letter.first_seen) == (b"BTC-USD", b"\xffnoise", NOW)
    assert [(header.name, header.value) for header in letter.headers] == [("ce_id", b"1"), ("empty", None)]
    assert len(letter.message) < 600
    assert codec(DeadLetter).decode(codec(DeadLetter).encode(letter)) == letter


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"received_time": START + 99}, True),
        ({"type": "other"}, False),
        ({"source": "other"}, False),
        ({"product": None}, False),
        ({"data": '{"price":1.5}'}, False),
        ({"time": START + 5}, False),
    ],
)
def test_the_body_of_an_event_is_what_its_client_gave(change: dict[str, Any], *, same: bool) -> None:
    assert (event_body(event(1)) == event_body(event(1, **change))) is same


def test_a_time_from_the_edge_is_no_part_of_the_body() -> None:
    first, retried = (event(1, time=at, received_time=at) for at in (START, START + 7))

    assert event_body(first) == event_body(retried)


def test_positions_move_past_the_last_record_of_each_partition_in_one_order() -> None:
    places = [Place("ps.acme.ticks.v1", "B", 0), Place("ps.acme.ticks.v1", "B", 1), Place("ps.beta.ticks.v1", "A", 0)]
    positions = {(place.topic, place.partition): Position(place, 5) for place in places}
    offsets = {("ps.acme.ticks.v1", 1): [5], ("ps.acme.ticks.v1", 0): [5, 9], ("ps.beta.ticks.v1", 0): [30]}

    moved = moves(
        [taken(*(Arrived(*where, offset, NOW, None, None) for offset in read)) for where, read in offsets.items()],
        positions,
    )

    assert [(move.place, move.expected, move.next_offset) for move in moved] == [
        (places[2], 5, 31),
        (places[0], 5, 10),
        (places[1], 5, 6),
    ]


def test_a_batch_is_sorted_by_table() -> None:
    position = Position(Place("ps.acme.ticks.v1", "id", 2), 7)
    own = Position(Place("ps.acme.own-ticks.v1", "id2", 2), 7)
    positions = {("ps.acme.ticks.v1", 2): position, ("ps.acme.own-ticks.v1", 2): own}

    batch = plan(
        [
            taken(arrived(tick(1)), arrived(b"noise", offset=8)),
            taken(arrived(tick(2, exchange="x-desk"), "own-ticks")),
        ],
        positions,
        NOW,
    )

    assert {table: len(rows) for table, rows in batch.rows.items()} == {"ticks": 2}
    assert [refused.arrived.offset for refused in batch.refused] == [8]


def test_the_newest_statistic_of_a_batch_is_chosen_by_as_of() -> None:
    rows = [row(stat(window, offset), "stats") for window, offset in ((1, 5), (2, 1), (1, 9), (1, 7), (2, 0))]

    chosen = newest_stats(rows)

    assert [(each.record.at, each.record.as_of.offset) for each in chosen] == [  # type: ignore[attr-defined]
        (stat(1, 0).at, 9),
        (stat(2, 0).at, 1),
    ]


def test_as_of_is_ordered_by_topic_id_then_partition_then_offset() -> None:
    ranked = [stat(1, 9, "B", 9), stat(1, 0, "a", 0), stat(1, 5, "a", 0), stat(1, 0, "a", 1), stat(1, 0, "ä", 0)]
    shuffled = [ranked[index] for index in (3, 0, 4, 2, 1)]

    assert sorted(shuffled, key=lambda each: as_of_rank(each.as_of)) == ranked


def test_the_first_event_of_an_id_stands_and_later_ones_repeat_or_contradict_it() -> None:
    sent = [event(1), event(2), event(1, received_time=START + 99), event(1, data="3")]
    rows = [row(each, "events", offset) for offset, each in enumerate(sent)]

    events = distinct_events(rows)

    assert [held.arrived.offset for held, _ in events.first.values()] == [0, 1]
    assert events.repeated == 1
    assert [(refused.arrived.offset, refused.code) for refused in events.conflicts] == [(3, "id_conflict")]


def test_a_feed_survives_only_the_null_records_before_it() -> None:
    def feed(key: bytes, offset: int, value: bytes | None) -> Row | Removed:
        reading = read(Arrived(FEEDS, 0, offset, NOW, key, value), NOW)
        assert isinstance(reading, Row | Removed)
        return reading

    value = codec(Feed).encode(Feed(exchange="coinbase", state="stale", at=START, version=1))
    rows = [feed(b"stays", 0, value), feed(b"goes", 1, value), feed(b"returns", 4, value)]
    removed = [feed(b"goes", 2, None), feed(b"returns", 3, None)]

    kept, gone = surviving(rows, removed)  # type: ignore[arg-type]

    assert [each.arrived.key for each in kept] == [b"stays", b"returns"]
    assert gone == ["goes"]
