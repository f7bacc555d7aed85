"""The one validator: what is well-formed but cannot be true is refused with a code and the offending value."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Bar, Event, Record, Tick
from schemas.validate import MAX_AHEAD, MAX_EVENT_DATA, MAX_PRICE, MAX_SIZE, PERIODS, check

NOW = 1_618_677_817_000_000


def tick(**changes: object) -> Tick:
    fields: dict[str, object] = {
        "event_id": "coinbase:BTC-USD:7",
        "exchange": "coinbase",
        "product": "BTC-USD",
        "price": 60000.0,
        "exchange_time": NOW,
        "received_time": NOW,
    }
    return Tick(**(fields | changes))  # type: ignore[arg-type]


def event(**changes: object) -> Event:
    fields: dict[str, object] = {
        "event_id": "shop:1",
        "type": "order.filled",
        "source": "shop",
        "time": NOW,
        "received_time": NOW,
        "data": "{}",
    }
    return Event(**(fields | changes))  # type: ignore[arg-type]


def code(record: Record, dataset: str = "ticks") -> str | None:
    fault = check(record, dataset)
    return None if fault is None else fault.code


def test_a_plain_tick_passes() -> None:
    assert check(tick(), "ticks") is None


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, MAX_PRICE * 1.01])
def test_a_price_that_cannot_be_is_refused(price: float) -> None:
    assert code(tick(price=price)) == "invalid_price"
    assert code(tick(best_bid=price)) == "invalid_price"


@pytest.mark.parametrize("size", [-0.1, math.nan, math.inf, 1e308])
def test_a_size_that_cannot_be_is_refused(size: float) -> None:
    assert code(tick(size=size)) == "invalid_size"
    assert code(tick(volume_24h=size)) == "invalid_size"


def test_a_size_of_zero_passes() -> None:
    assert check(tick(size=0.0), "ticks") is None


@pytest.mark.parametrize("product", ["", "btc-usd", "BTC USD", "B\0TC", "B" * 65, "BTC\n", "B" * 1_000_000])
def test_a_product_name_that_cannot_be_is_refused(product: str) -> None:
    assert code(tick(product=product, event_id=f"coinbase:{product}:7")) == "invalid_name"


def test_a_fault_shows_at_most_a_short_part_of_the_value() -> None:
    fault = check(tick(product="B" * 1_000_000), "ticks")

    assert fault is not None
    assert len(fault.message) < 300


@pytest.mark.parametrize("time", [0, -1, 2**62])
def test_a_time_outside_1970_to_2100_is_refused(time: int) -> None:
    assert code(tick(exchange_time=time)) == "invalid_time"
    assert code(event(time=time), "events") == "invalid_time"


def test_a_tick_from_the_future_would_freeze_the_clock_and_is_refused() -> None:
    assert code(tick(exchange_time=NOW + MAX_AHEAD)) is None
    assert code(tick(exchange_time=NOW + MAX_AHEAD + 1)) == "time_ahead"


def test_an_id_of_another_product_is_refused() -> None:
    assert code(tick(event_id="coinbase:ETH-USD:7")) == "invalid_id"


def test_a_tenants_own_ticks_cannot_pretend_to_be_an_exchange() -> None:
    own = tick(exchange="x-desk", event_id="x-desk:BTC-USD:7")

    assert code(own, "own-ticks") is None
    assert code(own, "ticks") == "wrong_exchange"
    assert code(tick(), "own-ticks") == "wrong_exchange"


def test_a_side_is_buy_or_sell_or_unknown() -> None:
    assert code(tick(side="buy")) is None
    assert code(tick(side=None)) is None
    assert code(tick(side="BUY")) == "invalid_side"


@pytest.mark.parametrize("data", ["", "{", "nul", "[1,]", "\ud800", "[" * 100_000])
def test_event_data_that_is_not_json_is_refused(data: str) -> None:
    assert code(event(data=data), "events") == "invalid_json"


@pytest.mark.parametrize("number", ["1e-20000", "1e20000", "-1.5E+999999", "0." + "1" * 17_000, "1" * 5_000])
def test_event_data_with_a_number_that_the_database_cannot_hold_is_refused(number: str) -> None:
    assert code(event(data=f'{{"x":{number}}}'), "events") == "invalid_json"


@pytest.mark.parametrize("number", ["1e-300", "1.7976931348623157e308", "0." + "1" * 300, "1" * 60, "-0.0"])
def test_event_data_with_a_number_that_the_database_holds_passes(number: str) -> None:
    assert check(event(data=f'{{"x":{number}}}'), "events") is None


def test_event_data_with_a_zero_character_is_refused_before_the_database_does() -> None:
    assert code(event(data='{"a":"\\u0000"}'), "events") == "invalid_json"


def test_an_escaped_backslash_before_u0000_is_no_zero_character() -> None:
    assert check(event(data='{"a":"\\\\u0000"}'), "events") is None


def test_event_data_has_a_bound() -> None:
    assert code(event(data='"' + "x" * MAX_EVENT_DATA + '"'), "events") == "too_large"


@given(st.text(max_size=20), st.floats(), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_the_validator_never_raises(text: str, number: float, time: int, other: int) -> None:
    record = tick(product=text, price=number, size=number, exchange_time=time, received_time=other, side=text)
    fault = check(record, "ticks")

    assert fault is None or fault.code


HOUR = 3_600_000_000
START = NOW // (24 * HOUR) * 24 * HOUR


def bar(**changes: object) -> Bar:
    fields: dict[str, object] = {
        "event_id": "coinbase:BTC-USD:1h:0:exchange",
        "exchange": "coinbase",
        "product": "BTC-USD",
        "period": "1h",
        "start": START,
        "open": 2.0,
        "high": 4.0,
        "low": 1.0,
        "close": 3.0,
        "volume": 0.0,
        "complete": True,
        "revision": 0,
        "origin": "exchange",
        "received_time": START + HOUR,
    }
    return Bar(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("period", PERIODS)
def test_a_plain_bar_of_any_period_passes(period: str) -> None:
    assert check(bar(period=period), "bars") is None


@pytest.mark.parametrize("name", ["open", "high", "low", "close", "vwap"])
@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf, 1e308])
def test_a_bar_with_a_price_that_cannot_be_is_refused(name: str, price: float) -> None:
    assert code(bar(**{name: price}), "bars") == "invalid_price"


@pytest.mark.parametrize("changes", [{"open": 0.5}, {"close": 0.5}, {"open": 5.0}, {"close": 5.0}, {"low": 5.0}])
def test_a_bar_whose_open_or_close_lies_beyond_its_low_and_high_is_refused(changes: dict[str, float]) -> None:
    assert code(bar(**changes), "bars") == "invalid_price"


@pytest.mark.parametrize("flat", [{"open": 1.0, "close": 4.0}, {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0}])
def test_a_bar_whose_prices_touch_its_low_and_high_passes(flat: dict[str, float]) -> None:
    assert check(bar(**flat), "bars") is None


@pytest.mark.parametrize("changes", [{"volume": -1.0}, {"volume": math.nan}, {"buy_volume": math.inf}, {"trades": -1}])
def test_a_bar_with_an_amount_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    assert code(bar(**changes), "bars") == "invalid_size"


def test_a_bar_may_turn_over_more_of_the_quote_currency_than_a_size_may_be() -> None:
    assert check(bar(quote_volume=MAX_SIZE * 100), "bars") is None
    assert code(bar(quote_volume=1e308), "bars") == "invalid_size"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"period": "2h"}, "invalid_period"),
        ({"start": START + 1}, "invalid_time"),
        ({"start": START + HOUR, "period": "1d"}, "invalid_time"),
        ({"start": -HOUR}, "invalid_time"),
        ({"received_time": 0}, "invalid_time"),
        ({"start": START + 24 * HOUR}, "time_ahead"),
        ({"origin": "guess"}, "invalid_origin"),
        ({"event_id": "coinbase:ETH-USD:1h"}, "invalid_id"),
        ({"product": "btc usd"}, "invalid_name"),
    ],
)
def test_a_bar_that_is_no_bar_is_refused(changes: dict[str, object], expected: str) -> None:
    assert code(bar(**changes), "bars") == expected
