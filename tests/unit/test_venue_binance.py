"""Binance's language: what is its own, beside the contract of every exchange.

The recording is of Binance US and holds bookTicker, aggTrade, kline and depth; `trade`, `24hrTicker`, confirmations,
errors, `serverShutdown` and REST pages are written after the exchange's documents ("WebSocket Streams for Binance",
"Public Rest API for Binance").
"""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from producers.venues.binance import BinanceExchange, BinanceSession
from producers.venues.protocol import (
    Closing,
    Heartbeat,
    Ignored,
    Malformed,
    Outcome,
    Refused,
    RestRequest,
    Subscriptions,
    load,
)
from schemas.codec import codec
from schemas.records import Bar, Tick, Trade

NOW = 1_672_515_783_000_000
TRADE: dict[str, Any] = {
    "e": "trade",
    "E": 1672515782136,
    "s": "BNBBTC",
    "t": 12345,
    "p": "0.001",
    "q": "100",
    "T": 1672515782135,
    "m": True,
    "M": True,
}
AGGREGATE: dict[str, Any] = {
    "e": "aggTrade",
    "E": 1672515782136,
    "s": "BNBBTC",
    "a": 12345,
    "p": "0.001",
    "q": "100",
    "f": 100,
    "l": 105,
    "T": 1672515782136,
    "m": False,
    "M": True,
}
TICKER: dict[str, Any] = {
    "e": "24hrTicker",
    "E": 1672515782136,
    "s": "BNBBTC",
    "p": "0.0015",
    "P": "250.00",
    "w": "0.0018",
    "x": "0.0009",
    "c": "0.0025",
    "Q": "10",
    "b": "0.0024",
    "B": "10",
    "a": "0.0026",
    "A": "100",
    "o": "0.0010",
    "h": "0.0025",
    "l": "0.0010",
    "v": "10000",
    "q": "18",
    "O": 0,
    "C": 86400000,
    "F": 0,
    "L": 18150,
    "n": 18151,
}
QUOTE: dict[str, Any] = {"u": 400900217, "s": "BNBBTC", "b": "0.00241", "B": "31.21", "a": "0.00259", "A": "40.66"}
RECORDED = ("OMG-BUSD", "COMP-USDT", "ZRX-USDT", "CRV-USDT")


def session(*products: str, aggregate: bool = False) -> BinanceSession:
    made = BinanceExchange(aggregate_trades=aggregate).session()
    for message in made.subscribe(products or ["BNB-BTC"]):
        made.receive(json.dumps({"result": None, "id": json.loads(message)["id"]}), NOW)
    return made


def hear(speaker: BinanceSession, stream: str, data: dict[str, Any], at: int = NOW) -> Outcome:
    (outcome,) = speaker.receive(json.dumps({"stream": f"bnbbtc@{stream}", "data": data}), at)
    return outcome


def tick(speaker: BinanceSession, **changes: object) -> Tick:
    outcome = hear(speaker, "ticker", TICKER | changes)
    assert isinstance(outcome, Tick), outcome
    return outcome


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> list[tuple[int, str]]:
    lines = (shared_data / "binance" / "2021-10-12-us.frames").read_text("utf-8").splitlines()
    return [(int(Decimal(stamp) * 1_000_000), text) for stamp, _, text in (line.partition(" ") for line in lines)]


# ---- ticks ----


def test_a_tick_is_the_days_ticker_with_the_newest_quotes_of_its_connection() -> None:
    speaker = session()

    hear(speaker, "bookTicker", QUOTE | {"b": "0.00240"})
    assert hear(speaker, "bookTicker", QUOTE) == Ignored("bookTicker", alive=True)

    assert tick(speaker) == Tick(
        event_id="binance:BNB-BTC:1672515782136",
        exchange="binance",
        product="BNB-BTC",
        sequence=1672515782136,
        trade_id=18150,
        price=0.0025,
        size=10.0,
        best_bid=0.00241,
        best_bid_size=31.21,
        best_ask=0.00259,
        best_ask_size=40.66,
        open_24h=0.001,
        high_24h=0.0025,
        low_24h=0.001,
        volume_24h=10000.0,
        exchange_time=1672515782136000,
        received_time=NOW,
    )


