"""The feed against real WebSocket servers that behave oddly: they close, go silent, send too much, or refuse."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from producers.connection import MAX_FRAME_BYTES, Clocks, FeedConfig
from producers.errors import FeedRefusedError
from producers.feed import Feed
from producers.pacing import Pace
from producers.storm import StormGuard
from producers.venues.protocol import Closing, Exchange, Frame, Heartbeat, Limits, Outcome, Session, load
from pulsestream.core.clock import format_rfc3339, wall_clock
from pulsestream.core.metrics import REGISTRY
from schemas.records import Tick, Trade
from tests.support.producing import BOUND, until

FAST = Pace(base=0.02, cap=0.2)
MANY = 3_000
COINBASE = load("coinbase")
LIMITS = COINBASE.limits


@dataclass
class Listening:
    """Everything that a feed told, in order."""

    ticks: list[Tick | Trade] = field(default_factory=list)
    beats: list[Heartbeat] = field(default_factory=list)
    told: list[tuple[str, int | None]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    held: asyncio.Event | None = None

    async def record(self, record: Tick | Trade) -> None:
        if self.held is not None:
            await self.held.wait()
        self.ticks.append(record)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        self.beats.append(heartbeat)

    def delivering(self, at: int) -> None:
        self.told.append(("delivering", at))

    def complete(self, at: int) -> None:
        self.told.append(("complete", at))

    def lost(self, since: int | None, cause: str) -> None:
        self.told.append((cause, since))

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.told]


def ticker(product: str, sequence: int, padding: int = 0, time: str = "2021-04-17T16:43:30.244075Z") -> str:
    return json.dumps(
        {
            "type": "ticker",
            "sequence": sequence,
            "product_id": product,
            "price": "1.5",
            "side": "buy",
            "time": time,
            "trade_id": sequence,
            "last_size": "0.04",
            "padding": "x" * padding,
        }
    )


class Market:
    """A server in the exchange's protocol whose oddities are given by the test. Counts what it sees."""

    def __init__(self, behave: Callable[["Market", ServerConnection], Awaitable[None]]) -> None:
        self.behave = behave
        self.connections = 0
        self.close_codes: list[int | None] = []
        self.sockets: list[ServerConnection] = []
        self.times: list[float] = []
        self.messages: list[dict[str, object]] = []
        self.url = ""

    async def handle(self, socket: ServerConnection) -> None:
        self.connections += 1
        self.sockets.append(socket)
        with suppress(ConnectionClosed):  # the client hanging up is part of many scenarios
            await self.behave(self, socket)
        self.close_codes.append(socket.close_code)

    async def subscription(self, socket: ServerConnection) -> list[str]:
        """Read one message and confirm everything that is subscribed to after it."""
        message = json.loads(await socket.recv())
        self.messages.append(message)
        self.times.append(time.monotonic())
        return list(message["product_ids"])


async def confirm(socket: ServerConnection, products: Iterable[str]) -> None:
    listed = sorted(products)
    channels = [{"name": name, "product_ids": listed} for name in ("ticker", "matches", "heartbeat")]
    await socket.send(json.dumps({"type": "subscriptions", "channels": channels}))


@asynccontextmanager
async def exchange(behave: Callable[[Market, ServerConnection], Awaitable[None]]) -> AsyncIterator[Market]:
    made = Market(behave)
    async with serve(made.handle, "127.0.0.1", 0, close_timeout=1) as server:
        made.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


@asynccontextmanager
async def feeding(
    url: str,
    listener: Listening,
    *products: str,
    stale_after: float = 5.0,
    pace: Pace = FAST,
    limits: Limits = LIMITS,
    exchange: Exchange = COINBASE,
    guard: StormGuard | None = None,
) -> AsyncIterator[tuple[Feed, asyncio.Task[None]]]:
    config = FeedConfig(url, limits, stale_after=stale_after, pace=pace)
    feed = Feed(config, exchange, listener, guard or StormGuard(), uniform=lambda _, high: high)
    feed.want(products)
    task = asyncio.create_task(feed.run())
    try:
        yield feed, task
    finally:
        feed.stop()
        async with asyncio.timeout(BOUND):
            await asyncio.gather(task, return_exceptions=True)


