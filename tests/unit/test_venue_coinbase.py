"""Coinbase's language: what each frame and page means, what is asked for, and that nothing makes a session raise.

The recording holds no heartbeat, status, error or price-0 frame, and no REST page: those are written after the
exchange's own documents ("WebSocket Overview", "WebSocket Channels", "WebSocket Authentication", "Get product
trades", "Get product candles").
"""

import base64
import hashlib
import hmac
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.venues.coinbase import CoinbaseExchange
from producers.venues.protocol import (
    Exchange,
    Heartbeat,
    Ignored,
    Malformed,
    Outcome,
    ProtocolError,
    Refused,
    RestRequest,
    SignedExchange,
    Subscriptions,
    load,
)
from pulsestream.core.clock import parse_rfc3339
from pulsestream.core.errors import UsageError
from schemas.codec import codec
from schemas.records import Bar, Tick, Trade
from schemas.validate import check

NOW = 1_618_677_818_000_000
TICKER: dict[str, Any] = {
    "type": "ticker",
    "sequence": 333938798,
    "product_id": "BAND-GBP",
    "price": "14.7775",
    "open_24h": "14.6647",
    "volume_24h": "94381.28000000",
    "low_24h": "14.3691",
    "high_24h": "16.55",
    "volume_30d": "2295579.57000000",
    "best_bid": "14.7550",
    "best_bid_size": "12.5",
    "best_ask": "14.8060",
    "best_ask_size": "0.40",
    "side": "buy",
    "time": "2021-04-17T16:43:30.244075Z",
    "trade_id": 881613,
    "last_size": "0.04",
}
MATCH: dict[str, Any] = {
    "type": "match",
    "trade_id": 881613,
    "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
    "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1",
    "side": "sell",
    "size": "0.04",
    "price": "14.7775",
    "product_id": "BAND-GBP",
    "sequence": 333938797,
    "time": "2021-04-17T16:43:30.244075Z",
}
STATUS: dict[str, Any] = {
    "type": "status",
    "products": [{"id": "BTC-USD", "base_currency": "BTC", "quote_currency": "USD", "status": "online"}],
    "currencies": [{"id": "USD", "name": "United States Dollar", "status": "online"}],
}
PRICES = ("price", "open_24h", "low_24h", "high_24h", "best_bid", "best_ask")


def receive(frame: dict[str, Any] | bytes | str, exchange: str = "coinbase") -> Outcome:
    session = CoinbaseExchange(exchange).session()
    (outcome,) = session.receive(json.dumps(frame) if isinstance(frame, dict) else frame, NOW)
    return outcome


def tick(**changes: object) -> Tick:
    outcome = receive(TICKER | changes)
    assert isinstance(outcome, Tick), outcome
    return outcome


def confirmed(**products: list[str]) -> dict[str, Any]:
    return {"type": "subscriptions", "channels": [{"name": n, "product_ids": ids} for n, ids in products.items()]}


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> list[tuple[int, str]]:
    lines = (shared_data / "coinbase" / "2021-04-17.frames").read_text("utf-8").splitlines()
    return [(int(Decimal(stamp) * 1_000_000), text) for stamp, _, text in (line.partition(" ") for line in lines)]


@pytest.fixture(scope="module")
def outcomes(recorded: list[tuple[int, str]]) -> list[Outcome]:
    session = load("coinbase").session()
    return [outcome for at, text in recorded for outcome in session.receive(text.encode(), at)]


def test_the_exchange_is_found_by_its_name_and_can_carry_another() -> None:
    exchange: Exchange = load("coinbase", "simulator")

    assert (exchange.name, exchange.symbol("BTC-USD")) == ("simulator", "BTC-USD")
    assert isinstance(exchange, SignedExchange)


@pytest.mark.parametrize("name", ["x-mine", "Coinbase", "a" * 33, "coin base"])
def test_a_name_that_no_record_may_carry_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not a name"):
        load("coinbase", name)


