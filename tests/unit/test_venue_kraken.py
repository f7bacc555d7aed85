"""Kraken's language: what is its own, beside the contract of every exchange.

There is no recording of Kraken: frames and pages are written after the exchange's documents ("Spot WebSockets v2":
ticker, trade, heartbeat, status; "Get Recent Trades"; "Get OHLC Data"; the rate limit guides).
"""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.venues.kraken import KrakenExchange, KrakenSession
from producers.venues.protocol import (
    Heartbeat,
    Ignored,
    Malformed,
    Outcome,
    ProtocolError,
    Refused,
    RestRequest,
    Subscriptions,
    load,
)
from pulsestream.core.clock import format_rfc3339, parse_rfc3339
from schemas.codec import codec
from schemas.records import Bar, Tick, Trade

AT = parse_rfc3339("2026-09-24T03:54:18.054886Z")
NOW = AT + 200_000
TICKER = {
    "symbol": '"USDT/USD"',
    "bid": "0.99980",
    "bid_qty": "44620.68691883",
    "ask": "0.99981",
    "ask_qty": "1087605.70466858",
    "last": "0.99981",
    "volume": "270638277.50461281",
    "vwap": "0.99983",
    "low": "0.99959",
    "high": "1.00000",
    "change": "0.00005",
    "change_pct": "0.01",
    "timestamp": '"2026-09-24T03:54:18.054886Z"',
}
TRADE = {
    "symbol": '"USDT/USD"',
    "side": '"sell"',
    "price": "0.99981",
    "qty": "0.00022946",
    "ord_type": '"market"',
    "trade_id": "72823289",
    "timestamp": '"2026-09-24T03:54:18.054886Z"',
}


def frame(channel: str, *data: dict[str, str], kind: str = "update") -> str:
    objects = ",".join("{" + ",".join(f'"{name}":{value}' for name, value in one.items()) + "}" for one in data)
    return f'{{"channel":"{channel}","type":"{kind}","data":[{objects}]}}'


def receive(text: str, at: int = NOW) -> Outcome:
    (outcome,) = KrakenExchange().session().receive(text, at)
    return outcome


def tick(at: int = NOW, **changes: str) -> Tick:
    outcome = receive(frame("ticker", TICKER | changes), at)
    assert isinstance(outcome, Tick), outcome
    return outcome


def granted(message: str, *symbols: str) -> list[str]:
    said = json.loads(message)
    return [
        json.dumps(
            {"method": said["method"], "result": {"channel": said["params"]["channel"], "symbol": one}, "success": True}
        )
        for one in symbols or said["params"]["symbol"]
    ]


def refusal(error: str, symbol: str | None = None, **more: object) -> str:
    return json.dumps({"error": error, "success": False, "symbol": symbol} | {"method": "subscribe"} | more)


# ---- ticks ----


def test_a_ticker_becomes_a_tick_with_every_field() -> None:
    made = tick()

    assert made == Tick(
        event_id=made.event_id,
        exchange="kraken",
        product="USDT-USD",
        price=0.99981,
        best_bid=0.9998,
        best_bid_size=44620.68691883,
        best_ask=0.99981,
        best_ask_size=1087605.70466858,
        high_24h=1.0,
        low_24h=0.99959,
        volume_24h=270638277.50461281,
        exchange_time=AT,
        received_time=NOW,
    )
    assert made.event_id.startswith(f"kraken:USDT-USD:{AT}-")


def test_the_snapshot_and_the_update_of_one_moment_are_one_tick() -> None:
    snapshot = receive(frame("ticker", TICKER, kind="snapshot"))

    assert snapshot == tick() == tick(last="0.999810", high="1")


@pytest.mark.parametrize("field", ["last", "bid", "bid_qty", "ask", "ask_qty", "low", "high", "volume"])
def test_ticks_of_one_moment_that_say_different_things_have_different_ids(field: str) -> None:
    assert tick(**{field: "0.99960"}).event_id != tick().event_id