def test_before_the_first_quotes_a_tick_has_those_of_the_ticker_itself() -> None:
    made = tick(session())

    assert (made.best_bid, made.best_bid_size, made.best_ask, made.best_ask_size) == (0.0024, 10.0, 0.0026, 100.0)


def test_quotes_of_one_connection_or_product_never_reach_another() -> None:
    one, other = session("BNB-BTC", "BTC-USDT"), session()
    quote = {"stream": "btcusdt@bookTicker", "data": QUOTE | {"s": "BTCUSDT", "b": "9"}}

    one.receive(json.dumps(quote), NOW)
    hear(one, "bookTicker", QUOTE)

    assert (tick(one).best_bid, tick(other).best_bid) == (0.00241, 0.0024)


def test_quotes_of_zero_are_unknown_and_so_are_their_sizes() -> None:
    speaker = session()

    hear(speaker, "bookTicker", QUOTE | {"b": "0.00000000", "B": "0.00000000"})
    made = tick(speaker)

    assert (made.best_bid, made.best_bid_size, made.best_ask) == (None, None, 0.00259)


@pytest.mark.parametrize("change", [{"b": "-1"}, {"b": "nan"}, {"A": "inf"}, {"a": "x"}, {"b": []}, {"s": "BTCUSDT"}])
def test_broken_quotes_are_malformed_and_leave_the_last_good_ones(change: dict[str, object]) -> None:
    speaker = session()
    hear(speaker, "bookTicker", QUOTE)

    assert isinstance(hear(speaker, "bookTicker", QUOTE | change), Malformed)
    assert tick(speaker).best_bid == 0.00241


def test_a_product_that_never_traded_is_no_tick_but_a_sign_of_life() -> None:
    outcome = hear(session(), "ticker", TICKER | {"c": "0.00000000", "L": -1, "n": 0})

    assert outcome == Ignored("ticker without a trade", alive=True)


def test_a_day_without_trades_has_no_last_trade() -> None:
    assert tick(session(), L=-1, F=-1, n=0).trade_id is None


@pytest.mark.parametrize(
    "change",
    [
        {"E": None},
        {"E": -1},
        {"E": 1672515782136000},
        {"E": 1672515782136 + 12_000},
        {"c": "nan"},
        {"Q": "-1"},
        {"L": 2**63},
        {"h": "inf"},
        {"s": "BNBUSDT"},
        {"s": None},
    ],
)
def test_a_ticker_that_no_validator_takes_is_malformed(change: dict[str, object]) -> None:
    assert isinstance(hear(session(), "ticker", TICKER | change), Malformed)


# ---- trades ----


def test_a_trade_whose_buyer_was_there_first_is_a_sale() -> None:
    outcomes = [hear(session(), "trade", TRADE | {"m": buyer_was_maker}) for buyer_was_maker in (True, False)]

    assert [outcome.side for outcome in outcomes if isinstance(outcome, Trade)] == ["sell", "buy"]


def test_a_trade_has_the_time_of_the_trade_and_not_that_of_the_frame() -> None:
    outcome = hear(session(), "trade", TRADE)

    assert isinstance(outcome, Trade)
    assert (outcome.exchange_time, outcome.event_id) == (1672515782135000, "binance:BNB-BTC:t12345")


def test_aggregated_trades_have_ids_of_their_own() -> None:
    outcome = hear(session(aggregate=True), "aggTrade", AGGREGATE)

    assert isinstance(outcome, Trade)
    assert (outcome.trade_id, outcome.event_id, outcome.side) == (12345, "binance:BNB-BTC:a12345", "buy")


def test_the_two_series_of_trades_never_mix() -> None:
    single, aggregated = session(), session(aggregate=True)

    assert hear(single, "aggTrade", AGGREGATE) == Ignored("aggTrade", alive=True)
    assert hear(aggregated, "trade", TRADE) == Ignored("trade", alive=True)
    assert "@trade" not in "".join(aggregated.subscribe(["BTC-USDT"]))


# ---- the conversation ----


