"""The quick checks of ticks and trades never take what the plain ones refuse, and the plain ones word every fault."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import validate
from schemas.records import Tick, Trade
from schemas.validate import MAX_AHEAD, MAX_PRICE, MAX_SIZE, MAX_TIME, check

NOW = 1_618_677_817_000_000
TICK = Tick(
    event_id="coinbase:BTC-USD:7",
    exchange="coinbase",
    product="BTC-USD",
    sequence=7,
    trade_id=3,
    side="buy",
    price=60_000.0,
    size=0.1,
    best_bid=59_999.0,
    best_bid_size=1.0,
    best_ask=60_001.0,
    best_ask_size=2.0,
    quote_time=NOW,
    open_24h=1.0,
    high_24h=2.0,
    low_24h=0.5,
    volume_24h=10.0,
    volume_30d=300.0,
    exchange_time=NOW,
    received_time=NOW,
)
TRADE = Trade(
    event_id="coinbase:BTC-USD:t3",
    exchange="coinbase",
    product="BTC-USD",
    trade_id=3,
    price=60_000.0,
    size=0.1,
    side="sell",
    exchange_time=NOW,
    received_time=NOW,
    sequence=7,
)
NUMBERS = (
    st.sampled_from(
        [0.0, -0.0, 5e-324, -1.0, math.nan, math.inf, -math.inf, 1e308]
        + [math.nextafter(edge, to) for edge in (MAX_PRICE, MAX_SIZE) for to in (0, edge, math.inf)]
    )
    | st.floats()
)
TIMES = st.sampled_from(
    [0, 1, -1, MAX_TIME, MAX_TIME - 1, NOW, NOW + MAX_AHEAD, NOW + MAX_AHEAD + 1, 2**63]
) | st.integers(-(2**63), 2**63 - 1)
TEXTS = st.sampled_from(
    [
        "",
        "coinbase",
        "x-mine",
        "BTC-USD",
        "btc-usd",
        "BTC\n",
        "A" * 64,
        "A" * 65,
        "a" * 32,
        "a" * 33,
        "\ud800",
        "B" * 10_000,
    ]
) | st.text(max_size=5)
IDS = st.sampled_from(
    [
        "coinbase:BTC-USD:",
        "coinbase:BTC-USD:\0",
        "coinbase:BTC-USD:\u00a0",
        "coinbase:BTC-USD:\ud800",
        "coinbase:BTC-USDT:7",
    ]
    + ["coinbase:BTC-USD:" + "7" * length for length in (1, 239, 240, 10_000)]
) | st.text(max_size=5)
SIDES = st.sampled_from([None, "buy", "sell", "hold", "", "BUY"])


def _values(name: str) -> st.SearchStrategy[Any]:
    if name.endswith("_time"):
        return st.none() | TIMES if name == "quote_time" else TIMES
    texts = {"event_id": IDS, "exchange": TEXTS, "product": TEXTS, "side": SIDES}
    return texts.get(name, st.none() | NUMBERS if name not in {"price", "size"} else NUMBERS)


def _changes(kind: type[Tick | Trade]) -> st.SearchStrategy[dict[str, Any]]:
    names = [name for name in kind.__struct_fields__ if name not in {"sequence", "trade_id"}]
    return st.fixed_dictionaries({}, optional={name: _values(name) for name in names}).map(
        lambda drawn: dict(list(drawn.items())[:3])
    )


@given(_changes(Tick), st.booleans())
@example({"event_id": "x-a:B:1", "exchange": "x-a", "product": "B"}, True)
@example({"event_id": "x-a:B:1", "exchange": "x-a", "product": "B"}, False)
def test_a_tick_is_judged_as_by_the_plain_check(changes: dict[str, Any], own: bool) -> None:  # noqa: FBT001 - drawn
    tick = msgspec.structs.replace(TICK, **changes)

    assert check(tick, "own-ticks" if own else "ticks") == validate._check_tick(tick, own=own)


@pytest.mark.parametrize("name", [name for name in Tick.__struct_fields__ if name not in {"sequence", "trade_id"}])
@given(st.data())
def test_a_tick_with_one_field_changed_is_judged_as_by_the_plain_check(name: str, data: st.DataObject) -> None:
    tick = msgspec.structs.replace(TICK, **{name: data.draw(_values(name))})

    assert check(tick, "ticks") == validate._check_tick(tick, own=False)


@pytest.mark.parametrize("name", [name for name in Trade.__struct_fields__ if name not in {"sequence", "trade_id"}])
@given(st.data())
def test_a_trade_with_one_field_changed_is_judged_as_by_the_plain_check(name: str, data: st.DataObject) -> None:
    trade = msgspec.structs.replace(TRADE, **{name: data.draw(_values(name).filter(lambda value: value is not None))})

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