async def well_behaved(made: Market, socket: ServerConnection) -> None:
    products: set[str] = set()
    for sequence in range(1, 1_000):
        message = json.loads(await socket.recv())
        made.messages.append(message)
        named = set(message["product_ids"])
        products = products | named if message["type"] == "subscribe" else products - named
        await confirm(socket, products)
        for product in sorted(products):
            await socket.send(ticker(product, sequence))


async def _delivers_and_stops_cleanly() -> None:
    listener = Listening()
    async with exchange(well_behaved) as made, feeding(made.url, listener, "BTC-USD", "ETH-USD") as (feed, task):
        await until(lambda: len(listener.ticks) == 2)
        assert feed.problem() is None
        feed.stop()
        await asyncio.wait_for(task, BOUND)
        await until(lambda: made.close_codes == [1000])

    assert listener.words == ["delivering", "complete", "stopped"]
    assert listener.told[-1][1] == listener.ticks[-1].received_time
    assert made.connections == 1


def test_a_feed_delivers_and_stops_cleanly() -> None:
    asyncio.run(_delivers_and_stops_cleanly())


async def _products_change_on_the_open_connection() -> None:
    listener = Listening()
    async with exchange(well_behaved) as made, feeding(made.url, listener, "BTC-USD") as (feed, _):
        await until(lambda: len(listener.ticks) == 1)
        feed.want(["BTC-USD", "ETH-USD"])
        await until(lambda: {tick.product for tick in listener.ticks} == {"BTC-USD", "ETH-USD"})
        feed.want(["ETH-USD"])
        await until(lambda: len(made.messages) == 3)

    assert [(m["type"], m["product_ids"]) for m in made.messages] == [
        ("subscribe", ["BTC-USD"]),
        ("subscribe", ["ETH-USD"]),
        ("unsubscribe", ["BTC-USD"]),
    ]
    assert made.connections == 1


def test_products_change_without_another_connection() -> None:
    asyncio.run(_products_change_on_the_open_connection())


async def _without_products_there_is_no_connection() -> None:
    listener = Listening()
    async with exchange(well_behaved) as made, feeding(made.url, listener) as (feed, _):
        feed.want(["BTC-USD"])
        await until(lambda: len(listener.ticks) == 1)
        feed.want([])
        await until(lambda: "idle" in listener.words)
        assert feed.problem() is None
        feed.want(["BTC-USD"])
        await until(lambda: len(listener.ticks) == 2)

    assert made.connections == 2
    assert listener.words[:3] == ["delivering", "complete", "idle"]


def test_nobody_subscribed_means_no_connection_and_no_loss() -> None:
    asyncio.run(_without_products_there_is_no_connection())


async def _accepts_and_closes(_: Market, socket: ServerConnection) -> None:
    await socket.close()


async def _seconds_for_five_connections() -> float:
    listener = Listening()
    begun = time.monotonic()
    async with exchange(_accepts_and_closes) as made, feeding(made.url, listener, "BTC-USD", pace=Pace(0.2, 1.0)):
        await until(lambda: made.connections == 5)
        return time.monotonic() - begun


def test_a_server_that_accepts_and_closes_is_not_hit_in_a_tight_loop() -> None:
    assert asyncio.run(_seconds_for_five_connections()) >= 0.2 + 0.4 + 0.8 + 1.0