# ---- frames ----


def test_a_ticker_becomes_a_tick_with_every_field() -> None:
    assert tick() == Tick(
        event_id="coinbase:BAND-GBP:333938798",
        exchange="coinbase",
        product="BAND-GBP",
        sequence=333938798,
        trade_id=881613,
        side="buy",
        price=14.7775,
        size=0.04,
        best_bid=14.755,
        best_bid_size=12.5,
        best_ask=14.806,
        best_ask_size=0.4,
        open_24h=14.6647,
        high_24h=16.55,
        low_24h=14.3691,
        volume_24h=94381.28,
        volume_30d=2295579.57,
        exchange_time=parse_rfc3339("2021-04-17T16:43:30.244075Z"),
        received_time=NOW,
    )


@pytest.mark.parametrize("kind", ["match", "last_match"])
def test_a_match_becomes_a_trade_with_the_other_side(kind: str) -> None:
    assert receive(MATCH | {"type": kind}) == Trade(
        event_id="coinbase:BAND-GBP:t881613",
        exchange="coinbase",
        product="BAND-GBP",
        trade_id=881613,
        price=14.7775,
        size=0.04,
        side="buy",
        exchange_time=parse_rfc3339("2021-04-17T16:43:30.244075Z"),
        received_time=NOW,
        sequence=333938797,
    )


def test_the_simulators_records_carry_its_own_name() -> None:
    made, traded = receive(TICKER, exchange="simulator"), receive(MATCH, exchange="simulator")

    assert isinstance(made, Tick)
    assert isinstance(traded, Trade)
    assert (made.exchange, made.event_id) == ("simulator", "simulator:BAND-GBP:333938798")
    assert (traded.exchange, traded.event_id) == ("simulator", "simulator:BAND-GBP:t881613")


def test_every_recorded_frame_is_understood(outcomes: list[Outcome]) -> None:
    kinds = Counter(type(outcome).__name__ for outcome in outcomes)

    assert kinds == {"Tick": 45, "Trade": 35 + 10, "Subscriptions": 3, "Ignored": 60}


def test_recorded_prices_survive_as_doubles_to_the_last_digit(
    recorded: list[tuple[int, str]], outcomes: list[Outcome]
) -> None:
    seen = 0
    for (_, text), outcome in zip(recorded, outcomes, strict=True):
        if isinstance(outcome, Tick | Trade):
            frame = json.loads(text)
            decoded = codec(type(outcome)).decode(codec(type(outcome)).encode(outcome))
            for name in PRICES if isinstance(outcome, Tick) else ("price", "size"):
                shortest = repr(getattr(decoded, name))
                assert Decimal(shortest) == Decimal(frame[name]), (name, frame[name], shortest)
                seen += 1

    assert seen == 45 * len(PRICES) + 45 * 2


def test_recorded_ticks_and_trades_of_the_same_trade_have_the_takers_side(
    recorded: list[tuple[int, str]], outcomes: list[Outcome]
) -> None:
    frames = [json.loads(text) for _, text in recorded]
    makers = {(f["product_id"], f["trade_id"]): f["side"] for f in frames if f["type"] in ("match", "last_match")}
    trades = {(trade.product, trade.trade_id): trade for trade in outcomes if isinstance(trade, Trade)}
    ticks = {(tick.product, tick.trade_id): tick for tick in outcomes if isinstance(tick, Tick)}

    joined = [(ticks[key].side, trades[key].side, makers[key]) for key in ticks.keys() & trades.keys()]

    assert len(joined) > 20
    assert {maker for _, _, maker in joined} == {"buy", "sell"}
    assert all(of_tick == of_trade != maker for of_tick, of_trade, maker in joined)


def test_a_recorded_ticker_may_be_younger_than_its_receipt(outcomes: list[Outcome]) -> None:
    """The recording machine's clock was behind: such a tick is one, its times stay as they were said."""
    ahead = [one.exchange_time - one.received_time for one in outcomes if isinstance(one, Tick)]

    assert sum(0 < micros <= 20_000 for micros in ahead) == 29
    assert max(ahead) <= 20_000


