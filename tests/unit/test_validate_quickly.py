"""The quick checks never take what the plain ones refuse, and the plain ones word every fault."""

import json
import math
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import validate
from schemas.records import Event, Tick, Trade
from schemas.validate import MAX_EVENT_DATA, MAX_TIME, check, check_event
from tests.support.valued import TICK, TRADE, changes, field_values


@given(changes(Tick), st.booleans())
@example({"event_id": "x-a:B:1", "exchange": "x-a", "product": "B"}, True)
@example({"event_id": "x-a:B:1", "exchange": "x-a", "product": "B"}, False)
def test_a_tick_is_judged_as_by_the_plain_check(changes: dict[str, Any], own: bool) -> None:  # noqa: FBT001 - drawn
    tick = msgspec.structs.replace(TICK, **changes)

    assert check(tick, "own-ticks" if own else "ticks") == validate._check_tick(tick, own=own)


@pytest.mark.parametrize("name", [name for name in Tick.__struct_fields__ if name not in {"sequence", "trade_id"}])
@given(st.data())
def test_a_tick_with_one_field_changed_is_judged_as_by_the_plain_check(name: str, data: st.DataObject) -> None:
    tick = msgspec.structs.replace(TICK, **{name: data.draw(field_values(name))})

    assert check(tick, "ticks") == validate._check_tick(tick, own=False)


@pytest.mark.parametrize("name", [name for name in Trade.__struct_fields__ if name not in {"sequence", "trade_id"}])
@given(st.data())
def test_a_trade_with_one_field_changed_is_judged_as_by_the_plain_check(name: str, data: st.DataObject) -> None:
    trade = msgspec.structs.replace(
        TRADE, **{name: data.draw(field_values(name).filter(lambda value: value is not None))}
    )

    assert check(trade, "trades") == validate._check_trade(trade)


EVENT = Event(event_id="shop:1", type="a", source="shop", product="A-B", time=1, received_time=1, data='{"a":[1.5e3]}')
ODD_TEXTS = ["", ":", "a", "x" * 256, "x" * 257, "a\0", "\x7f", "é", "\u2028", "\ud800", "a:b"]
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(max_size=5)
PRODUCTS = st.none() | st.sampled_from(["BTC-USD", "", "btc", "B" * 64, "B" * 65, "A\n"]) | st.text(max_size=4)
TIMES = st.sampled_from([-1, 0, 1, MAX_TIME - 1, MAX_TIME]) | st.integers(0, 2**62)
NUMBERS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["0", "-1", "1.5", "1" * 299, "1" * 300, "9" * 401, "1." + "2" * 400, "5" * 5000]),
    st.sampled_from(["", "e", "E", "e+", "E-"]),
    st.sampled_from(["", "0", "99", "100", "400", "401", "0400", "999999999"]),
)
ODD_DATA = ["", "{", "nul", '"\\u0000"', '"\\\\u0000"', '"\ud800"', '"\x01"', "[" * 2000, "01", "1.", "NaN", '"e000"']
DATA = (
    st.sampled_from(ODD_DATA)
    | NUMBERS
    | NUMBERS.map(lambda number: f'{{"code000":[{number},"e+401"]}}')
    | st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)).map(json.dumps)
    | st.text(max_size=20)
    | st.just('"' + "x" * MAX_EVENT_DATA + '"')
)


EVENTS = st.builds(
    Event, event_id=TEXTS, type=TEXTS, source=TEXTS, product=PRODUCTS, time=TIMES, received_time=TIMES, data=DATA
)


@given(EVENTS)
def test_an_event_is_judged_as_by_the_plain_check(event: Event) -> None:
    assert check(event, "events") == validate._check_event(event)


@given(DATA)
def test_the_data_of_an_event_is_judged_as_by_the_plain_check(data: str) -> None:
    event = msgspec.structs.replace(EVENT, data=data)
    plain = validate._check_event(event)

    assert check(event, "events") == plain
    with suppress(UnicodeEncodeError):
        if validate.is_plain(data.encode()) and validate._is_json(data):
            assert check_event(event, is_sound_json=True) == plain


@pytest.mark.parametrize("record", [TICK, TRADE, EVENT])
def test_a_sound_record_is_seen_as_such_at_once(record: Tick | Trade | Event, monkeypatch: pytest.MonkeyPatch) -> None:
    for plain in ("_check_tick", "_check_trade", "_check_event"):
        monkeypatch.delattr(validate, plain)

    assert check(record, "ticks") is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name, kind in Tick.__annotations__.items() if "float" in str(kind)])
def test_no_number_of_a_tick_is_nan_or_infinite(name: str, number: float) -> None:
    assert check(msgspec.structs.replace(TICK, **{name: number}), "ticks") is not None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["price", "size"])
def test_no_number_of_a_trade_is_nan_or_infinite(name: str, number: float) -> None:
    assert check(msgspec.structs.replace(TRADE, **{name: number}), "trades") is not None


def test_names_that_cannot_be_are_not_kept() -> None:
    before = validate.id_prefix.cache_info().currsize

    for number in range(100):
        check(msgspec.structs.replace(TICK, product=f"no product {number}"), "ticks")

    assert validate.id_prefix.cache_info().currsize == before