async def _closes_after_the_first_tick(made: Market, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    await socket.send(ticker("BTC-USD", made.connections))


async def _reconnects_after_a_close() -> None:
    listener = Listening()
    async with exchange(_closes_after_the_first_tick) as made, feeding(made.url, listener, "BTC-USD"):
        await until(lambda: len(listener.ticks) == 3)

    assert [tick.sequence for tick in listener.ticks] == [1, 2, 3]
    assert listener.words[:6] == ["delivering", "complete", "disconnected"] * 2
    assert listener.told[2][1] == listener.ticks[0].received_time


def test_a_closed_connection_is_made_again_and_its_end_is_told() -> None:
    asyncio.run(_reconnects_after_a_close())


async def _goes_silent(made: Market, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    await socket.send(ticker("BTC-USD", made.connections))
    await socket.wait_closed()


async def _silence_is_stale() -> None:
    listener = Listening()
    async with exchange(_goes_silent) as made, feeding(made.url, listener, "BTC-USD", stale_after=1.0):
        await until(lambda: len(listener.ticks) == 2)

    assert listener.words[:3] == ["delivering", "complete", "stale"]
    assert made.connections >= 2


def test_a_silent_connection_is_given_up_as_stale() -> None:
    asyncio.run(_silence_is_stale())


async def _babbles(_: Market, socket: ServerConnection) -> None:
    while True:
        await socket.send('{"type":"nonsense"}')
        await asyncio.sleep(0.02)


async def _babble_is_stale() -> None:
    listener = Listening()
    async with exchange(_babbles) as made, feeding(made.url, listener, "BTC-USD", stale_after=0.3):
        await until(lambda: made.connections >= 2)

    assert listener.words[0] == "stale"


def test_frames_without_market_data_are_no_sign_of_life() -> None:
    asyncio.run(_babble_is_stale())


async def _beats(made: Market, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    beat = {"type": "heartbeat", "sequence": 1, "product_id": "BTC-USD", "time": "2021-04-17T16:43:30.244075Z"}
    while True:
        await socket.send(json.dumps(beat))
        made.messages.append(beat)
        await asyncio.sleep(0.05)  # the exchange's rhythm


async def _heartbeats_are_life() -> None:
    listener = Listening()
    async with exchange(_beats) as made, feeding(made.url, listener, "BTC-USD", stale_after=1.0) as (feed, _):
        await until(lambda: len(made.messages) > 30)
        assert feed.problem() is None
        assert (made.connections, listener.words) == (1, ["delivering", "complete"])


def test_a_quiet_market_with_heartbeats_is_not_stale() -> None:
    asyncio.run(_heartbeats_are_life())


async def _sends_too_much_once(made: Market, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    if made.connections == 1:
        await socket.send("x" * (MAX_FRAME_BYTES + 1))
    await socket.send(ticker("BTC-USD", made.connections))
    await socket.wait_closed()


async def _an_oversized_frame_ends_the_connection() -> None:
    listener = Listening()
    async with exchange(_sends_too_much_once) as made, feeding(made.url, listener, "BTC-USD"):
        await until(lambda: len(listener.ticks) == 1)

    assert listener.ticks[0].sequence == 2
    assert made.connections == 2


def test_a_frame_over_the_size_limit_ends_the_connection_only() -> None:
    asyncio.run(_an_oversized_frame_ends_the_connection())


async def _sends_rubbish_between(made: Market, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    await socket.send(b"\x00\xff\xfe")
    await socket.send('{"type":"ticker","price":"NaN"}')
    await socket.send(ticker("BTC-USD", 1))
    await socket.wait_closed()


async def _rubbish_is_passed_over() -> None:
    listener = Listening()
    async with exchange(_sends_rubbish_between) as made, feeding(made.url, listener, "BTC-USD"):
        await until(lambda: len(listener.ticks) == 1)

    assert made.connections == 1


def test_rubbish_between_good_frames_is_passed_over() -> None:
    asyncio.run(_rubbish_is_passed_over())


async def _refuses_messages_with_an_unknown_product(made: Market, socket: ServerConnection) -> None:
    while True:
        products = await made.subscription(socket)
        if "NO-SUCH" in products:
            reason = {"type": "error", "message": "Failed to subscribe", "reason": "NO-SUCH is not a valid product"}
            await socket.send(json.dumps(reason))
        else:
            await confirm(socket, products)
            await socket.send(ticker("BTC-USD", 1))


async def _an_unknown_product_is_left_out() -> None:
    listener = Listening()
    async with (
        exchange(_refuses_messages_with_an_unknown_product) as made,
        feeding(made.url, listener, "BTC-USD", "NO-SUCH") as (feed, _),
    ):
        await until(lambda: "complete" in listener.words)
        assert feed.refused() == {"NO-SUCH": "Failed to subscribe: NO-SUCH is not a valid product"}

    assert made.connections == 1


def test_one_unknown_product_does_not_keep_the_others_away() -> None:
    asyncio.run(_an_unknown_product_is_left_out())


async def _asks_for_a_key(made: Market, socket: ServerConnection) -> None:
    await made.subscription(socket)
    reason = {"type": "error", "message": "Failed to subscribe", "reason": "full channels now require authentication."}
    await socket.send(json.dumps(reason))
    await socket.wait_closed()


async def _credentials_are_final() -> None:
    async with exchange(_asks_for_a_key) as made, feeding(made.url, Listening(), "BTC-USD") as (_, task):
        with pytest.raises(FeedRefusedError, match="require authentication"):
            await asyncio.wait_for(task, BOUND)


def test_an_exchange_that_wants_credentials_ends_the_feed() -> None:
    asyncio.run(_credentials_are_final())


async def _fails_somehow(made: Market, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    if made.connections == 1:
        await socket.send(json.dumps({"type": "error", "message": "Internal error"}))
    else:
        await confirm(socket, products)
        await socket.send(ticker("BTC-USD", 1))
    await socket.wait_closed()


async def _another_error_is_tried_again() -> None:
    listener = Listening()
    async with exchange(_fails_somehow) as made, feeding(made.url, listener, "BTC-USD"):
        await until(lambda: len(listener.ticks) == 1)

    assert made.connections == 2


def test_another_error_frame_leads_to_another_connection() -> None:
    asyncio.run(_another_error_is_tried_again())


async def _not_found_is_final() -> None:
    def not_found(_: ServerConnection, __: Request) -> Response:
        return Response(404, "Not Found", Headers())

    async def never(_: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=not_found) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with feeding(url, Listening(), "BTC-USD") as (_, task):
            with pytest.raises(FeedRefusedError, match="check PULSESTREAM_EXCHANGE_URL"):
                await asyncio.wait_for(task, BOUND)


def test_an_address_without_a_feed_ends_the_feed_with_advice() -> None:
    asyncio.run(_not_found_is_final())


async def _maintenance_passes() -> None:
    pages = 0

    def second_is_a_page(_: ServerConnection, __: Request) -> Response | None:
        nonlocal pages
        pages += 1
        return Response(404, "Not Found", Headers()) if pages == 2 else None

    async def one_tick(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(ticker("BTC-USD", pages))
        if pages > 2:
            await socket.wait_closed()

    listener = Listening()
    async with serve(one_tick, "127.0.0.1", 0, process_request=second_is_a_page) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with feeding(url, listener, "BTC-USD"):
            await until(lambda: [tick.sequence for tick in listener.ticks] == [1, 3])


def test_a_page_in_place_of_a_feed_that_delivered_is_waited_for() -> None:
    asyncio.run(_maintenance_passes())


async def _nonsense_url_is_final() -> None:
    async with feeding("https://example.invalid", Listening(), "BTC-USD") as (_, task):
        with pytest.raises(FeedRefusedError, match="check PULSESTREAM_EXCHANGE_URL"):
            await asyncio.wait_for(task, BOUND)


def test_a_url_that_is_no_websocket_ends_the_feed_with_advice() -> None:
    asyncio.run(_nonsense_url_is_final())


async def _sends_a_lot(made: Market, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    for sequence in range(1, MANY + 1):
        await socket.send(ticker("BTC-USD", sequence, padding=MANY))  # more than the kernel's buffers hold
        made.messages.append({"sent": sequence})
    await socket.wait_closed()


async def _a_slow_listener_holds_up_the_socket() -> None:
    listener = Listening(held=asyncio.Event())
    async with exchange(_sends_a_lot) as made, feeding(made.url, listener, "BTC-USD", stale_after=1.0):
        await until(lambda: len(made.messages) > 100)
        sent = -1
        while sent != len(made.messages):
            sent = len(made.messages)
            await asyncio.sleep(1.2)  # held up: nothing is sent for longer than an open connection may be silent
        assert sent < MANY
        assert listener.ticks == []
        assert made.connections == 1
        assert listener.held is not None
        listener.held.set()
        await until(lambda: len(listener.ticks) == MANY)

    assert [tick.sequence for tick in listener.ticks] == list(range(1, MANY + 1))


def test_a_slow_listener_holds_up_the_socket_and_loses_nothing() -> None:
    asyncio.run(_a_slow_listener_holds_up_the_socket())


# ---- two connections that overlap ----


async def _ticks_for_ever(made: Market, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    for sequence in range(1, 1_000_000):
        await socket.send(ticker(products[0], sequence))
        await asyncio.sleep(0.01)  # the exchange's rhythm


async def _an_old_connection_is_replaced() -> None:
    listener = Listening()
    limits = replace(LIMITS, max_age=0.2)
    async with (
        exchange(_ticks_for_ever) as made,
        feeding(made.url, listener, "BTC-USD", limits=limits, stale_after=2.0),
    ):
        await until(lambda: made.connections >= 4 and len(made.close_codes) >= 2)
        open_at_once, replaced = _open_sockets(made), made.close_codes[:2]  # the end may cut a replacement short

    assert listener.words[:2] == ["delivering", "complete"]
    assert set(listener.words[2:]) == {"stopped"}  # told by a replacement that is not complete yet, too
    assert open_at_once <= 2
    assert replaced == [1000, 1000]


def _open_sockets(made: Market) -> int:
    return sum(socket.state is State.OPEN for socket in made.sockets)


def test_a_connection_that_is_as_old_as_allowed_is_replaced_without_an_interval() -> None:
    asyncio.run(_an_old_connection_is_replaced())


class Leaving:
    """A session in which a frame `bye` says that the exchange will end the connection."""

    def __init__(self, session: Session) -> None:
        self.subscribe, self.unsubscribe, self._receive = session.subscribe, session.unsubscribe, session.receive

    def receive(self, frame: Frame, received_time: int) -> Sequence[Outcome]:
        return [Closing("bye")] if frame == b"bye" else self._receive(frame, received_time)


class ExchangeThatLeaves:
    """Coinbase with a word of goodbye."""

    name, url, limits, rest, symbol = COINBASE.name, COINBASE.url, LIMITS, COINBASE.rest, COINBASE.symbol

    def session(self, channels: Collection[str] = ("ticks", "trades")) -> Session:
        return Leaving(COINBASE.session(channels))


async def _a_successor_is_complete_before_the_old_connection_ends() -> None:
    listener, may_confirm = Listening(), asyncio.Event()

    async def behave(made: Market, socket: ServerConnection) -> None:
        number = made.connections
        products = await made.subscription(socket)
        if number == 2:
            await socket.send(ticker("BTC-USD", 1_000))
            await may_confirm.wait()
        await confirm(socket, products)
        await socket.send(ticker("BTC-USD", number))
        if number == 1:
            await socket.send("bye")
        await socket.wait_closed()

    async with exchange(behave) as made, feeding(made.url, listener, "BTC-USD", exchange=ExchangeThatLeaves()):
        await until(lambda: len(listener.ticks) == 2)
        assert _open_sockets(made) == 2
        may_confirm.set()
        await until(lambda: len(made.close_codes) == 1)
        assert made.sockets[0].state is State.CLOSED

    assert listener.words == ["delivering", "complete", "stopped"]


def test_a_connection_that_the_exchange_will_end_goes_on_until_its_successor_is_complete() -> None:
    asyncio.run(_a_successor_is_complete_before_the_old_connection_ends())


async def _the_old_connection_breaks_first() -> None:
    listener, may_confirm = Listening(), asyncio.Event()

    async def behave(made: Market, socket: ServerConnection) -> None:
        number = made.connections
        products = await made.subscription(socket)
        if number == 1:
            await confirm(socket, products)
            await socket.send(ticker("BTC-USD", 1))
            await socket.send("bye")
            await until(lambda: len(listener.ticks) == 2)
            return
        await socket.send(ticker("BTC-USD", 2))
        await may_confirm.wait()
        await confirm(socket, products)
        await socket.send(ticker("BTC-USD", 3))
        await socket.wait_closed()

    async with exchange(behave) as made, feeding(made.url, listener, "BTC-USD", exchange=ExchangeThatLeaves()):
        await until(lambda: "disconnected" in listener.words)
        may_confirm.set()
        await until(lambda: listener.words.count("complete") == 2)

    assert listener.words[:5] == ["delivering", "complete", "disconnected", "delivering", "complete"]
    assert listener.told[2][1] == listener.ticks[0].received_time
    assert listener.told[4][1] == listener.ticks[2].received_time
    assert made.connections == 2


def test_an_old_connection_that_breaks_before_its_successor_is_complete_leaves_an_interval() -> None:
    asyncio.run(_the_old_connection_breaks_first())


async def _says_goodbye_at_once(made: Market, socket: ServerConnection) -> None:
    await made.subscription(socket)
    await socket.send("bye")
    await socket.wait_closed()


async def _goodbyes_do_not_pile_up() -> None:
    at_once = 0
    pace = Pace(0.01, 0.01)
    async with (
        exchange(_says_goodbye_at_once) as made,
        feeding(made.url, Listening(), "BTC-USD", exchange=ExchangeThatLeaves(), pace=pace, stale_after=0.3),
    ):
        while made.connections < 6:
            at_once = max(at_once, _open_sockets(made))
            await asyncio.sleep(0.005)

    assert at_once <= 2


def test_an_exchange_that_says_goodbye_to_every_connection_has_two_at_most() -> None:
    asyncio.run(_goodbyes_do_not_pile_up())


# ---- many products ----


async def _confirms_everything(made: Market, socket: ServerConnection) -> None:
    products: list[str] = []
    while True:
        products += await made.subscription(socket)
        await confirm(socket, products)
        await socket.send(ticker(products[-1], len(made.messages)))


async def _many_products_are_asked_for_at_the_exchanges_pace() -> None:
    listener = Listening()
    products = [f"P{number:04}-USD" for number in range(1_000)]
    limits = replace(LIMITS, messages_per_second=10.0, products=1_000)
    async with (
        exchange(_confirms_everything) as made,
        feeding(made.url, listener, *products, limits=limits) as (feed, _),
    ):
        await until(lambda: "complete" in listener.words)
        feed.measure()
        assert REGISTRY.get_sample_value("pulsestream_feed_products", {"exchange": "coinbase", "shard": "0"}) == 1_000

    assert len(made.messages) == 10
    assert made.times[-1] - made.times[0] >= 0.7, "nine pauses of 0.1 s, as far as the server can tell"


def test_hundreds_of_products_are_subscribed_within_the_exchanges_rate() -> None:
    asyncio.run(_many_products_are_asked_for_at_the_exchanges_pace())


async def _products_beyond_the_limit_are_refused() -> None:
    listener = Listening()
    limits = replace(LIMITS, products=2)
    async with (
        exchange(_confirms_everything) as made,
        feeding(made.url, listener, "B-USD", "C-USD", limits=limits) as (feed, _),
    ):
        await until(lambda: "complete" in listener.words)
        feed.want(["A-USD", "B-USD", "C-USD"])
        refused = feed.refused()

    assert list(refused) == ["A-USD"]
    assert "raise PULSESTREAM_FEED_SHARDS" in refused["A-USD"]
    assert made.connections == 1


def test_products_beyond_the_limit_are_refused_and_those_fed_stay() -> None:
    asyncio.run(_products_beyond_the_limit_are_refused())


async def _refuses_bogus_products_and_closes(made: Market, socket: ServerConnection) -> None:
    while True:
        products = await made.subscription(socket)
        bogus = [product for product in products if product.startswith("NO-")]
        for product in bogus:
            reason = f"{product} is not a valid product"
            await socket.send(json.dumps({"type": "error", "message": "Failed to subscribe", "reason": reason}))
        if not bogus:
            await confirm(socket, products)
            await socket.send(ticker("BTC-USD", made.connections))
            return


async def _bogus_products_cost_no_rounds_again() -> None:
    listener = Listening()
    bogus = [f"NO-{number:04}" for number in range(2_000)]
    limits = replace(LIMITS, products=5_000, messages_per_second=1_000.0)
    async with (
        exchange(_refuses_bogus_products_and_closes) as made,
        feeding(made.url, listener, "BTC-USD", *bogus, limits=limits),
    ):
        await until(lambda: "complete" in listener.words)
        first = len(made.messages)
        await until(lambda: listener.words.count("complete") == 3)

    assert first <= 2 * 2_001 / 100
    assert [message["product_ids"] for message in made.messages[first : first + 2]] == [["BTC-USD"]] * 2


def test_thousands_of_refused_products_cost_nothing_on_the_next_connection() -> None:
    asyncio.run(_bogus_products_cost_no_rounds_again())


# ---- storms ----


class Recording:
    """A guard's sleep that never ends, and what it was asked for."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.Event().wait()


async def _feeds_share_the_attempts_of_a_host() -> None:
    asked = Recording()
    guard, limits = StormGuard(sleep=asked.sleep), replace(LIMITS, connects_per_minute=12.0)
    async with exchange(_accepts_and_closes) as made, AsyncExitStack() as feeds:
        for _ in range(8):
            pace = Pace(0.001, 0.001)
            feed = feeding(made.url, Listening(), "BTC-USD", limits=limits, guard=guard, pace=pace)
            await feeds.enter_async_context(feed)
        await until(lambda: len(asked.pauses) == 8)
        assert made.connections == 6

    assert asked.pauses == pytest.approx([10.0 * turn for turn in range(1, 9)], abs=4.0)


def test_all_feeds_of_a_host_share_its_attempts() -> None:
    asyncio.run(_feeds_share_the_attempts_of_a_host())


async def _retry_after_holds_up_every_feed() -> None:
    def busy(_: ServerConnection, __: Request) -> Response:
        return Response(429, "Too Many Requests", Headers({"Retry-After": "30"}))

    async def never(_: ServerConnection) -> None:
        raise AssertionError

    asked = Recording()
    guard = StormGuard(sleep=asked.sleep)
    async with serve(never, "127.0.0.1", 0, process_request=busy) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with feeding(url, Listening(), "BTC-USD", guard=guard) as (feed, _):
            await until(lambda: "HTTP 429" in (feed.problem() or ""))
            async with feeding(url, Listening(), "ETH-USD", guard=guard):
                await until(lambda: len(asked.pauses) == 1)

    assert asked.pauses == pytest.approx([30.0], abs=10.0)


def test_an_exchange_that_is_busy_holds_up_every_feed_of_its_host() -> None:
    asyncio.run(_retry_after_holds_up_every_feed())


# ---- what is measured and passed on ----


async def _trades_and_heartbeats_are_passed_on() -> None:
    listener = Listening()

    async def behave(made: Market, socket: ServerConnection) -> None:
        await confirm(socket, await made.subscription(socket))
        beat = {"type": "heartbeat", "product_id": "BTC-USD", "last_trade_id": 7, "time": "2021-04-17T16:43:30Z"}
        await socket.send(json.dumps(beat))
        trade = {"trade_id": 7, "price": "1.5", "size": "2", "side": "sell", "time": "2021-04-17T16:43:30Z"}
        await socket.send(json.dumps(trade | {"type": "match", "product_id": "BTC-USD"}))
        await socket.wait_closed()

    async with exchange(behave) as made, feeding(made.url, listener, "BTC-USD"):
        await until(lambda: len(listener.ticks) == 1)

    assert [(type(record), record.trade_id) for record in listener.ticks] == [(Trade, 7)]
    assert [(beat.product, beat.last_trade_id) for beat in listener.beats] == [("BTC-USD", 7)]


def test_trades_and_heartbeats_are_passed_on() -> None:
    asyncio.run(_trades_and_heartbeats_are_passed_on())


async def _measures() -> None:
    listener = Listening()
    ahead = format_rfc3339(wall_clock() + 2_000_000)

    async def behave(made: Market, socket: ServerConnection) -> None:
        await confirm(socket, await made.subscription(socket))
        await socket.send(ticker("BTC-USD", 1, time=ahead))
        await socket.wait_closed()

    before = _value("pulsestream_feed_latency_seconds_sum", exchange="coinbase", dataset="ticks")
    first = _value("pulsestream_feed_first_record_seconds_count", exchange="coinbase")
    now = wall_clock()
    clocks = Clocks(wall=lambda: now)
    async with exchange(behave) as made:
        feed = Feed(FeedConfig(made.url, LIMITS, shard=5), COINBASE, listener, StormGuard(), clocks=clocks)
        feed.want(["BTC-USD"])
        task = asyncio.create_task(feed.run())
        await until(lambda: len(listener.ticks) == 1)
        now += 7_000_000
        feed.measure()
        assert _value("pulsestream_feed_silent_seconds", exchange="coinbase", shard="5") == 7.0
        assert _value("pulsestream_feed_connected", exchange="coinbase", shard="5") == 1.0
        feed.stop()
        await task

    assert _value("pulsestream_feed_latency_seconds_sum", exchange="coinbase", dataset="ticks") == before
    assert _value("pulsestream_feed_first_record_seconds_count", exchange="coinbase") == first + 1
    sample = REGISTRY.get_sample_value("pulsestream_feed_silent_seconds", {"exchange": "coinbase", "shard": "5"})
    assert sample is None


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_silence_and_the_first_record_are_measured_and_no_latency_is_negative() -> None:
    asyncio.run(_measures())