def test_the_time_of_receipt_is_in_no_id() -> None:
    assert tick(NOW + 9_000_000).event_id == tick().event_id


def test_what_a_tick_does_not_keep_is_in_no_id_either() -> None:
    assert tick(vwap="0.5", change="7", change_pct="1").event_id == tick().event_id


@pytest.mark.parametrize("timestamp", ['"1970-01-01T00:00:00Z"', '"1970-01-01T00:00:00.000000Z"', "null", '""'])
def test_a_ticker_without_a_time_is_no_tick_but_a_sign_of_life(timestamp: str) -> None:
    assert receive(frame("ticker", TICKER | {"timestamp": timestamp})) == Ignored("ticker without a time", alive=True)


def test_a_ticker_of_older_documents_without_the_field_is_no_tick() -> None:
    old = {name: value for name, value in TICKER.items() if name != "timestamp"}

    assert receive(frame("ticker", old)) == Ignored("ticker without a time", alive=True)


def test_a_product_without_a_trade_is_no_tick_but_a_sign_of_life() -> None:
    assert receive(frame("ticker", TICKER | {"last": "0.0"})) == Ignored("ticker without a trade", alive=True)


def test_a_bid_or_ask_of_zero_is_unknown_and_so_is_its_size() -> None:
    made = tick(bid="0.0", bid_qty="0.0", ask="0", ask_qty="3", low="0.0")

    assert (made.best_bid, made.best_bid_size, made.best_ask, made.best_ask_size) == (None, None, None, None)
    assert made.low_24h is None


def test_one_broken_ticker_of_a_frame_leaves_the_others() -> None:
    outcomes = (
        KrakenExchange()
        .session()
        .receive(frame("ticker", TICKER | {"timestamp": '"yesterday"'}, TICKER | {"high": "-1"}, TICKER), NOW)
    )

    assert [type(outcome) for outcome in outcomes] == [Malformed, Malformed, Tick]


# ---- trades ----


def test_a_trade_is_taken_as_it_is() -> None:
    assert receive(frame("trade", TRADE)) == Trade(
        event_id="kraken:USDT-USD:t72823289",
        exchange="kraken",
        product="USDT-USD",
        trade_id=72823289,
        price=0.99981,
        size=0.00022946,
        side="sell",
        exchange_time=AT,
        received_time=NOW,
    )


def test_the_fifty_trades_of_a_snapshot_are_trades_and_come_in_rising_order() -> None:
    trades = [TRADE | {"trade_id": str(number), "symbol": '"BTC/USD"'} for number in reversed(range(50))]

    outcomes = KrakenExchange().session().receive(frame("trade", *trades, kind="snapshot"), NOW)

    assert [outcome.trade_id for outcome in outcomes if isinstance(outcome, Trade)] == list(range(50))


@pytest.mark.parametrize(
    "change",
    [
        {"trade_id": "-1"},
        {"trade_id": "9223372036854775808"},
        {"trade_id": "null"},
        {"side": '"hold"'},
        {"symbol": '"btc/usd"'},
        {"symbol": "7"},
        {"qty": "-1"},
        {"timestamp": '"1969-12-31T23:59:59Z"'},
        {"timestamp": '"2026-09-24T03:54:30Z"'},
        {"timestamp": '"2026-09-24T03:54:18"'},
    ],
)
def test_a_trade_that_no_validator_takes_is_malformed(change: dict[str, str]) -> None:
    assert isinstance(receive(frame("trade", TRADE | change)), Malformed)


# ---- numbers ----


@given(
    st.from_regex(r"(0|[1-9][0-9]{0,14})(\.[0-9]{1,22})?([eE][-+]?[0-9]{1,2})?", fullmatch=True).filter(
        lambda text: 0 < float(text) <= 1e15
    )
)
def test_a_json_number_becomes_the_double_nearest_to_its_text(text: str) -> None:
    outcome = receive(frame("trade", TRADE | {"price": text}))

    assert isinstance(outcome, Trade), outcome
    assert outcome.price == float(text)


