"""Rows by columns against rows one by one: the same bytes to COPY, the same refusals."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import codec
from schemas.columns import Octets
from schemas.records import Tick, Trade
from sinks import intake
from sinks.column_rows import ColumnRows, all_moments, copy_stream
from sinks.copy_binary import encode_row, packers, stream
from sinks.copy_columns import Column, Numbers, Texts, encode
from sinks.intake import Read, one_by_one, take_in
from sinks.rows import MAX_FUTURE, Row
from sinks.tables import BY_DATASET
from sinks.taken import Taken
from tests.support.valued import NOW, TICK, TRADE, changes, damaged

PRODUCTS = [("coinbase", "BTC-USD"), ("kraken", "ETH/EUR"), ("x-mine", "A")]
FRAMED: dict[str, Tick | Trade] = {"ticks": TICK, "own-ticks": TICK, "trades": TRADE}
TOPICS = [f"ps.{tenant}.{dataset}.v1" for tenant in ("acme", "a-tenant-with-a-long-name") for dataset in FRAMED]


def taken(topic: str, values: Sequence[bytes | None], first: int = 0) -> Taken:
    """Return values as records of a topic's partition 1."""
    offsets = range(first, first + len(values))
    times = [NOW + 1000 * offset for offset in offsets]
    return Taken(topic, 1, offsets, times, values, lambda place: (b"key %d" % place, (("ce_id", b"%d" % place),)))


def by_columns(records: Sequence[Taken], now: int = NOW) -> Read:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "CROSSOVER", 0)
        return take_in(records, now)


def by_rows(records: Sequence[Taken], now: int = NOW) -> Read:
    done = Read()
    one_by_one(done, records, now)
    return done


def shown(done: Read) -> tuple[Any, ...]:
    """Return all that matters of what became of records; refusals of different tables have no order.

    Some messages name an object's address, so they cannot be compared.
    """
    rows = {table: (copy_stream(rows), [*rows]) for table, rows in done.rows.items()}
    refused = sorted(
        ((each.arrived, each.code) for each in done.refused), key=lambda each: (each[0].topic, each[0].offset)
    )
    return rows, refused, done.removed


@st.composite
def values(draw: st.DrawFn, dataset: str) -> bytes | None:
    """The bytes of a record of one of three products: sound, without some fields, with faulty ones, or damaged."""
    exchange, product = draw(st.sampled_from(PRODUCTS))
    number = draw(st.integers(1, 9))
    named = {"exchange": exchange, "product": product, "event_id": f"{exchange}:{product}:{number}"}
    record = msgspec.structs.replace(FRAMED[dataset], **named)
    optional = [info.name for info in msgspec.structs.fields(type(record)) if not info.required]
    missing = dict.fromkeys(draw(st.sets(st.sampled_from(optional))))
    faults = draw(st.just({}) | st.just(missing) | changes(type(record)))
    try:
        value = codec(type(record)).encode(msgspec.structs.replace(record, **faults))
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        return None
    return draw(st.just(value) | st.just(value) | st.just(value) | damaged(value))


@st.composite
def batches(draw: st.DrawFn) -> list[Taken]:
    """Records of several topics, of two tenants."""
    topics = draw(st.lists(st.sampled_from(TOPICS), unique=True, min_size=1, max_size=4))
    sizes = [draw(st.integers(1, 6)) for _ in topics]
    return [
        taken(topic, [draw(values(topic.split(".")[2])) for _ in range(size)])
        for topic, size in zip(topics, sizes, strict=True)
    ]


@given(batches(), st.sampled_from([0, -MAX_FUTURE, -MAX_FUTURE - 1, 10**12]))
def test_columns_give_the_rows_and_refusals_that_rows_give(records: list[Taken], later: int) -> None:
    assert shown(by_columns(records, NOW + later)) == shown(by_rows(records, NOW + later))


@given(batches(), st.data())
def test_any_part_of_the_rows_is_a_copy_stream_of_their_own(records: list[Taken], data: st.DataObject) -> None:
    for rows in by_columns(records).rows.values():
        start, stop = (data.draw(st.integers(0, len(rows))) for _ in range(2))

        part = rows[start:stop]

        assert all_moments(part).tolist() == all_moments([*rows][start:stop]).tolist()
        assert copy_stream(part) == stream(row.encoded for row in [*rows][start:stop])
        assert [*part] == [*rows][start:stop]


