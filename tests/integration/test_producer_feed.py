"""The feed against real WebSocket servers that behave oddly: they close, go silent, send too much, or refuse."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from producers.coinbase import CoinbaseProtocol
from producers.errors import FeedRefusedError
from producers.feed import MAX_FRAME_BYTES, Feed, FeedConfig
from producers.pacing import Pace
from schemas.records import Tick

FAST = Pace(base=0.02, cap=0.2)
BOUND = 10.0
MANY = 3_000
Handler = Callable[[ServerConnection], Awaitable[None]]


@dataclass
class Listening:
    """Everything that a feed told, in order."""

    ticks: list[Tick] = field(default_factory=list)
    told: list[tuple[str, int | None]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    held: asyncio.Event | None = None

    async def tick(self, tick: Tick) -> None:
        if self.held is not None:
            await self.held.wait()
        self.ticks.append(tick)

    def delivering(self, at: int) -> None:
        self.told.append(("delivering", at))

    def complete(self, at: int) -> None:
        self.told.append(("complete", at))

    def lost(self, since: int | None, cause: str) -> None:
        self.told.append((cause, since))

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.told]


async def until(condition: Callable[[], bool], seconds: float = BOUND) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in servers and threads
            await asyncio.sleep(0.01)


def ticker(product: str, sequence: int, padding: int = 0) -> str:
    return json.dumps(
        {
            "type": "ticker",
            "sequence": sequence,
            "product_id": product,
            "price": "1.5",
            "side": "buy",
            "time": "2021-04-17T16:43:30.244075Z",
            "trade_id": sequence,
            "last_size": "0.04",
            "padding": "x" * padding,
        }
    )


class Exchange:
    """A server in the exchange's protocol whose oddities are given by the test. Counts what it sees."""

    def __init__(self, behave: Callable[["Exchange", ServerConnection], Awaitable[None]]) -> None:
        self.behave = behave
        self.connections = 0
        self.close_codes: list[int | None] = []
        self.messages: list[dict[str, object]] = []
        self.url = ""

    async def handle(self, socket: ServerConnection) -> None:
        self.connections += 1
        with suppress(ConnectionClosed):  # the client hanging up is part of many scenarios
            await self.behave(self, socket)
        self.close_codes.append(socket.close_code)

    async def subscription(self, socket: ServerConnection) -> list[str]:
        """Read one message and confirm everything that is subscribed to after it."""
        message = json.loads(await socket.recv())
        self.messages.append(message)
        return list(message["product_ids"])


async def confirm(socket: ServerConnection, products: Iterable[str]) -> None:
    listed = sorted(products)
    channels = [{"name": name, "product_ids": listed} for name in ("ticker", "heartbeat")]
    await socket.send(json.dumps({"type": "subscriptions", "channels": channels}))


@asynccontextmanager
async def exchange(behave: Callable[[Exchange, ServerConnection], Awaitable[None]]) -> AsyncIterator[Exchange]:
    made = Exchange(behave)
    async with serve(made.handle, "127.0.0.1", 0, close_timeout=1) as server:
        made.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


@asynccontextmanager
async def feeding(
    url: str, listener: Listening, *products: str, stale_after: float = 5.0, pace: Pace = FAST
) -> AsyncIterator[tuple[Feed, asyncio.Task[None]]]:
    config = FeedConfig(url, "coinbase", stale_after, pace)
    feed = Feed(config, CoinbaseProtocol(), listener, uniform=lambda _, high: high)
    feed.want(products)
    task = asyncio.create_task(feed.run())
    try:
        yield feed, task
    finally:
        feed.stop()
        async with asyncio.timeout(BOUND):
            await asyncio.gather(task, return_exceptions=True)


async def well_behaved(made: Exchange, socket: ServerConnection) -> None:
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


async def _accepts_and_closes(_: Exchange, socket: ServerConnection) -> None:
    await socket.close()


async def _seconds_for_five_connections() -> float:
    listener = Listening()
    begun = time.monotonic()
    async with exchange(_accepts_and_closes) as made, feeding(made.url, listener, "BTC-USD", pace=Pace(0.2, 1.0)):
        await until(lambda: made.connections == 5)
        return time.monotonic() - begun