@given(st.decimals("0.00000001", "999999999999", allow_nan=False).map(lambda number: f"{number:.15g}"))
def test_fifteen_digits_survive_the_way_through_the_schema(text: str) -> None:
    outcome = receive(frame("ticker", TICKER | {"last": f"{Decimal(text):f}"}))

    assert isinstance(outcome, Tick), outcome
    assert Decimal(repr(codec(Tick).decode(codec(Tick).encode(outcome)).price)) == Decimal(text)


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-1", "1e999", "0x1", "01", "1.", '"nan"', '"inf"', "true", "[]"]
)
@pytest.mark.parametrize("field", ["last", "bid", "volume"])
def test_what_is_no_number_is_malformed(field: str, number: str) -> None:
    assert isinstance(receive(frame("ticker", TICKER | {field: number})), Malformed)


# ---- the conversation ----


def test_the_messages_name_channel_symbols_and_a_number() -> None:
    session = KrakenExchange().session()

    ticker, trade = (json.loads(message) for message in session.subscribe(["ETH-BTC", "BTC-USD"]))

    assert ticker == {
        "method": "subscribe",
        "params": {"channel": "ticker", "symbol": ["BTC/USD", "ETH/BTC"], "snapshot": True, "event_trigger": "trades"},
        "req_id": ticker["req_id"],
    }
    assert trade["params"] == {"channel": "trade", "symbol": ["BTC/USD", "ETH/BTC"], "snapshot": True}
    assert trade["req_id"] != ticker["req_id"]
    assert [json.loads(message)["method"] for message in session.unsubscribe(["BTC-USD"])] == ["unsubscribe"] * 2


def test_a_product_is_confirmed_when_both_channels_are() -> None:
    session = KrakenExchange().session()
    ticker, trade = session.subscribe(["BTC-USD", "ETH-USD"])

    outcomes = [
        outcome
        for text in [*granted(ticker), *granted(trade, "ETH/USD"), *granted(trade, "BTC/USD")]
        for outcome in session.receive(text, NOW)
    ]

    assert outcomes == [
        Ignored("subscribe"),
        Ignored("subscribe"),
        Subscriptions(frozenset({"ETH-USD"})),
        Subscriptions(frozenset({"BTC-USD", "ETH-USD"})),
    ]


def test_a_channel_that_was_not_asked_for_confirms_nothing() -> None:
    session = KrakenExchange().session(["ticks"])
    session.subscribe(["BTC-USD"])

    (outcome,) = session.receive('{"method":"subscribe","result":{"channel":"book","symbol":"BTC/USD"}}', NOW)

    assert outcome == Ignored("subscribe")


def test_many_products_are_asked_for_in_messages_of_a_hundred() -> None:
    messages = KrakenExchange().session().subscribe([f"A{number}-USD" for number in range(250)])

    assert [len(json.loads(message)["params"]["symbol"]) for message in messages] == [100, 100, 100, 100, 50, 50]


def test_a_refusal_of_a_name_it_does_not_know_concerns_that_product() -> None:
    outcome = receive(refusal("Currency pair not supported XBT/USD", "XBT/USD"))

    assert outcome == Refused("Currency pair not supported XBT/USD", frozenset({"XBT-USD"}))


def test_a_refused_product_is_not_confirmed_by_what_was_granted_before() -> None:
    session = KrakenExchange().session()
    ticker, trade = session.subscribe(["BTC-USD"])
    heard = [*granted(ticker), refusal("Currency pair not supported BTC/USD", "BTC/USD"), *granted(trade)]

    outcomes = [outcome for text in heard for outcome in session.receive(text, NOW)]

    assert not any(isinstance(outcome, Subscriptions) for outcome in outcomes)


