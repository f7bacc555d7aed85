"""The quick checks of ticks and trades never take what the plain ones refuse, and the plain ones word every fault."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import validate
from schemas.records import Tick, Trade
from schemas.validate import check
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


@pytest.mark.parametrize("record", [TICK, TRADE])
def test_a_sound_record_is_seen_as_such_at_once(record: Tick | Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    for plain in ("_check_tick", "_check_trade"):
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
