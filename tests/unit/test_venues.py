"""The contract of every exchange: what each language must do alike, whatever its words are.

The frames and pages are written after the exchanges' documents (tests/support/venue_frames.py).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.venues.protocol import (
    Exchange,
    Malformed,
    Outcome,
    ProtocolError,
    Refused,
    Session,
    Subscriptions,
    load,
    venues,
)
from pulsestream.core.errors import UsageError
from schemas.records import Tick, Trade
from schemas.validate import PERIODS, check
from tests.support.venue_frames import PRODUCTS, SPEECHES, Candle, Print, Speech

BTC, ETH, ADA = PRODUCTS
NOW = 1_700_000_000_123_000
PRINTS = [
    Print(1_001, "37212.01", "0.00042", "buy", NOW - 3_000_000),
    Print(1_002, "37212.02", "1.5", "sell", NOW - 2_000_000),
    Print(1_003, "37211.99", "12", "sell", NOW - 2_000_000),
]
MINUTE = 60_000_000
START = NOW - NOW % MINUTE - 10 * MINUTE
CANDLES = [
    Candle(START, "37212.01", "37215.5", "37210", "37211", "1.25"),
    Candle(START + MINUTE, "37211", "37211", "37200.25", "37205.75", "0.5"),
]

pytestmark = pytest.mark.parametrize("venue", venues())


def speech(venue: str) -> Speech:
    return SPEECHES[venue]()


def heard(session: Session, frames: Sequence[str | bytes], at: int = NOW) -> list[Outcome]:
    return [outcome for frame in frames for outcome in session.receive(frame, at)]


def confirmed(outcomes: Sequence[Outcome]) -> list[frozenset[str]]:
    return [outcome.products for outcome in outcomes if isinstance(outcome, Subscriptions)]


def subscribed(venue: str, *products: str, exchange: Exchange | None = None) -> Session:
    session = (exchange or load(venue)).session()
    heard(session, speech(venue).answers(session.subscribe(products)))
    return session


def one_tick(venue: str, *, number: int = 7, price: str = "14.7775", time: int = NOW - 1_000, at: int = NOW) -> Tick:
    outcomes = heard(subscribed(venue, BTC), speech(venue).ticker(BTC, number, price, time), at)
    (tick,) = (outcome for outcome in outcomes if isinstance(outcome, Tick))
    return tick


def one_trade(venue: str, one: Print, at: int = NOW) -> Trade:
    (outcome,) = heard(subscribed(venue, BTC), [speech(venue).trade(BTC, one)], at)
    assert isinstance(outcome, Trade), outcome
    return outcome


# ---- the conversation ----


def test_every_product_is_confirmed_once_the_exchange_granted_it_whole(venue: str) -> None:
    session = load(venue).session()

    outcomes = heard(session, speech(venue).answers(session.subscribe(PRODUCTS)))

    assert confirmed(outcomes)[-1] == set(PRODUCTS)
    assert not any(isinstance(outcome, Malformed | Refused) for outcome in outcomes)


def test_a_product_asked_for_later_is_confirmed_beside_the_first(venue: str) -> None:
    session, exchange = load(venue).session(), speech(venue)

    heard(session, exchange.answers(session.subscribe([BTC])))
    outcomes = heard(session, exchange.answers(session.subscribe([ETH])))

    assert confirmed(outcomes)[-1] == {BTC, ETH}


def test_nothing_is_confirmed_before_the_exchange_answered_on_every_channel(venue: str) -> None:
    session = load(venue).session()
    frames = speech(venue).answers(session.subscribe([BTC]))

    outcomes = heard(session, frames[:-1])

    assert not any(confirmed(outcomes))


def test_an_ended_product_is_no_longer_confirmed_and_the_others_are(venue: str) -> None:
    session, exchange = load(venue).session(), speech(venue)
    heard(session, exchange.answers(session.subscribe(PRODUCTS)))

    outcomes = heard(session, exchange.answers(session.unsubscribe([ETH])))

    assert confirmed(outcomes)[-1] == {BTC, ADA}


def test_a_product_that_was_ended_and_asked_for_at_once_is_confirmed_in_the_end(venue: str) -> None:
    session, exchange = load(venue).session(), speech(venue)
    heard(session, exchange.answers(session.subscribe(PRODUCTS)))

    messages = [*session.unsubscribe([BTC]), *session.subscribe([BTC])]
    outcomes = heard(session, [*exchange.answers(messages), *exchange.ticker(BTC, 9, "14.7", NOW - 1_000)])

    assert confirmed(outcomes)[-1] == set(PRODUCTS)
    assert any(isinstance(outcome, Tick) for outcome in outcomes)


def test_a_refusal_names_its_product_and_leaves_the_others(venue: str) -> None:
    session, exchange = load(venue).session(), speech(venue)
    heard(session, exchange.answers(session.subscribe([BTC])))
    message = session.subscribe([ADA])[-1]

    (outcome,) = heard(session, [exchange.refusal(message, ADA)])

    assert isinstance(outcome, Refused)
    assert (outcome.products, outcome.fatal) == ({ADA}, False)
    assert outcome.reason


def test_a_refused_product_can_be_asked_for_again(venue: str) -> None:
    session, exchange = load(venue).session(), speech(venue)
    heard(session, [exchange.refusal(message, ADA) for message in session.subscribe([ADA])])

    outcomes = heard(session, exchange.answers(session.subscribe([ADA])))

    assert confirmed(outcomes)[-1] == {ADA}


def test_messages_are_few_short_and_name_the_exchanges_own_symbols(venue: str) -> None:
    exchange = load(venue)
    products = [f"ABCDEF{number:03}-USDT" for number in range(exchange.limits.products)]
    session = exchange.session()

    messages = session.subscribe(products)

    assert all(len(message) < 4_096 for message in messages)
    assert len(messages) / exchange.limits.messages_per_second <= 10
    text = "".join(messages).upper()
    assert all(exchange.symbol(product) in text for product in products)
    assert confirmed(heard(session, speech(venue).answers(messages)))[-1] == set(products)


def test_no_message_is_sent_for_no_product(venue: str) -> None:
    session = load(venue).session()

    assert session.subscribe([]) == session.unsubscribe([]) == []


def test_a_session_of_one_dataset_asks_for_less_and_yields_that_alone(venue: str) -> None:
    exchange, other = load(venue), speech(venue)
    both = "".join(exchange.session().subscribe([BTC]))
    frames = [*other.ticker(BTC, 7, "14.7", NOW - 1_000), other.trade(BTC, PRINTS[0])]

    for dataset, kind in (("ticks", Tick), ("trades", Trade)):
        session = exchange.session([dataset])
        messages = session.subscribe([BTC])
        outcomes = heard(session, other.answers(messages))

        assert len("".join(messages)) < len(both)
        assert confirmed(outcomes)[-1] == {BTC}
        if venue != "coinbase":
            assert {type(one) for one in heard(session, frames) if isinstance(one, Tick | Trade)} == {kind}


def test_the_other_frames_of_the_documents_are_neither_records_nor_faults(venue: str) -> None:
    session = subscribed(venue, *PRODUCTS)

    outcomes = heard(session, speech(venue).others())

    assert not any(isinstance(outcome, Tick | Trade | Malformed) for outcome in outcomes)


# ---- records ----


def test_ticks_and_trades_pass_the_validator_and_carry_the_name_of_the_exchange(venue: str) -> None:
    exchange = load(venue, "simulator")
    session, other = subscribed(venue, BTC, exchange=exchange), speech(venue)

    outcomes = heard(session, [*other.ticker(BTC, 7, "14.7775", NOW - 1_000), other.trade(BTC, PRINTS[0])])

    records = [outcome for outcome in outcomes if isinstance(outcome, Tick | Trade)]
    assert [type(record) for record in records] == [Tick, Trade]
    assert all(check(record, "ticks") is None for record in records)
    assert {record.exchange for record in records} == {"simulator"}
    assert all(record.event_id.startswith(f"simulator:{BTC}:") for record in records)


def test_a_tick_has_its_prices_quotes_and_times(venue: str) -> None:
    tick = one_tick(venue)

    assert (tick.product, tick.price, tick.exchange_time, tick.received_time) == (BTC, 14.7775, NOW - 1_000, NOW)
    assert (tick.best_bid, tick.best_bid_size, tick.best_ask, tick.best_ask_size) == (14.755, 12.5, 14.806, 0.4)
    assert (tick.high_24h, tick.low_24h, tick.volume_24h) == (16.55, 14.3691, 94381.28)


@pytest.mark.parametrize("one", PRINTS)
def test_a_trade_has_the_takers_side_and_its_id(venue: str, one: Print) -> None:
    trade = one_trade(venue, one)

    assert (trade.trade_id, trade.event_id) == (one.trade_id, f"{venue}:{BTC}:t{one.trade_id}")
    assert (trade.price, trade.size, trade.side) == (float(one.price), float(one.size), one.side)
    assert (trade.exchange_time, trade.received_time) == (one.time, NOW)


def test_an_id_is_the_same_on_every_connection_whenever_it_is_received(venue: str) -> None:
    first, second = one_tick(venue), one_tick(venue, at=NOW + 5_000_000)

    assert first.event_id == second.event_id
    assert replace_received(second, NOW) == first
    assert one_trade(venue, PRINTS[0]).event_id == one_trade(venue, PRINTS[0], NOW + 5_000_000).event_id


def replace_received(tick: Tick, at: int) -> Tick:
    return Tick(**{name: getattr(tick, name) for name in tick.__struct_fields__} | {"received_time": at})


def test_another_tick_has_another_id(venue: str) -> None:
    ticks = [one_tick(venue), one_tick(venue, number=8, price="14.7776", time=NOW)]

    assert len({tick.event_id for tick in ticks}) == 2


def test_an_id_tells_ticks_and_trades_and_exchanges_apart(venue: str) -> None:
    ids = {one_tick(venue).event_id, *(one_trade(venue, one).event_id for one in PRINTS)}

    assert len(ids) == 1 + len(PRINTS)
    assert all(identifier.startswith(f"{venue}:") for identifier in ids)


@given(st.decimals("0.00000001", "99999999", places=8), st.decimals("0.00000001", "99999999", places=7))
def test_what_is_said_survives_to_the_last_of_fifteen_digits(venue: str, price: Decimal, size: Decimal) -> None:
    said = replace(PRINTS[0], price=f"{price:.15g}", size=f"{size:.15g}")
    said = replace(said, price=f"{Decimal(said.price):f}", size=f"{Decimal(said.size):f}")

    trade = one_trade(venue, said)

    assert (Decimal(repr(trade.price)), Decimal(repr(trade.size))) == (Decimal(said.price), Decimal(said.size))


@given(st.from_regex(r"[1-9][0-9]{0,12}\.[0-9]{1,18}", fullmatch=True))
def test_a_number_of_any_length_becomes_the_double_nearest_to_its_text(venue: str, text: str) -> None:
    assert one_trade(venue, replace(PRINTS[0], size=text)).size == float(text)


@pytest.mark.parametrize("price", ["0", "-1", "1e400"])
def test_a_trade_without_a_price_is_malformed(venue: str, price: str) -> None:
    (outcome,) = heard(subscribed(venue, BTC), [speech(venue).trade(BTC, replace(PRINTS[0], price=price))])

    assert isinstance(outcome, Malformed)
    assert 0 < len(outcome.reason) <= 1_200


@pytest.mark.parametrize("frame", [b"", b"\xff", b"[]", b"null", b"{}", b"[" * 100_000, "\ud800", '{"type":7}', "7"])
def test_what_is_no_frame_is_malformed(venue: str, frame: bytes | str) -> None:
    (outcome,) = subscribed(venue, BTC).receive(frame, NOW)

    assert isinstance(outcome, Malformed)


# ---- history ----


def test_a_page_of_trades_comes_in_rising_order_whatever_the_exchanges_is(venue: str) -> None:
    rest = load(venue).rest

    for prints in (PRINTS, PRINTS[::-1]):
        trades = rest.parse_trades(BTC, speech(venue).trades_page(BTC, prints), NOW)

        assert [trade.trade_id for trade in trades] == [1_001, 1_002, 1_003]


def test_a_trade_over_rest_is_the_one_that_the_feed_gave(venue: str) -> None:
    live = [one_trade(venue, one) for one in PRINTS]

    again = load(venue).rest.parse_trades(BTC, speech(venue).trades_page(BTC, PRINTS), NOW)

    assert [without_sequence(trade) for trade in live] == again


def without_sequence(trade: Trade) -> Trade:
    return Trade(**{name: getattr(trade, name) for name in trade.__struct_fields__} | {"sequence": None})


def test_requests_of_trades_name_the_product_in_the_exchanges_way_and_a_full_page(venue: str) -> None:
    rest = load(venue).rest
    asked = [rest.trades(BTC, 1_001, NOW), rest.latest_trades(BTC), rest.trades_at(BTC, NOW)]

    for request in asked:
        if request is not None:
            assert request.path.startswith("/")
            assert str(rest.page) in request.query.values()
            assert "BTC" in f"{request}" or "XBT" in f"{request}"
    assert asked[0] != asked[1]


def test_requests_are_of_https_and_have_no_slash_too_many(venue: str) -> None:
    exchange = load(venue)

    assert exchange.rest.url.startswith("https://")
    assert not exchange.rest.url.endswith("/")
    assert exchange.url.startswith("wss://")


def test_candles_become_bars_of_the_exchange_in_rising_order(venue: str) -> None:
    bars = load(venue).rest.parse_candles(BTC, "1m", speech(venue).candles_page(BTC, CANDLES))

    assert [bar.start for bar in bars] == [one.start for one in CANDLES]
    for bar, one in zip(bars, CANDLES, strict=True):
        assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == (
            float(one.open),
            float(one.high),
            float(one.low),
            float(one.close),
            float(one.volume),
        )
        assert (bar.event_id, bar.origin) == (f"{venue}:{BTC}:1m:{one.start}:exchange", "exchange")
        assert (bar.complete, bar.period) == (False, "1m")


def test_every_period_is_one_of_the_platforms_and_can_be_asked_for(venue: str) -> None:
    rest = load(venue).rest
    requests = {f"{rest.candles(BTC, period, START, START + MINUTE)}" for period in rest.periods}

    assert rest.periods == {name: seconds for name, seconds in PERIODS.items() if name != "1s"}
    assert len(requests) == len(rest.periods)


@pytest.mark.parametrize("change", [{"low": "0"}, {"high": "1"}, {"volume": "-1"}, {"start": 0}])
def test_a_candle_that_no_market_makes_is_refused(venue: str, change: dict[str, str | int]) -> None:
    rest, page = load(venue).rest, speech(venue).candles_page(BTC, [replace(CANDLES[0], **change)])

    with pytest.raises(ProtocolError):
        rest.parse_candles(BTC, "1m", page)


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"[1]", b"[[]]", b"[" * 100_000, b"\xff", b'{"error":[]}'])
def test_a_page_that_is_none_is_a_protocol_error(venue: str, body: bytes) -> None:
    rest = load(venue).rest

    with pytest.raises(ProtocolError):
        rest.parse_trades(BTC, body, NOW)
    with pytest.raises(ProtocolError):
        rest.parse_candles(BTC, "1m", body)


def test_an_error_of_the_exchange_is_told_in_its_words(venue: str) -> None:
    body = speech(venue).error_page()
    words = next(word for word in ("NotFound", "Invalid symbol", "Unknown asset pair") if word in body.decode())

    with pytest.raises(ProtocolError) as raised:
        load(venue).rest.parse_trades("NOPE-USD", body, NOW)

    assert words in str(raised.value)


def test_an_empty_page_holds_nothing(venue: str) -> None:
    rest, other = load(venue).rest, speech(venue)

    assert rest.parse_trades(BTC, other.trades_page(BTC, []), NOW) == []
    assert rest.parse_candles(BTC, "1m", other.candles_page(BTC, [])) == []


# ---- limits ----


def test_limits_are_positive_and_leave_room_for_a_backfill(venue: str) -> None:
    limits = load(venue).limits

    assert limits.messages_per_second > 0
    assert limits.products > 0
    assert limits.connects_per_minute > 0
    assert 0 < limits.requests_per_second <= 8
    assert limits.max_age is None or 3_600 < limits.max_age < 86_400


def test_json_is_what_a_session_sends(venue: str) -> None:
    session = load(venue).session()

    assert all(isinstance(json.loads(message), dict) for message in session.subscribe(PRODUCTS))


def test_an_exchange_that_is_not_spoken_is_refused_with_those_that_are(venue: str) -> None:
    with pytest.raises(UsageError, match=venue):
        load("bitmex")