def test_a_product_takes_three_streams_and_names_its_symbol_in_small_letters() -> None:
    _, message = load("binance").session().subscribe(["BTC-USDT"])

    assert json.loads(message) == {
        "method": "SUBSCRIBE",
        "params": ["btcusdt@bookTicker", "btcusdt@ticker", "btcusdt@trade"],
        "id": 1,
    }


def test_one_stream_more_tells_a_quiet_connection_from_a_dead_one() -> None:
    speaker = load("binance").session()

    beat, _ = speaker.subscribe(["OMG-BUSD"])
    (outcome,) = speaker.receive('{"stream":"btcusdt@miniTicker","data":{"e":"24hrMiniTicker","E":1672515782136}}', NOW)

    assert json.loads(beat)["params"] == ["btcusdt@miniTicker"]
    assert outcome == Heartbeat(None, 1672515782136000)
    assert len(speaker.subscribe(["CRV-USDT"])) == 1
    assert "btcusdt@miniTicker" not in "".join(speaker.unsubscribe(["BTC-USDT", "OMG-BUSD", "CRV-USDT"]))


@pytest.mark.parametrize("answer", ['{"result":null,"id":%d}', '{"code":2,"msg":"invalid stream","id":%d}'])
def test_the_answer_to_that_stream_concerns_no_product_and_no_connection(answer: str) -> None:
    speaker = load("binance").session()
    beat, _ = speaker.subscribe(["OMG-BUSD"])

    (outcome,) = speaker.receive(answer % json.loads(beat)["id"], NOW)

    assert outcome == Ignored("answer to the heartbeat")


def test_a_full_connection_stays_within_the_exchanges_streams() -> None:
    exchange = load("binance")
    products = [f"A{number}-USDT" for number in range(exchange.limits.products)]

    streams = [name for message in exchange.session().subscribe(products) for name in json.loads(message)["params"]]

    assert len(set(streams)) == len(streams) == 1_024


def test_dollars_are_never_tethers() -> None:
    speaker = session("BTC-USD")

    (outcome,) = speaker.receive(json.dumps({"stream": "btcusdt@trade", "data": TRADE | {"s": "BTCUSDT"}}), NOW)

    assert outcome == Ignored("trade", alive=True)
    assert BinanceExchange().symbol("BTC-USDT") == "BTCUSDT"


def test_a_name_that_makes_the_symbol_of_another_product_takes_nothing_from_it() -> None:
    speaker = session("BTC-USDT")

    (message,) = speaker.subscribe(["BT-CUSDT"])
    (confirmed,) = speaker.receive(json.dumps({"result": None, "id": json.loads(message)["id"]}), NOW)
    both = speaker.receive(json.dumps({"stream": "btcusdt@trade", "data": TRADE | {"s": "BTCUSDT"}}), NOW)
    ended = speaker.unsubscribe(["BT-CUSDT"])
    (left,) = speaker.receive(json.dumps({"stream": "btcusdt@trade", "data": TRADE | {"s": "BTCUSDT"}}), NOW)

    assert confirmed == Subscriptions(frozenset({"BTC-USDT", "BT-CUSDT"}))
    assert {outcome.product for outcome in both if isinstance(outcome, Trade)} == {"BTC-USDT", "BT-CUSDT"}
    assert ended == []
    assert isinstance(left, Trade)
    assert left.product == "BTC-USDT"


def test_a_frame_whose_stream_and_data_name_two_symbols_is_malformed() -> None:
    assert isinstance(hear(session(), "trade", TRADE | {"s": "BTCUSDT"}), Malformed)


def test_what_still_arrives_of_an_ended_product_is_ignored() -> None:
    speaker = session()
    speaker.unsubscribe(["BNB-BTC"])

    assert hear(speaker, "trade", TRADE) == Ignored("trade", alive=True)


def test_a_product_that_is_asked_for_again_does_not_begin_with_old_quotes() -> None:
    speaker = session()
    hear(speaker, "bookTicker", QUOTE)

    speaker.unsubscribe(["BNB-BTC"])
    speaker.subscribe(["BNB-BTC"])

    assert tick(speaker).best_bid == 0.0024