def test_an_old_ticker_without_quote_sizes_has_none() -> None:
    frame = {name: value for name, value in TICKER.items() if not name.endswith("_size") or name == "last_size"}

    outcome = receive(frame)

    assert isinstance(outcome, Tick)
    assert (outcome.best_bid, outcome.best_bid_size, outcome.best_ask_size) == (14.755, None, None)


@pytest.mark.parametrize("price", ["0", "0.00", ""])
def test_an_illiquid_product_is_no_tick_but_a_sign_of_life(price: str) -> None:
    frame = {"type": "ticker", "sequence": 7, "product_id": "NEW-USD", "price": price, "open_24h": "0", "best_bid": "0"}

    assert receive(frame) == Ignored("ticker without a trade", alive=True)


def test_a_quote_or_day_price_of_zero_is_unknown() -> None:
    made = tick(best_bid="0", best_bid_size="0", best_ask="", best_ask_size="3", open_24h="0", low_24h="0.0")

    assert (made.best_bid, made.best_bid_size, made.best_ask, made.best_ask_size) == (None, None, None, None)
    assert (made.open_24h, made.low_24h) == (None, None)


def test_a_size_of_zero_is_one() -> None:
    made = tick(last_size="0", volume_24h="0.000", volume_30d="")

    assert (made.size, made.volume_24h, made.volume_30d) == (0.0, 0.0, None)


NO_NUMBERS = ["NaN", "nan", "inf", "-inf", "Infinity", "-1.5", "1e999", "1_000", " 1", "1 ", "0x1", "0x1p3", "٣", "1."]


@pytest.mark.parametrize("frame", [TICKER, MATCH])
@pytest.mark.parametrize("price", [*NO_NUMBERS, "0", "", "9e15", True, [1], None])
def test_a_price_that_is_no_positive_number_is_refused(frame: dict[str, Any], price: object) -> None:
    assert isinstance(receive(frame | {"price": price}), Malformed)


@pytest.mark.parametrize("field", ["last_size", "best_bid_size", "best_ask", "volume_24h", "high_24h"])
@pytest.mark.parametrize("number", NO_NUMBERS)
def test_a_field_of_a_ticker_that_is_no_number_is_refused(field: str, number: str) -> None:
    assert isinstance(receive(TICKER | {field: number}), Malformed)


@pytest.mark.parametrize(
    "change",
    [
        {"side": "hold"},
        {"sequence": -1},
        {"sequence": 2**63},
        {"sequence": True},
        {"trade_id": 2**63},
        {"product_id": "band gbp"},
        {"product_id": "\ud800"},
        {"product_id": "A" * 65},
        {"time": None},
        {"time": "yesterday"},
        {"time": "2021-04-17T16:43:30.244075"},
        {"time": "0001-01-01T00:00:00+23:59"},
        {"time": "2021-04-17T16:43:50Z"},
        {"time": "1969-12-31T23:59:59Z"},
    ],
)
@pytest.mark.parametrize("frame", [TICKER, MATCH])
def test_a_frame_that_no_validator_takes_is_malformed(frame: dict[str, Any], change: dict[str, object]) -> None:
    assert isinstance(receive(frame | change), Malformed)


def test_a_ticker_needs_a_sequence_and_a_match_does_not() -> None:
    assert isinstance(receive(TICKER | {"sequence": None}), Malformed)
    assert isinstance(receive(MATCH | {"sequence": None}), Trade)


def test_a_heartbeat_says_which_trade_was_last() -> None:
    frame = {
        "type": "heartbeat",
        "sequence": 90,
        "last_trade_id": 20,
        "product_id": "BTC-USD",
        "time": "2014-11-07T08:19:28.464459Z",
    }
    time = parse_rfc3339("2014-11-07T08:19:28.464459Z")

    assert receive(frame) == Heartbeat("BTC-USD", time, 20)
    assert receive(frame | {"last_trade_id": 0}) == Heartbeat("BTC-USD", time, None)