def test_what_is_subscribed_already_is_confirmed() -> None:
    session = KrakenExchange().session()
    ticker, trade = session.subscribe(["BTC-USD"])

    session.receive(refusal("Already subscribed", "BTC/USD", req_id=json.loads(ticker)["req_id"]), NOW)
    (outcome,) = session.receive(refusal("Already subscribed", "BTC/USD", req_id=json.loads(trade)["req_id"]), NOW)

    assert outcome == Subscriptions(frozenset({"BTC-USD"}))


def test_the_end_of_what_was_never_subscribed_is_no_refusal() -> None:
    outcome = receive(refusal("Subscription not found", "BTC/USD", method="unsubscribe"))

    assert outcome == Ignored("unsubscribe refused")


@pytest.mark.parametrize(
    "text",
    [
        refusal("Exceeded msg rate", "*"),
        refusal("Exceeded msg rate", "BTC/USD", method="unsubscribe"),
        refusal("EAPI:Rate limit exceeded"),
        '{"Error":"Exceeded msg rate"}',
        refusal("Private data and trading are unavailable on this endpoint. Try ws-auth.kraken.com"),
    ],
)
def test_a_refusal_without_a_product_or_for_haste_concerns_the_connection(text: str) -> None:
    outcome = receive(text)

    assert isinstance(outcome, Refused)
    assert (outcome.products, outcome.fatal) == (frozenset(), False)


def test_a_heartbeat_is_of_the_connection_and_has_the_time_of_its_receipt() -> None:
    assert receive('{"channel":"heartbeat"}') == Heartbeat(None, NOW)


def test_channels_of_another_kind_are_ignored() -> None:
    status = '{"channel":"status","type":"update","data":[{"system":"maintenance","api_version":"v2"}]}'

    assert receive(status) == Ignored("status")
    assert receive('{"channel":"instrument","type":"snapshot","data":{"assets":[]}}') == Ignored("instrument")
    assert receive('{"method":"pong","req_id":101}') == Ignored("pong")


def test_a_session_remembers_no_product_that_was_ended() -> None:
    session = KrakenExchange().session()

    for number in range(50):
        product = f"A{number}-USD"
        messages = [*session.subscribe([product]), *session.unsubscribe([product])]
        for message in messages:
            for text in granted(message):
                session.receive(text, NOW)

    assert remembered(session) == 0


def test_a_session_remembers_nothing_that_the_exchange_made_up() -> None:
    session = KrakenExchange().session()

    for number in range(50):
        for message in KrakenExchange().session().subscribe([f"A{number}-USD"]):
            for text in [*granted(message), refusal("no", f"B{number}/USD"), frame("trade", TRADE)]:
                session.receive(text, NOW)

    assert remembered(session) == 0


def remembered(session: KrakenSession) -> int:
    return len(session._asked)


# ---- history ----


def test_trades_are_asked_for_by_time_under_the_names_of_old() -> None:
    rest = load("kraken").rest

    assert rest.trades("BTC-USD", 61044952, 1_688_669_597_827_736) == RestRequest(
        "/0/public/Trades", {"pair": "XBTUSD", "count": "1000", "since": "1688669597827735999"}
    )
    assert rest.trades_at("DOGE-BTC", 1) == RestRequest(
        "/0/public/Trades", {"pair": "XDGXBT", "count": "1000", "since": "999"}
    )
    assert rest.latest_trades("ETH-USDT") == RestRequest("/0/public/Trades", {"pair": "ETHUSDT", "count": "1000"})