def test_a_server_that_accepts_and_closes_is_not_hit_in_a_tight_loop() -> None:
    assert asyncio.run(_seconds_for_five_connections()) >= 0.2 + 0.4 + 0.8 + 1.0


async def _closes_after_the_first_tick(made: Exchange, socket: ServerConnection) -> None:
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


async def _goes_silent(made: Exchange, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    await socket.send(ticker("BTC-USD", made.connections))
    await socket.wait_closed()


async def _silence_is_stale() -> None:
    listener = Listening()
    async with exchange(_goes_silent) as made, feeding(made.url, listener, "BTC-USD", stale_after=0.3):
        await until(lambda: len(listener.ticks) == 2)

    assert listener.words[:3] == ["delivering", "complete", "stale"]
    assert made.connections >= 2


def test_a_silent_connection_is_given_up_as_stale() -> None:
    asyncio.run(_silence_is_stale())


async def _babbles(_: Exchange, socket: ServerConnection) -> None:
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


async def _beats(made: Exchange, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    beat = {"type": "heartbeat", "sequence": 1, "product_id": "BTC-USD", "time": "2021-04-17T16:43:30.244075Z"}
    while True:
        await socket.send(json.dumps(beat))
        made.messages.append(beat)
        await asyncio.sleep(0.05)  # the exchange's rhythm


async def _heartbeats_are_life() -> None:
    listener = Listening()
    async with exchange(_beats) as made, feeding(made.url, listener, "BTC-USD", stale_after=0.3) as (feed, _):
        await until(lambda: len(made.messages) > 20)
        assert feed.problem() is None
        assert (made.connections, listener.words) == (1, ["delivering", "complete"])


def test_a_quiet_market_with_heartbeats_is_not_stale() -> None:
    asyncio.run(_heartbeats_are_life())


async def _sends_too_much_once(made: Exchange, socket: ServerConnection) -> None:
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


async def _sends_rubbish_between(made: Exchange, socket: ServerConnection) -> None:
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


async def _refuses_messages_with_an_unknown_product(made: Exchange, socket: ServerConnection) -> None:
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
        assert feed.refused() == {"NO-SUCH": "NO-SUCH is not a valid product"}

    assert made.connections == 1


def test_one_unknown_product_does_not_keep_the_others_away() -> None:
    asyncio.run(_an_unknown_product_is_left_out())


async def _asks_for_a_key(made: Exchange, socket: ServerConnection) -> None:
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


async def _fails_somehow(made: Exchange, socket: ServerConnection) -> None:
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


async def _nonsense_url_is_final() -> None:
    async with feeding("https://example.invalid", Listening(), "BTC-USD") as (_, task):
        with pytest.raises(FeedRefusedError, match="check PULSESTREAM_EXCHANGE_URL"):
            await asyncio.wait_for(task, BOUND)


def test_a_url_that_is_no_websocket_ends_the_feed_with_advice() -> None:
    asyncio.run(_nonsense_url_is_final())


async def _sends_a_lot(made: Exchange, socket: ServerConnection) -> None:
    products = await made.subscription(socket)
    await confirm(socket, products)
    for sequence in range(1, MANY + 1):
        await socket.send(ticker("BTC-USD", sequence, padding=MANY))  # more than the kernel's buffers hold
        made.messages.append({"sent": sequence})
    await socket.wait_closed()


async def _a_slow_listener_holds_up_the_socket() -> None:
    listener = Listening(held=asyncio.Event())
    async with exchange(_sends_a_lot) as made, feeding(made.url, listener, "BTC-USD", stale_after=0.3):
        await until(lambda: len(made.messages) > 100)
        sent = -1
        while sent != len(made.messages):
            sent = len(made.messages)
            await asyncio.sleep(0.5)  # the server is held up when it sends nothing in half a second
        assert sent < MANY
        assert listener.ticks == []
        assert made.connections == 1
        assert listener.held is not None
        listener.held.set()
        await until(lambda: len(listener.ticks) == MANY)

    assert [tick.sequence for tick in listener.ticks] == list(range(1, MANY + 1))


def test_a_slow_listener_holds_up_the_socket_and_loses_nothing() -> None:
    asyncio.run(_a_slow_listener_holds_up_the_socket())
