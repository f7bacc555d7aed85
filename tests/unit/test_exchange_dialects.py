"""The simulator's languages against the clients that speak them: two hands wrote them from the exchanges' documents."""

import json
from decimal import Decimal

import pytest

from producers.exchange.dialects import VENUES
from producers.exchange.dialects.binance import MAX_STREAMS
from producers.exchange.dialects.coinbase import MESSAGES_PER_SECOND, SUBSCRIPTIONS
from producers.exchange.market import Print
from producers.venues.protocol import Heartbeat, Ignored, Malformed, Outcome, Refused, Subscriptions, load
from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Tick, Trade
from schemas.validate import check
from tests.support.markets import NOON, Venue, converse

venues = pytest.mark.parametrize("name", sorted(VENUES))


def millis(name: str, time: int) -> int:
    """Return a time as exactly as the exchange writes it."""
    return time // 1000 * 1000 if name == "binance" else time


def expected(name: str, made: Print) -> tuple[str, int, float, float, str, int]:
    trade = made.trade
    price = float(Decimal(trade.price) / 10**trade.decimals)
    size = float(Decimal(trade.size) / 10**8)
    return trade.product, trade.trade_id, price, size, trade.side, millis(name, trade.time)


def told(trade: Trade) -> tuple[str, int, float, float, str, int]:
    return trade.product, trade.trade_id, trade.price, trade.size, trade.side, trade.exchange_time


def subscribed(venue: Venue) -> tuple[list[Outcome], list[Outcome]]:
    """Subscribe to all products, play on, and return what came at once and what came from the market."""
    client, served = load(venue.name).session(), venue.connect()
    first = converse(client, served, client.subscribe(venue.products), venue.now)
    then: list[Outcome] = []
    for frame in venue.play(400):
        if served.wants(frame):
            then += client.receive(served.text(frame), venue.now)
    return first, then


@venues
def test_a_subscription_is_confirmed_for_every_product(name: str) -> None:
    venue = Venue(name)
    venue.play(50)

    first, _ = subscribed(venue)

    confirmed = [outcome for outcome in first if isinstance(outcome, Subscriptions)]
    assert confirmed[-1].products == frozenset(venue.products)
    assert not [outcome for outcome in first if isinstance(outcome, Malformed | Refused)]


@venues
def test_every_trade_of_the_market_arrives_as_it_was_made(name: str) -> None:
    venue = Venue(name)

    _, then = subscribed(venue)

    wanted = [expected(name, made) for made in venue.prints if made.trade.product in venue.products]
    assert len(wanted) > 300
    assert [told(outcome) for outcome in then if isinstance(outcome, Trade)] == wanted


@venues
def test_ticks_are_sound_and_carry_the_quotes_of_the_market(name: str) -> None:
    venue = Venue(name)

    _, then = subscribed(venue)

    ticks = [outcome for outcome in then if isinstance(outcome, Tick)]
    by_price = {(made.trade.product, made.ticker.bid, made.ticker.ask, made.ticker.volume) for made in venue.prints}
    digits = {made.trade.product: made.trade.decimals for made in venue.prints}
    assert len(ticks) >= (20 if name == "binance" else 300)
    assert len({tick.event_id for tick in ticks}) == len(ticks)
    for tick in ticks:
        assert check(tick, "ticks") is None
        scale = 10 ** digits[tick.product]
        quotes = round((tick.best_bid or 0) * scale), round((tick.best_ask or 0) * scale)
        assert (tick.product, *quotes, round((tick.volume_24h or 0) * 10**8)) in by_price
    assert {type(outcome) for outcome in then} <= {Tick, Trade, Ignored}


@venues
def test_a_binance_ticker_comes_once_a_second_and_the_others_after_each_trade(name: str) -> None:
    venue = Venue(name)
    seconds = 0

    _, then = subscribed(venue)

    seconds = (venue.now - NOON) // MICROS_PER_SECOND + 1
    ticks = [tick for tick in then if isinstance(tick, Tick) and tick.product == venue.products[0]]
    trades = [trade for trade in then if isinstance(trade, Trade) and trade.product == venue.products[0]]
    assert len(ticks) <= seconds if name == "binance" else len(ticks) == len(trades)