def test_a_refusal_that_comes_after_the_end_of_its_product_is_no_fault() -> None:
    speaker = session()
    (message,) = speaker.subscribe(["BTC-USDT"])
    speaker.unsubscribe(["BTC-USDT"])

    (outcome,) = speaker.receive(json.dumps({"code": 4, "msg": "no", "id": json.loads(message)["id"]}), NOW)

    assert outcome == Refused("4: no", frozenset({"BTC-USDT"}))


def test_a_refusal_to_ask_twice_does_not_end_what_was_confirmed() -> None:
    speaker = session()
    (message,) = speaker.subscribe(["BNB-BTC"])

    speaker.receive(json.dumps({"code": 4, "msg": "no", "id": json.loads(message)["id"]}), NOW)

    assert isinstance(hear(speaker, "trade", TRADE), Trade)


def test_an_answer_to_a_message_that_was_never_sent_changes_nothing() -> None:
    speaker = session()

    assert speaker.receive('{"result":null,"id":77}', NOW) == (Ignored("result"),)
    assert speaker.receive('{"result":null,"id":"x"}', NOW) == (Ignored("result"),)
    (message,) = speaker.subscribe(["BTC-USDT"])
    (outcome,) = speaker.receive(json.dumps({"result": None, "id": json.loads(message)["id"]}), NOW)
    assert outcome == Subscriptions(frozenset({"BNB-BTC", "BTC-USDT"}))


@pytest.mark.parametrize(
    "form", ['{"code":2,"msg":"Invalid request","id":%d}', '{"error":{"code":2,"msg":"no"},"id":%d}']
)
def test_an_error_concerns_the_products_of_its_message(form: str) -> None:
    speaker = session()
    (message,) = speaker.subscribe(["BTC-USDT", "ETH-USDT"])

    (outcome,) = speaker.receive(form % json.loads(message)["id"], NOW)

    assert isinstance(outcome, Refused)
    assert outcome.products == {"BTC-USDT", "ETH-USDT"}
    assert isinstance(hear(speaker, "trade", TRADE), Trade)


def test_an_error_that_names_a_stream_concerns_its_product_alone() -> None:
    speaker = session()
    (message,) = speaker.subscribe(["BTC-USDT", "NOPE-USDT"])
    error = {"code": 2, "msg": "Invalid request: invalid stream nopeusdt@trade", "id": json.loads(message)["id"]}

    (outcome,) = speaker.receive(json.dumps(error), NOW)

    assert isinstance(outcome, Refused)
    assert outcome.products == {"NOPE-USDT"}


def test_an_error_without_an_id_or_of_an_unsubscription_concerns_the_connection() -> None:
    speaker = session()
    (message,) = speaker.unsubscribe(["BNB-BTC"])

    for number in ("null", json.loads(message)["id"]):
        (outcome,) = speaker.receive(f'{{"code":3,"msg":"Invalid JSON: expected value","id":{number}}}', NOW)

        assert outcome == Refused("3: Invalid JSON: expected value")


def test_the_exchange_says_when_it_will_shut_down() -> None:
    frame = '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}'

    assert session().receive(frame, NOW) == (Closing("serverShutdown"),)


# ---- the recording ----


def kind(outcome: Outcome) -> str:
    return outcome.kind.partition("@")[0] if isinstance(outcome, Ignored) else type(outcome).__name__


def test_every_recorded_frame_is_understood(recorded: list[tuple[int, str]]) -> None:
    for aggregate in (False, True):
        speaker = session(*RECORDED, aggregate=aggregate)

        outcomes = [outcome for at, text in recorded for outcome in speaker.receive(text.encode(), at)]

        kinds = Counter(
            one.kind.partition("@")[0] if isinstance(one, Ignored) else type(one).__name__ for one in outcomes
        )
        expected = {"bookTicker": 128, "depth": 16, "kline_1m": 5, "Trade" if aggregate else "aggTrade": 11}
        assert kinds == expected