def test_only_a_product_on_every_channel_asked_for_is_confirmed() -> None:
    frame = confirmed(
        heartbeat=["BTC-USD", "ETH-USD", "SOL-USD"], ticker=["BTC-USD", "ETH-USD"], matches=["BTC-USD", "SOL-USD"]
    )

    assert receive(frame) == Subscriptions(frozenset({"BTC-USD"}))
    assert receive(confirmed(ticker=["BTC-USD"], matches=["BTC-USD"])) == Subscriptions(frozenset())
    assert receive(confirmed()) == Subscriptions(frozenset())


def test_a_session_of_ticks_alone_waits_for_no_matches() -> None:
    session = CoinbaseExchange().session(("ticks",))

    outcome = session.receive(json.dumps(confirmed(ticker=["BTC-USD"], heartbeat=["BTC-USD"])), NOW)

    assert outcome == (Subscriptions(frozenset({"BTC-USD"})),)


def test_an_error_names_the_products_of_its_reason() -> None:
    frame = {"type": "error", "message": "Failed to subscribe", "reason": "XYZ-USD, 1INCH-USD is not a valid product"}

    assert receive(frame) == Refused(
        "Failed to subscribe: XYZ-USD, 1INCH-USD is not a valid product", frozenset({"XYZ-USD", "1INCH-USD"})
    )


@pytest.mark.parametrize(
    ("message", "reason", "fatal"),
    [
        ("Failed to subscribe", "level2, level3, and full channels now require authentication.", True),
        ("Sorry, you could not be authenticated: Bad Request", "invalid signature", True),
        ("Failed to subscribe", "Invalid API Key", True),
        ("Failed to subscribe", "No channels provided", False),
        ("slow read", "", False),
    ],
)
def test_only_an_error_about_credentials_is_fatal(message: str, reason: str, *, fatal: bool) -> None:
    outcome = receive({"type": "error", "message": message, "reason": reason})

    assert isinstance(outcome, Refused)
    assert (outcome.products, outcome.fatal) == (frozenset(), fatal)


@pytest.mark.parametrize("product", ["BTC", "A/B", "A.B-USD", "BTC.", "SIGNATURE-USD", "PASSPHRASE"])
def test_whatever_a_tenant_calls_a_product_its_refusal_concerns_that_product_alone(product: str) -> None:
    session = CoinbaseExchange().session()
    session.subscribe([product, "B-USD"])
    frame = {"type": "error", "message": "Failed to subscribe", "reason": f"{product} is not a valid product"}

    (outcome,) = session.receive(json.dumps(frame), NOW)

    assert isinstance(outcome, Refused)
    assert (outcome.products, outcome.fatal) == (frozenset({product}), False)


@pytest.mark.parametrize("kind", ["l2update", "received", "something new"])
def test_a_frame_of_another_kind_is_ignored(kind: str) -> None:
    assert receive({"type": kind, "changes": [1, {}], "price": 3}) == Ignored(kind)


def test_a_status_frame_is_no_market_data() -> None:
    assert receive(STATUS) == Ignored("status", alive=False)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"type":7}',
        b"{" * 100_000,
        b"[" * 100_000,
        "\ud800",
        '{"type":"ticker"}',
        '{"type":"match","trade_id":1}',
    ],
)
def test_what_is_no_frame_is_malformed(frame: bytes | str) -> None:
    outcome = receive(frame)

    assert isinstance(outcome, Malformed)
    assert len(outcome.reason) <= 200 * 6


def _is_sound(outcome: Outcome) -> bool:
    return not isinstance(outcome, Tick | Trade) or check(outcome, "ticks") is None