@venues
def test_heartbeats_tell_that_the_connection_lives(name: str) -> None:
    venue = Venue(name)
    client, served = load(name).session(), venue.connect()
    converse(client, served, client.subscribe(venue.products), venue.now)
    venue.play(100)

    beats = [outcome for frame in served.beat(venue.now) for outcome in client.receive(frame.text, venue.now)]

    assert all(isinstance(beat, Heartbeat) for beat in beats)
    if name == "coinbase":
        last = {made.trade.product: made.trade.trade_id for made in venue.prints}
        heard = {beat.product: beat.last_trade_id for beat in beats if isinstance(beat, Heartbeat)}
        assert heard == {product: last.get(product) for product in venue.products}
    else:
        assert len(beats) == (name == "kraken")


@venues
def test_a_product_that_the_exchange_does_not_have_is_refused_and_the_others_are_not(name: str) -> None:
    venue = Venue(name)
    client, served = load(name).session(), venue.connect()

    outcomes = converse(client, served, client.subscribe(["NO-NO"]), venue.now)
    outcomes += converse(client, served, client.subscribe(venue.products[:1]), venue.now)

    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert refused
    assert not any(outcome.fatal for outcome in refused)
    confirmed = [outcome for outcome in outcomes if isinstance(outcome, Subscriptions)]
    assert venue.products[0] in confirmed[-1].products


@venues
def test_an_ended_subscription_gets_nothing_more(name: str) -> None:
    venue = Venue(name)
    client, served = load(name).session(), venue.connect()
    converse(client, served, client.subscribe(venue.products), venue.now)

    converse(client, served, client.unsubscribe(venue.products[:1]), venue.now + MICROS_PER_SECOND)

    wanted = {frame.product for frame in venue.play(200) if served.wants(frame)}
    assert wanted == {venue.products[1], *([venue.products[2]] if name != "binance" else [])}


@venues
def test_rest_pages_give_every_trade_from_an_id_on(name: str) -> None:
    venue = Venue(name)
    venue.play(300)
    rest, product = load(name).rest, venue.products[0]
    made = {made.trade.trade_id: made for made in venue.prints if made.trade.product == product}
    first = min(made)
    since = made[first].trade.time

    found: dict[int, Trade] = {}
    cursor = first
    while cursor <= max(made):
        page = rest.parse_trades(product, venue.get(rest.trades(product, cursor, since)).body, venue.now)
        found |= {trade.trade_id: trade for trade in page if trade.trade_id >= cursor}
        assert cursor in found
        cursor, since = max(found) + 1, found[max(found)].exchange_time

    assert [told(found[number]) for number in made] == [expected(name, one) for one in made.values()]


@venues
def test_the_newest_trades_and_a_day_before_the_start_are_told(name: str) -> None:
    venue = Venue(name)
    venue.play(50)
    rest, product = load(name).rest, venue.products[0]

    newest = rest.parse_trades(product, venue.get(rest.latest_trades(product)).body, venue.now)
    past = rest.parse_trades(
        product, venue.get(rest.trades(product, NOON - 5000, NOON - 4 * 3600 * MICROS_PER_SECOND)).body, venue.now
    )

    assert newest[-1].trade_id == max(made.trade.trade_id for made in venue.prints if made.trade.product == product)
    assert [trade.trade_id for trade in newest] == list(range(newest[0].trade_id, newest[-1].trade_id + 1))
    assert past
    assert all(trade.exchange_time < NOON for trade in past)


@venues
def test_candles_are_those_of_the_trades(name: str) -> None:
    venue = Venue(name)
    rest, product = load(name).rest, venue.products[0]
    minute = 60 * MICROS_PER_SECOND
    start = NOON - 10 * minute

    bars = rest.parse_candles(product, "1m", venue.get(rest.candles(product, "1m", start, NOON)).body)

    inside = [bar for bar in bars if start <= bar.start < NOON]
    assert [bar.start for bar in inside] == list(range(start, NOON, minute))
    for bar in inside:
        prices = [t.price / 100 for t in venue.board.history.since(product, bar.start) if t.time < bar.start + minute]
        assert (bar.open, bar.high, bar.low, bar.close) == (prices[0], max(prices), min(prices), prices[-1])