def test_a_page_of_trades_is_read_whatever_the_pair_is_called_in_it() -> None:
    body = (
        b'{"error":[],"result":{"last":"1688671969993150842","XXBTZUSD":['
        b'["30243.40000","0.34507674",1688669597.8277369,"b","m","",61044952],'
        b'["30243.30000","0.00376960",1688669598.2804112,"s","l","",61044953]]}}'
    )

    first, second = load("kraken").rest.parse_trades("BTC-USD", body, NOW)

    assert (first.event_id, first.price, first.size) == ("kraken:BTC-USD:t61044952", 30243.4, 0.34507674)
    assert (first.side, first.exchange_time) == ("buy", 1_688_669_597_827_736)
    assert (second.side, second.exchange_time) == ("sell", 1_688_669_598_280_411)


@given(st.integers(1_000_000_000_000_000, 4_000_000_000_000_000), st.integers(0, 9))
def test_a_time_in_seconds_keeps_its_microseconds(micros: int, beyond: int) -> None:
    seconds = f"{micros // 1_000_000}.{micros % 1_000_000:06d}{beyond}"
    body = f'{{"error":[],"result":{{"A":[["1","1",{seconds},"b","m","",7]],"last":"1"}}}}'

    (trade,) = load("kraken").rest.parse_trades("BTC-USD", body.encode(), micros)

    assert trade.exchange_time == micros


@pytest.mark.parametrize("seconds", ["-1", "0", "1e300", "1e999999999", '"nan"', '"Infinity"', '"-sNaN"', "null"])
def test_a_time_that_is_none_is_a_protocol_error(seconds: str) -> None:
    body = f'{{"error":[],"result":{{"A":[["1","1",{seconds},"b","m","",7]],"last":"1"}}}}'

    with pytest.raises(ProtocolError):
        load("kraken").rest.parse_trades("BTC-USD", body.encode(), NOW)


@pytest.mark.parametrize(
    "error", ["EAPI:Rate limit exceeded", "EQuery:Unknown asset pair", "EGeneral:Too many requests"]
)
def test_an_error_inside_a_good_answer_is_a_protocol_error(error: str) -> None:
    body = json.dumps({"error": [error], "result": {}}).encode()

    with pytest.raises(ProtocolError, match=error):
        load("kraken").rest.parse_trades("BTC-USD", body, NOW)


def test_candles_are_asked_for_from_before_their_start_and_without_an_end() -> None:
    request = load("kraken").rest.candles("BTC-USD", "1h", 1_688_671_200_000_000, 1_688_700_000_000_000)

    assert request == RestRequest("/0/public/OHLC", {"pair": "XBTUSD", "interval": "60", "since": "1688671199"})


def test_a_candle_keeps_all_that_the_exchange_says() -> None:
    body = (
        b'{"error":[],"result":{"XXBTZUSD":['
        b'[1688671200,"30306.1","30306.2","30305.7","30305.7","30306.1","3.39243896",23],'
        b'[1688671260,"30305.7","30305.7","30305.7","30305.7","0.0","0.00000000",0]],"last":1688671200}}'
    )

    traded, quiet = load("kraken").rest.parse_candles("BTC-USD", "1m", body)

    assert traded == Bar(
        event_id="kraken:BTC-USD:1m:1688671200000000:exchange",
        exchange="kraken",
        product="BTC-USD",
        period="1m",
        start=1_688_671_200_000_000,
        open=30306.1,
        high=30306.2,
        low=30305.7,
        close=30305.7,
        volume=3.39243896,
        vwap=30306.1,
        trades=23,
        complete=False,
        revision=0,
        origin="exchange",
        received_time=0,
    )
    assert (quiet.volume, quiet.vwap, quiet.trades) == (0.0, None, 0)


def test_times_over_rest_and_websocket_are_cut_alike() -> None:
    nanos = parse_rfc3339("2023-07-06T18:53:17.827736999Z")
    made = receive(frame("trade", TRADE | {"timestamp": '"2023-07-06T18:53:17.827736999Z"'}))

    assert isinstance(made, Trade)
    assert format_rfc3339(made.exchange_time) == format_rfc3339(nanos) == "2023-07-06T18:53:17.827736Z"
