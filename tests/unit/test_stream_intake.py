"""Records by columns against records one by one: the same rows under the same keys, the same ones left out."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import codec
from schemas.records import Tick, Trade
from streams import intake
from streams.engine.cut import KeyBatch
from streams.engine.inputs import Row, row_of
from streams.intake import Intake, Source, take_in, take_in_many, take_in_rows
from tests.support.batching import Written, block_from
from tests.support.valued import TICK, TRADE, changes, damaged

SOURCES = [Source("acme", name, f"ps.acme.{name}.v1", 0, "id") for name in ("ticks", "own-ticks", "trades")]
PRODUCTS = [("coinbase", "BTC-USD"), ("kraken", "ETH/EUR"), ("x-mine", "A")]
FRAMED = {"ticks": TICK, "own-ticks": TICK, "trades": TRADE}


def rows(taken: Intake) -> tuple[dict[tuple[str, str], list[Row]], dict[str, int], int]:
    """Return everything as rows."""
    by_key = {name: each.rows() if isinstance(each, KeyBatch) else each for name, each in taken.records.items()}
    return by_key, dict(taken.skipped), taken.next_offset


def by_columns(batches: Sequence[intake.Batch], few: int = 0) -> list[Intake]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "CROSSOVER", 0)
        patch.setattr(intake, "FEW", few)
        return take_in_many(batches)


@st.composite
def values(draw: st.DrawFn, dataset: str) -> bytes | None:
    """The bytes of a record of one of three products: sound, without a number, with faulty fields, or damaged."""
    exchange, product = draw(st.sampled_from(PRODUCTS))
    number = draw(st.integers(1, 9))
    named = {"exchange": exchange, "product": product, "event_id": f"{exchange}:{product}:{number}"}
    record = msgspec.structs.replace(FRAMED[dataset], **named)
    faults = draw(st.just({}) | st.just({"sequence": None}) | changes(type(record)))
    try:
        value = codec(type(record)).encode(msgspec.structs.replace(record, **faults))
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        return None
    return draw(st.just(value) | st.just(value) | damaged(value))


@st.composite
def batches(draw: st.DrawFn) -> list[intake.Batch]:
    """Blocks of several sources, some of whose records are of the past."""
    made = []
    for source in draw(st.lists(st.sampled_from(SOURCES), unique_by=id, min_size=1)):
        blocks, offset = [], draw(st.integers(0, 5))
        for size in draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)):
            past = draw(st.sampled_from([[], [], [], [("ps-backfill", b"1")]]))
            written = [
                Written(offset + place, 10**12 + place, b"key", draw(values(source.dataset)), past)
                for place in range(size)
            ]
            blocks.append(block_from(written))
            offset += size + draw(st.integers(0, 1))
        made.append((source, blocks))
    return made


@given(batches(), st.integers(0, 3))
def test_columns_give_what_rows_give(made: list[intake.Batch], few: int) -> None:
    assert [rows(taken) for taken in by_columns(made, few)] == [rows(take_in_rows(*batch)) for batch in made]


@given(batches())
def test_each_source_has_what_it_would_have_alone(made: list[intake.Batch]) -> None:
    assert [rows(taken) for taken in take_in_many(made)] == [rows(take_in(source, blocks)) for source, blocks in made]


@pytest.mark.parametrize("source", SOURCES)
def test_sound_records_with_numbers_come_as_columns(source: Source) -> None:
    exchange = "x-mine" if source.dataset == "own-ticks" else "coinbase"
    record = msgspec.structs.replace(FRAMED[source.dataset], exchange=exchange, event_id=f"{exchange}:BTC-USD:1")
    written = [Written(offset, 7, value=codec(type(record)).encode(record)) for offset in (3, 4)]

    [taken] = by_columns([(source, [block_from(written)])])

    batch = taken.records[exchange, "BTC-USD"]
    assert isinstance(batch, KeyBatch)
    assert batch.rows() == [row_of(record, offset, 7000) for offset in (3, 4)]


@pytest.mark.parametrize(
    "odd", [msgspec.structs.replace(TICK, sequence=None), msgspec.structs.replace(TICK, event_id="coinbase:BTC-USD:é")]
)
def test_a_key_with_an_odd_record_comes_as_rows_and_the_others_as_columns(odd: Tick) -> None:
    other = msgspec.structs.replace(TICK, product="ETH-USD", event_id="coinbase:ETH-USD:1")
    written = [Written(place, value=codec(Tick).encode(tick)) for place, tick in enumerate([TICK, odd, other, TICK])]

    [taken] = by_columns([(SOURCES[0], [block_from(written)])])

    assert taken.records["coinbase", "BTC-USD"] == [row_of(TICK, 0, 0), row_of(odd, 1, 0), row_of(TICK, 3, 0)]
    assert isinstance(taken.records["coinbase", "ETH-USD"], KeyBatch)


def test_records_are_taken_one_by_one_where_their_columns_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise FloatingPointError

    monkeypatch.setattr(intake, "find", fail)
    value = codec(Tick).encode(TICK)
    block = block_from([Written(place, value=value) for place in range(intake.CROSSOVER)])

    [taken] = take_in_many([(SOURCES[0], [block])])

    assert rows(taken) == rows(take_in_rows(SOURCES[0], [block]))
    assert taken.next_offset == intake.CROSSOVER


def test_few_records_are_read_one_by_one_and_many_by_columns() -> None:
    value = codec(Trade).encode(TRADE)
    kinds = []
    for count in (intake.CROSSOVER - 1, intake.CROSSOVER):
        taken = take_in(SOURCES[2], [block_from([Written(place, value=value) for place in range(count)])])
        kinds.append(type(taken.records["coinbase", "BTC-USD"]))

    assert kinds == [list, KeyBatch]


def test_a_key_with_few_records_comes_as_rows_among_many() -> None:
    other = msgspec.structs.replace(TRADE, product="ETH-USD", event_id="coinbase:ETH-USD:1")
    trades = [TRADE] * intake.CROSSOVER + [other] * (intake.FEW - 1)
    written = [Written(place, value=codec(Trade).encode(trade)) for place, trade in enumerate(trades)]

    taken = take_in(SOURCES[2], [block_from(written)])

    assert [type(each) for _, each in sorted(taken.records.items())] == [KeyBatch, list]


@given(st.integers(0, 2))
def test_records_of_the_past_are_left_out(past: int) -> None:
    value, marked = codec(Tick).encode(TICK), [("ps-backfill", b"1")]
    written = [Written(place, value=value, headers=[*marked] if place == past else []) for place in range(3)]

    [taken] = by_columns([(SOURCES[0], [block_from(written)])])

    assert taken.skipped == {"backfill": 1}
    assert [row.offset for row in rows(taken)[0]["coinbase", "BTC-USD"]] == [
        place for place in range(3) if place != past
    ]