@venues
def test_a_frame_of_the_market_reads_back_as_it_was_made(name: str) -> None:
    venue = Venue(name)

    for frame in venue.play(100):
        recorded = venue.dialect.read(frame.text)
        assert recorded is not None
        assert (recorded.frame.channel, recorded.frame.product) == (frame.channel, frame.product)
        assert recorded.frame.trade_ids == frame.trade_ids
    trades = [trade for frame in venue.frames for trade in _trades(venue, frame.text)]
    wanted = [made.trade for made in venue.prints]
    assert [(t.product, t.trade_id, t.side, millis(name, t.time)) for t in trades] == [
        (t.product, t.trade_id, t.side, millis(name, t.time)) for t in wanted
    ]
    assert all(one.size == other.size for one, other in zip(trades, wanted, strict=True))


def _trades(venue: Venue, text: str) -> tuple[object, ...]:
    recorded = venue.dialect.read(text)
    return () if recorded is None else recorded.trades


@venues
def test_a_shifted_frame_differs_in_its_times_only(name: str) -> None:
    venue = Venue(name)

    for frame in venue.play(50):
        recorded, shifted = (
            venue.dialect.read(frame.text),
            venue.dialect.read(venue.dialect.shifted(frame.text, 5_000_000)),
        )
        assert recorded is not None
        assert shifted is not None
        assert shifted.frame.product == recorded.frame.product
        if recorded.frame.time:
            assert (shifted.frame.time or 0) - recorded.frame.time == 5_000_000


@venues
@pytest.mark.parametrize("message", ["", "{", "[]", "7", '{"method":7}', '{"method":"SUBSCRIBE","params":7}', b"\xff"])
def test_nonsense_is_answered_and_never_raises(name: str, message: str | bytes) -> None:
    answer = Venue(name).connect().receive(message, NOON)

    assert all(json.loads(frame.text) for frame in answer.frames)
    assert answer.frames


@venues
def test_a_wrong_rest_request_is_refused_in_the_exchanges_words(name: str) -> None:
    venue = Venue(name)
    rest = load(name).rest

    unknown = venue.get(rest.latest_trades("NO-NO"))

    assert unknown.status in ((200,) if name == "kraken" else (400, 404))
    assert json.loads(unknown.body)