@given(st.binary(max_size=400) | st.text(max_size=200))
def test_arbitrary_frames_never_raise(frame: bytes | str) -> None:
    assert _is_sound(receive(frame))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_NUMBERLIKE = st.from_regex(r"[-+]?[0-9]{0,20}\.?[0-9]{0,20}([eE][-+]?[0-9]{0,4})?", fullmatch=True)
_KINDS = st.sampled_from(["ticker", "heartbeat", "subscriptions", "error", "match", "last_match"])


@given(
    st.dictionaries(st.sampled_from(sorted(TICKER)), _NUMBERLIKE | _JSON, max_size=4),
    _KINDS,
    st.sets(st.sampled_from(sorted(set(TICKER) - {"type"})), max_size=3),
)
def test_frames_with_changed_fields_never_yield_an_unsound_record(
    changes: dict[str, object], kind: str, removed: set[str]
) -> None:
    whole = MATCH | TICKER | changes | {"type": kind}

    assert _is_sound(receive(json.dumps({name: value for name, value in whole.items() if name not in removed})))


# ---- what is asked for ----


def test_the_subscribe_message_names_products_and_channels() -> None:
    (message,) = CoinbaseExchange().session().subscribe({"ETH-USD", "BTC-USD"})

    assert json.loads(message) == {
        "type": "subscribe",
        "product_ids": ["BTC-USD", "ETH-USD"],
        "channels": ["ticker", "matches", "heartbeat"],
    }


def test_the_unsubscribe_message_is_its_mirror() -> None:
    (message,) = CoinbaseExchange().session(["trades"]).unsubscribe(["BTC-USD"])

    assert json.loads(message) == {
        "type": "unsubscribe",
        "product_ids": ["BTC-USD"],
        "channels": ["matches", "heartbeat"],
    }


def test_the_status_channel_is_asked_for_once_and_without_products() -> None:
    session = CoinbaseExchange().session(["ticks", "status"])

    first, second = (
        [json.loads(text)["channels"] for text in session.subscribe([name])] for name in ("A-USD", "B-USD")
    )

    assert first == [[{"name": "status"}], ["ticker", "heartbeat"]]
    assert second == [["ticker", "heartbeat"]]


def test_many_products_are_asked_for_in_messages_of_a_hundred() -> None:
    products = [f"P{number:03}-USD" for number in range(250)]

    messages = [json.loads(message) for message in CoinbaseExchange().session().subscribe(products)]

    assert [len(message["product_ids"]) for message in messages] == [100, 100, 50]
    assert [product for message in messages for product in message["product_ids"]] == products


def test_a_signed_subscription_carries_a_fresh_signature_of_the_documents_text() -> None:
    secret = b"a secret of the exchange"
    times = iter([1_700_000_000_900_000, 1_700_000_060_000_000])
    exchange = CoinbaseExchange("mine").signed("k", base64.b64encode(secret).decode(), "p", lambda: next(times))
    session = exchange.session()

    messages = [json.loads(text) for _ in range(2) for text in session.subscribe(["BTC-USD"])]

    assert exchange.name == "mine"
    for message, second in zip(messages, ("1700000000", "1700000060"), strict=True):
        digest = hmac.new(secret, f"{second}GET/users/self/verify".encode(), hashlib.sha256).digest()
        expected = {"key": "k", "passphrase": "p", "timestamp": second, "signature": base64.b64encode(digest).decode()}
        assert message.items() >= expected.items()
    assert "signature" not in json.loads(session.unsubscribe(["BTC-USD"])[0])


def test_a_secret_that_is_not_base64_is_refused_without_showing_it() -> None:
    with pytest.raises(UsageError, match="not base64") as refusal:
        CoinbaseExchange().signed("k", "not-base64!", "p")

    assert "not-base64!" not in str(refusal.value)


# ---- REST ----

PAGE = [
    {"trade_id": 75, "side": "sell", "size": "0.02", "price": "11.5", "time": "2014-11-07T22:19:29.1Z"},
    {"trade_id": 74, "side": "buy", "size": "0.01000000", "price": "10.00", "time": "2014-11-07T22:19:28.578544Z"},
]