def test_recorded_prices_survive_as_doubles_to_the_last_digit(recorded: list[tuple[int, str]]) -> None:
    speaker = session(*RECORDED, aggregate=True)
    seen = 0

    for at, text in recorded:
        frame = json.loads(text)
        symbol, _, stream = frame["stream"].partition("@")
        (outcome,) = speaker.receive(text, at)
        if isinstance(outcome, Trade):
            stored = codec(Trade).decode(codec(Trade).encode(outcome))
            said = {"price": frame["data"]["p"], "size": frame["data"]["q"]}
        elif stream == "bookTicker":
            ticker = TICKER | {"s": symbol.upper(), "E": at // 1_000}
            (made,) = speaker.receive(json.dumps({"stream": f"{symbol}@ticker", "data": ticker}), at)
            assert isinstance(made, Tick), made
            stored = codec(Tick).decode(codec(Tick).encode(made))
            said = {"best_bid": frame["data"]["b"], "best_ask": frame["data"]["a"]}
        else:
            continue
        for name, number in said.items():
            assert Decimal(repr(getattr(stored, name))) == Decimal(number)
            seen += 1

    assert seen == 2 * (128 + 11)


# ---- history ----


def test_single_trades_are_asked_for_by_id_and_never_by_time() -> None:
    rest = load("binance").rest

    assert rest.trades("BTC-USDT", 28457, NOW) == RestRequest(
        "/api/v3/historicalTrades", {"symbol": "BTCUSDT", "limit": "1000", "fromId": "28457"}
    )
    assert rest.latest_trades("BTC-USDT") == RestRequest("/api/v3/trades", {"symbol": "BTCUSDT", "limit": "1000"})
    assert rest.trades_at("BTC-USDT", NOW) is None


def test_aggregated_trades_are_asked_for_by_id_and_by_time() -> None:
    rest = BinanceExchange("binance-agg", aggregate_trades=True).rest
    query = {"symbol": "BTCUSDT", "limit": "1000"}

    assert rest.trades("BTC-USDT", 26129, NOW) == RestRequest("/api/v3/aggTrades", query | {"fromId": "26129"})
    assert rest.latest_trades("BTC-USDT") == RestRequest("/api/v3/aggTrades", query)
    assert rest.trades_at("BTC-USDT", 1_672_515_782_136_999) == RestRequest(
        "/api/v3/aggTrades", query | {"startTime": "1672515782136"}
    )


def test_a_page_of_aggregated_trades_has_their_ids() -> None:
    body = b'[{"a":26129,"p":"0.01633102","q":"4.70443515","f":27781,"l":27781,"T":1498793709153,"m":true,"M":true}]'

    (trade,) = BinanceExchange("binance-agg", aggregate_trades=True).rest.parse_trades("BNB-BTC", body, NOW)

    assert (trade.event_id, trade.price, trade.side) == ("binance-agg:BNB-BTC:a26129", 0.01633102, "sell")


def test_candles_are_asked_for_so_that_the_last_one_starts_before_the_end() -> None:
    request = load("binance").rest.candles("BTC-USDT", "5m", 1_672_500_000_000_000, 1_672_500_600_000_000)

    assert request == RestRequest(
        "/api/v3/klines",
        {
            "symbol": "BTCUSDT",
            "limit": "1000",
            "interval": "5m",
            "startTime": "1672500000000",
            "endTime": "1672500599999",
        },
    )


def test_a_candle_keeps_all_that_the_exchange_says() -> None:
    body = (
        b'[[1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",1499644799999,'
        b'"2434.19055334",308,"1756.87402397","28.46694368","0"]]'
    )

    (bar,) = load("binance").rest.parse_candles("BNB-BTC", "1m", body)

    assert bar == Bar(
        event_id="binance:BNB-BTC:1m:1499040000000000:exchange",
        exchange="binance",
        product="BNB-BTC",
        period="1m",
        start=1499040000000000,
        open=0.0163479,
        high=0.8,
        low=0.015758,
        close=0.015771,
        volume=148976.11427815,
        quote_volume=2434.19055334,
        trades=308,
        buy_volume=1756.87402397,
        complete=False,
        revision=0,
        origin="exchange",
        received_time=0,
    )


def test_feed_and_backfill_together_stay_within_the_exchanges_weight() -> None:
    weight_of_a_page, backfill_per_second, weight_a_minute = 25, 2, 6_000

    used = (load("binance").limits.requests_per_second + backfill_per_second) * weight_of_a_page * 60

    assert used < weight_a_minute