def test_coinbase_refuses_the_eleventh_subscription_of_a_product_and_channel_and_takes_one_when_another_ends() -> None:
    venue = Venue("coinbase")
    message = json.dumps({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker"]})
    connections = [venue.connect() for _ in range(SUBSCRIPTIONS + 1)]

    kinds = [json.loads(one.receive(message, NOON).frames[0].text)["type"] for one in connections]
    connections[0].closed()

    assert kinds == ["subscriptions"] * SUBSCRIPTIONS + ["error"]
    assert json.loads(connections[-1].receive(message, NOON).frames[0].text)["type"] == "subscriptions"


def test_coinbase_answers_a_hundred_and_first_message_in_a_second_with_an_error() -> None:
    session = Venue("coinbase").connect()
    message = json.dumps({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker"]})

    kinds = [json.loads(session.receive(message, NOON).frames[0].text)["type"] for _ in range(MESSAGES_PER_SECOND + 1)]

    assert set(kinds[:-1]) == {"subscriptions"}
    assert kinds[-1] == "error"
    assert json.loads(session.receive(message, NOON + MICROS_PER_SECOND).frames[0].text)["type"] == "subscriptions"


def test_coinbase_sends_the_last_match_and_ticker_of_a_new_subscription() -> None:
    venue = Venue("coinbase")
    venue.play(100)
    message = json.dumps({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker", "matches"]})

    frames = [json.loads(frame.text) for frame in venue.connect().receive(message, venue.now).frames]

    last = [made.trade.trade_id for made in venue.prints if made.trade.product == "BTC-USD"][-1]
    assert [(frame["type"], frame.get("trade_id")) for frame in frames] == [
        ("subscriptions", None), ("ticker", last), ("last_match", last),
    ]  # fmt: skip


def test_kraken_begins_with_its_status_and_a_trade_subscription_with_the_last_fifty() -> None:
    venue = Venue("kraken")
    venue.play(200)
    session = venue.connect()
    message = json.dumps({"method": "subscribe", "params": {"channel": "trade", "symbol": ["BTC/USD"]}, "req_id": 7})

    opened = [json.loads(frame.text)["channel"] for frame in session.opened(NOON).frames]
    answer, snapshot = (json.loads(frame.text) for frame in session.receive(message, venue.now).frames)

    assert opened == ["status"]
    assert (answer["success"], answer["req_id"], answer["result"]["symbol"]) == (True, 7, "BTC/USD")
    last = [made.trade.trade_id for made in venue.prints if made.trade.product == "BTC-USD"][-1]
    assert [item["trade_id"] for item in snapshot["data"]] == list(range(last - 49, last + 1))


def test_kraken_answers_pings_and_refuses_to_subscribe_twice() -> None:
    session = Venue("kraken").connect()
    message = json.dumps({"method": "subscribe", "params": {"channel": "ticker", "symbol": ["BTC/USD"]}})

    pong = json.loads(session.receive('{"method":"ping","req_id":9}', NOON).frames[0].text)
    session.receive(message, NOON)
    again = json.loads(session.receive(message, NOON).frames[0].text)

    assert (pong["method"], pong["req_id"]) == ("pong", 9)
    assert (again["success"], again["error"], again["symbol"]) == (False, "Already subscribed", "BTC/USD")


def test_what_never_traded_has_zeros_and_a_time_of_1970_on_kraken_and_is_no_tick() -> None:
    venue = Venue("kraken")
    client, served = load("kraken").session(), venue.connect()
    messages = client.subscribe(["MONA-USD"])

    outcomes = converse(client, served, messages, NOON)

    assert not [outcome for outcome in outcomes if isinstance(outcome, Tick | Malformed)]


def test_binance_ends_a_connection_that_sends_a_sixth_message_within_a_second() -> None:
    session = Venue("binance").connect()

    closes = [session.receive('{"method":"LIST_SUBSCRIPTIONS","id":1}', NOON + number).close for number in range(6)]

    assert closes[:5] == [None] * 5
    assert closes[5] is not None
    assert closes[5][0] == 1008


def test_binance_takes_streams_from_the_address_combined_or_raw() -> None:
    venue = Venue("binance")
    combined = venue.connect("/stream?streams=btcusdt@trade/ethusdt@bookTicker")
    raw = venue.connect("/ws/btcusdt@trade")

    frames = venue.play(50)

    got = {(frame.channel, frame.product) for frame in frames if combined.wants(frame)}
    assert got == {("trade", "BTC-USDT"), ("bookTicker", "ETH-USDT")}
    trade = next(frame for frame in frames if raw.wants(frame))
    assert json.loads(combined.text(trade))["data"] == json.loads(raw.text(trade))
    assert json.loads(raw.text(trade))["e"] == "trade"


def test_binance_refuses_more_streams_than_a_connection_may_have() -> None:
    session = Venue("binance").connect()
    streams = [f"btcusdt@kline_{number}m" for number in range(MAX_STREAMS + 1)]

    answer = json.loads(
        session.receive(json.dumps({"method": "SUBSCRIBE", "params": streams, "id": 1}), NOON).frames[0].text
    )

    assert answer["code"] == 2
    assert not session.subscribed


def test_binance_announces_the_end_of_a_connection() -> None:
    session = Venue("binance").connect()

    ending = session.ending(NOON)

    outcomes = [outcome for frame in ending.frames for outcome in load("binance").session().receive(frame.text, NOON)]
    assert [type(outcome).__name__ for outcome in outcomes] == ["Closing"]
    assert ending.close is not None