@pytest.mark.parametrize("dataset", FRAMED)
def test_sound_records_are_encoded_together(dataset: str) -> None:
    exchange = "x-mine" if dataset == "own-ticks" else "coinbase"
    record = msgspec.structs.replace(FRAMED[dataset], exchange=exchange, event_id=f"{exchange}:BTC-USD:1")
    records = taken(f"ps.acme.{dataset}.v1", [codec(type(record)).encode(record)] * 3)

    rows = by_columns([records]).rows[BY_DATASET[dataset].name]

    assert isinstance(rows, ColumnRows)
    assert rows.places.tolist() == [0, 1, 2]
    assert rows.moments.T.tolist() == [[record.exchange_time, record.received_time, NOW + 1000 * at] for at in range(3)]
    assert rows[1] == by_rows([records]).rows[BY_DATASET[dataset].name][1]


def test_few_records_are_read_one_by_one_and_many_by_columns() -> None:
    value = codec(Tick).encode(TICK)

    few, many = (
        take_in([taken(TOPICS[0], [value] * size)], NOW).rows["ticks"]
        for size in (intake.CROSSOVER - 1, intake.CROSSOVER)
    )

    assert not isinstance(few, ColumnRows)
    assert isinstance(many, ColumnRows)


def test_records_are_read_one_by_one_where_their_columns_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise FloatingPointError

    monkeypatch.setattr(intake, "encode", fail)
    records = taken(TOPICS[0], [codec(Tick).encode(TICK), b"noise"] * intake.CROSSOVER)

    done = take_in([records], NOW)

    assert shown(done) == shown(by_rows([records]))


NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=63)
TYPED: dict[str, st.SearchStrategy[Any]] = {
    "text": NAMES,
    "double precision": st.floats(),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
    "timestamptz": st.integers(-(10**15), 4 * 10**15),
}
ROOM = ["timestamptz"] * 8
"""What stands behind the columns, so that there is room for the longest text."""


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Any], list[list[Any]]]:
    """Kinds of columns and rows of values."""
    kinds = draw(st.lists(st.sampled_from(sorted(TYPED)), max_size=8))
    full = [draw(st.booleans()) for _ in kinds]
    rows = [
        [draw(TYPED[kind] if whole else st.none() | TYPED[kind]) for kind, whole in zip(kinds, full, strict=True)]
        for _ in range(draw(st.integers(0, 5)))
    ]
    return [*kinds, *ROOM], [[*row, *range(len(ROOM))] for row in rows]


def column(kind: Any, values: list[Any]) -> Column:
    known = np.array([value is not None for value in values], np.bool_)
    if kind != "text":
        kinds = {"double precision": np.float64, "boolean": np.bool_}
        return Numbers(
            kind, np.array([0 if value is None else value for value in values], kinds.get(kind, np.int64)), known
        )
    texts = [(value or "").encode() for value in values]
    sizes = np.array([len(text) for text in texts], np.int64)
    return Texts(Octets(texts), np.cumsum(sizes) - sizes, sizes, known)


@given(tables())
def test_any_columns_become_the_rows_that_the_row_encoder_makes(made: tuple[list[Any], list[list[Any]]]) -> None:
    kinds, rows = made

    encoded = encode([column(kind, [row[place] for row in rows]) for place, kind in enumerate(kinds)], len(rows))

    expected = [encode_row(packers(kinds), row) for row in rows]
    assert encoded.octets == b"".join(expected)
    assert np.diff(encoded.bounds).tolist() == [len(row) for row in expected]


def test_a_row_without_room_for_the_longest_text_is_refused_and_not_written_over() -> None:
    texts = [column("text", ["x" * 40, "y"])]

    with pytest.raises(ValueError, match="no room"):
        encode(texts, 2)


def test_a_row_of_another_kind_asked_for_by_index_is_the_one_read_by_itself() -> None:
    odd = msgspec.structs.replace(TICK, event_id="coinbase:BTC-USD:é")
    records = taken(TOPICS[0], [codec(Tick).encode(each) for each in (TICK, odd, TICK)])

    rows = by_columns([records]).rows["ticks"]

    assert [row.record for row in rows] == [TICK, odd, TICK]
    assert all(isinstance(row, Row) for row in rows)