def test_a_page_of_trades_begins_with_the_id_asked_for() -> None:
    rest = CoinbaseExchange().rest

    assert rest.trades("BTC-USD", 74, 0) == RestRequest("/products/BTC-USD/trades", {"limit": "1000", "after": "1074"})
    assert rest.latest_trades("BTC-USD") == RestRequest("/products/BTC-USD/trades", {"limit": "1000"})
    assert rest.trades_at("BTC-USD", NOW) is None


def test_a_page_of_trades_comes_in_rising_order_with_the_takers_side() -> None:
    trades = CoinbaseExchange("mine").rest.parse_trades("BTC-USD", json.dumps(PAGE).encode(), NOW)

    assert [(trade.event_id, trade.side, trade.price, trade.size) for trade in trades] == [
        ("mine:BTC-USD:t74", "sell", 10.0, 0.01),
        ("mine:BTC-USD:t75", "buy", 11.5, 0.02),
    ]
    assert trades[0].exchange_time == parse_rfc3339("2014-11-07T22:19:28.578544Z")
    assert {(trade.received_time, trade.sequence) for trade in trades} == {(NOW, None)}


def test_a_trade_over_rest_is_the_one_that_the_feed_gave() -> None:
    live = receive(MATCH)
    said = {name: MATCH[name] for name in ("trade_id", "side", "size", "price", "time")}
    (fetched,) = CoinbaseExchange().rest.parse_trades("BAND-GBP", json.dumps([said]).encode(), NOW)

    assert isinstance(live, Trade)
    assert [getattr(fetched, name) for name in Trade.__struct_fields__ if name != "sequence"] == [
        getattr(live, name) for name in Trade.__struct_fields__ if name != "sequence"
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"message":"NotFound"}', b"[{}]", b"\xff", b"[" * 100_000]
    + [
        json.dumps([PAGE[0] | change]).encode()
        for change in ({"price": "nan"}, {"side": "?"}, {"time": "x"}, {"trade_id": -1}, {"size": "-1"})
    ],
)
def test_a_page_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="of BTC-USD"):
        CoinbaseExchange().rest.parse_trades("BTC-USD", body, NOW)


def test_candles_are_asked_for_so_that_the_last_one_starts_before_the_end() -> None:
    start = parse_rfc3339("2021-04-17T16:43:00Z")

    request = CoinbaseExchange().rest.candles("BTC-USD", "5m", start, start + 600_000_000)

    assert request == RestRequest(
        "/products/BTC-USD/candles",
        {"granularity": "300", "start": "2021-04-17T16:43:00.000000Z", "end": "2021-04-17T16:52:59.000000Z"},
    )


def test_candles_come_in_rising_order_as_bars_of_the_exchange() -> None:
    body = b"[[1618677840,9.5,11,10,10.5,4],[1618677780,8,10,9,9.75,3.25]]"

    bars = CoinbaseExchange("mine").rest.parse_candles("BTC-USD", "1m", body)

    assert [bar.start for bar in bars] == [1_618_677_780_000_000, 1_618_677_840_000_000]
    assert bars[0] == Bar(
        event_id="mine:BTC-USD:1m:1618677780000000:exchange",
        exchange="mine",
        product="BTC-USD",
        period="1m",
        start=1_618_677_780_000_000,
        open=9.0,
        high=10.0,
        low=8.0,
        close=9.75,
        volume=3.25,
        complete=False,
        revision=0,
        origin="exchange",
        received_time=0,
    )


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[[1618677840]]", b'[[1618677840,"nan",1,1,1,1]]', b"[[-1,1,1,1,1,1]]", b"[[1e18,1,1,1,1,1]]"]
)
def test_candles_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="candles of BTC-USD"):
        CoinbaseExchange().rest.parse_candles("BTC-USD", "1m", body)
