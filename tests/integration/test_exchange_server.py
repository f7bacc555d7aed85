"""The exchange simulator over real sockets, with the websockets client that the feed uses."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from producers.exchange.errors import PortBusyError, SimulatorError
from producers.exchange.server import Exchange, ExchangeOptions, serve
from producers.exchange.synthetic import write_recording
from producers.frames import FrameError, FrameWriter, read_frames
from pulsestream.core.clock import MICROS_PER_SECOND, parse_rfc3339, wall_clock

Frame = dict[str, Any]
BOUND = 60.0
BUSY = ("SKL-USD", "NMR-EUR")


@pytest.fixture
def recording(shared_data: Path) -> Path:
    return shared_data / "coinbase" / "2021-04-17.frames"


@pytest.fixture
def market(tmp_path: Path) -> Path:
    path = tmp_path / "market.frames"
    write_recording(path, seed=7, seconds=20)
    return path


def run(scenario: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND):
            await scenario

    asyncio.run(bounded())


def texts(path: Path, products: tuple[str, ...] | None = None, kinds: tuple[str, ...] = ("ticker",)) -> list[str]:
    """Return the frames of a recording that a subscriber should get."""
    found = []
    for frame in read_frames(path):
        fields = json.loads(frame.text)
        if fields["type"] in kinds and (products is None or fields["product_id"] in products):
            found.append(frame.text)
    return found


async def ask(client: ClientConnection, kind: str, products: tuple[str, ...], *channels: str) -> Frame:
    await client.send(json.dumps({"type": kind, "product_ids": products, "channels": channels}))
    return await receive(client)


async def receive(client: ClientConnection) -> Frame:
    frame: Frame = json.loads(await client.recv())
    return frame


async def until(client: ClientConnection, kind: str) -> list[str]:
    """Return the frames that arrive before the next one of a kind."""
    received: list[str] = []
    while True:
        text = str(await client.recv())
        if json.loads(text)["type"] == kind:
            return received
        received.append(text)


async def everything(exchange: Exchange, client: ClientConnection) -> list[str]:
    """Return the frames of a recording played to its end: what arrives before the answer to a last message."""
    reading = asyncio.create_task(until(client, "subscriptions"))
    await exchange.finished()
    await client.send(json.dumps({"type": "unsubscribe", "channels": ["status"]}))
    return await reading


async def closed(client: ClientConnection) -> tuple[int | None, str]:
    try:
        while True:
            await client.recv()
    except ConnectionClosed:
        return client.close_code, client.close_reason or ""


def test_every_ticker_of_the_recorded_session_is_delivered_once_and_in_order(recording: Path) -> None:
    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=recording, speed=0)) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", tuple(exchange.products), "ticker")

            assert await everything(exchange, client) == texts(recording)

    run(scenario())


def test_a_session_gets_its_channels_and_products_only(recording: Path) -> None:
    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=recording, speed=0)) as exchange, connect(exchange.url) as client:
            assert await ask(client, "subscribe", BUSY, "matches", "level2") == {
                "type": "subscriptions",
                "channels": [{"name": name, "product_ids": list(BUSY)} for name in ("matches", "level2")],
            }

            wanted = texts(recording, BUSY, ("match", "last_match", "l2update"))
            assert await everything(exchange, client) == wanted

    run(scenario())


def test_a_written_market_is_replayed_frame_by_frame(market: Path) -> None:
    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=market, speed=0)) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", ("BTC-USD", "SOL-USD", "MONA-USD"), "ticker", "matches")

            wanted = texts(market, ("BTC-USD", "SOL-USD", "MONA-USD"), ("ticker", "match"))
            assert await everything(exchange, client) == wanted

    run(scenario())


def test_unfiltered_sends_all_frames_but_recorded_answers(market: Path) -> None:
    async def scenario() -> None:
        options = ExchangeOptions(frames=market, speed=0, unfiltered=True)
        async with serve(options) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", ("BTC-USD",), "ticker")

            assert await everything(exchange, client) == texts(market, None, ("ticker", "match", "heartbeat"))

    run(scenario())


def test_spacing_is_the_recorded_one_scaled_by_speed(tmp_path: Path) -> None:
    path = tmp_path / "paced.frames"
    offsets = (0.0, 2.0, 2.5, 8.0)
    with FrameWriter(path) as writer:
        for offset in offsets:
            writer.write(
                round((1000 + offset) * MICROS_PER_SECOND), json.dumps({"type": "ticker", "product_id": "A-B"})
            )

    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=path, speed=10)) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", ("A-B",), "ticker")
            arrived = []
            for _ in offsets:
                await client.recv()
                arrived.append(time.monotonic())

        for offset, at in zip(offsets, arrived, strict=True):
            assert offset / 10 - 0.15 <= at - arrived[0] < offset / 10 + 5.0

    run(scenario())


def test_the_clock_waits_for_the_first_accepted_subscription(market: Path) -> None:
    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=market, speed=0)) as exchange, connect(exchange.url) as client:
            refused = await ask(client, "subscribe", ("NO-NO",), "ticker")
            assert refused == {
                "type": "error",
                "message": "Failed to subscribe",
                "reason": "NO-NO is not a valid product",
            }
            await client.send("{")
            assert (await receive(client))["type"] == "error"

            await ask(client, "subscribe", ("BTC-USD",), "ticker")
            assert await everything(exchange, client) == texts(market, ("BTC-USD",))

    run(scenario())


def test_who_comes_later_joins_where_the_market_is(market: Path) -> None:
    async def scenario() -> None:
        async with (
            serve(ExchangeOptions(frames=market, speed=8)) as exchange,
            connect(exchange.url) as first,
            connect(exchange.url) as second,
        ):
            await ask(first, "subscribe", ("BTC-USD",), "ticker")
            seen = [str(await first.recv()) for _ in range(3)]
            await ask(second, "subscribe", ("BTC-USD",), "ticker")
            late, rest = await asyncio.gather(everything(exchange, second), everything(exchange, first))

        assert seen + rest == texts(market, ("BTC-USD",))
        assert late == rest[len(rest) - len(late) :]
        assert late

    run(scenario())


def test_a_recording_waits_until_no_more_clients_come(market: Path) -> None:
    async def scenario() -> None:
        options = ExchangeOptions(frames=market, speed=0, start_after=0.3)
        async with serve(options) as exchange, connect(exchange.url) as early:
            await ask(early, "subscribe", ("BTC-USD",), "ticker")
            async with connect(exchange.url) as late:
                await ask(late, "subscribe", ("BTC-USD",), "ticker")
                await ask(late, "subscribe", ("ETH-USD",), "ticker")
                one, both = await asyncio.gather(everything(exchange, early), everything(exchange, late))

        assert one == texts(market, ("BTC-USD",))
        assert both == texts(market, ("BTC-USD", "ETH-USD"))

    run(scenario())


def test_an_unpaced_market_waits_while_nobody_is_subscribed(market: Path) -> None:
    async def scenario() -> None:
        wanted = texts(market, ("BTC-USD",))
        options = ExchangeOptions(frames=market, speed=0, outbox=1)
        async with serve(options) as exchange:
            async with connect(exchange.url, max_queue=1) as first:
                await ask(first, "subscribe", ("BTC-USD",), "ticker")
                assert str(await first.recv()) == wanted[0]
            async with connect(exchange.url) as second:
                await ask(second, "subscribe", ("BTC-USD",), "ticker")
                rest = await everything(exchange, second)

        assert rest == wanted[len(wanted) - len(rest) :]

    run(scenario())


def test_after_the_last_frame_the_connection_stays_and_heartbeats_go_on(recording: Path) -> None:
    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=recording, speed=0)) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", ("SKL-USD", "CRV-EUR"), "heartbeat")
            await exchange.finished()
            beats = [await receive(client) for _ in range(4)]

        assert [(beat["type"], beat["product_id"]) for beat in beats] == [
            ("heartbeat", product) for product in ("SKL-USD", "CRV-EUR") * 2
        ]
        assert {(b["product_id"], b["sequence"], b["last_trade_id"]) for b in beats} == {
            ("SKL-USD", 201392091, 1568283),
            ("CRV-EUR", 74784049, 99021),
        }
        times = [parse_rfc3339(beat["time"]) for beat in beats[::2]]
        assert 0.5 < (times[1] - times[0]) / MICROS_PER_SECOND < 2
        assert beats[0]["time"].startswith("2021-04-17T16:43:5")

    run(scenario())


def test_recorded_heartbeats_are_not_replayed_to_their_subscribers(market: Path) -> None:
    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=market, speed=0)) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", ("BTC-USD",), "heartbeat")
            received = await everything(exchange, client)

        assert not set(received) & set(texts(market, None, ("heartbeat",)))

    run(scenario())


def test_a_client_that_subscribes_to_nothing_is_disconnected(market: Path) -> None:
    async def scenario() -> None:
        options = ExchangeOptions(frames=market, subscribe_within=0.2)
        async with serve(options) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", ("NO-NO",), "ticker")

            assert await closed(client) == (1008, "no subscription in time")

    run(scenario())


def test_a_subscriber_outlives_the_time_to_subscribe_even_after_unsubscribing(market: Path) -> None:
    async def scenario() -> None:
        options = ExchangeOptions(frames=market, speed=0, subscribe_within=0.2)
        async with serve(options) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", ("BTC-USD",), "heartbeat")
            await until(client, "heartbeat")

            await ask(client, "unsubscribe", ("BTC-USD",), "heartbeat")
            assert (await ask(client, "subscribe", ("BTC-USD",), "ticker"))["type"] == "subscriptions"

    run(scenario())


def test_a_message_over_the_limit_ends_the_connection(market: Path) -> None:
    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=market)) as exchange, connect(exchange.url) as client:
            await client.send(" " * 70_000)

            assert (await closed(client))[0] == 1009

    run(scenario())


def test_a_client_that_does_not_read_is_disconnected_and_the_others_miss_nothing() -> None:
    async def scenario() -> None:
        options = ExchangeOptions(synthetic=7, products=("BTC-USD",), rate=4000, outbox=400)
        async with (
            serve(options) as exchange,
            connect(exchange.url, max_queue=None) as reader,
            connect(exchange.url, max_queue=1, close_timeout=0.1) as sleeper,
        ):
            await ask(sleeper, "subscribe", ("BTC-USD",), "ticker", "matches")
            await ask(reader, "subscribe", ("BTC-USD",), "ticker")
            trades: list[int] = []
            while exchange.clients > 1:
                trades.append((await receive(reader))["trade_id"])

        assert trades == list(range(trades[0], trades[0] + len(trades)))

    run(scenario())


def test_a_client_killed_while_frames_flow_does_not_disturb_the_others(market: Path) -> None:
    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=market, speed=20)) as exchange, connect(exchange.url) as client:
            victim = await connect(exchange.url)
            await ask(client, "subscribe", ("BTC-USD",), "ticker")
            await ask(victim, "subscribe", ("BTC-USD",), "ticker")
            await victim.recv()
            victim.transport.abort()

            assert await everything(exchange, client) == texts(market, ("BTC-USD",))

    run(scenario())


def test_an_unpaced_market_waits_for_a_slow_client_and_goes_on_when_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "large.frames"
    write_recording(path, seed=7, seconds=300, rate=20)
    products = ("BTC-USD", "ETH-USD", "SOL-USD")

    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=path, speed=0, outbox=10)) as exchange, connect(exchange.url) as reader:
            sleeper = await connect(exchange.url, max_queue=1)
            await ask(sleeper, "subscribe", tuple(exchange.products), "ticker", "matches")
            await ask(reader, "subscribe", products, "ticker")
            seen = await until_silent(reader)
            assert exchange.clients == 2
            sleeper.transport.abort()
            rest = await everything(exchange, reader)

        wanted = texts(path, products)
        assert 0 < len(seen) < len(wanted)
        assert seen + rest == wanted[-len(seen + rest) :]

    async def until_silent(client: ClientConnection) -> list[str]:
        received = []
        while True:
            try:
                received.append(str(await asyncio.wait_for(client.recv(), 1)))
            except TimeoutError:
                return received

    run(scenario())


def test_sent_frames_are_recorded_as_they_arrived(market: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        options = ExchangeOptions(frames=market, speed=0, sent=tmp_path / "sent-{session}.frames")
        async with serve(options) as exchange:
            received = []
            for products in (("BTC-USD",), ("ETH-USD",)):
                async with connect(exchange.url) as client:
                    confirmation = await ask(client, "subscribe", products, "ticker", "heartbeat")
                    rest = [text async for text in numbered(client, 5)]
                    received.append([json.dumps(confirmation, separators=(",", ":")), *rest])

        for number, session in enumerate(received, start=1):
            sent = list(read_frames(tmp_path / f"sent-{number}.frames"))
            assert [frame.text for frame in sent][: len(session)] == session
            assert all(0 <= wall_clock() - frame.received < BOUND * MICROS_PER_SECOND for frame in sent)

    async def numbered(client: ClientConnection, count: int) -> Any:
        for _ in range(count):
            yield str(await client.recv())

    run(scenario())


def test_a_synthetic_market_is_live_and_refuses_products_that_it_does_not_have() -> None:
    async def scenario() -> None:
        options = ExchangeOptions(synthetic=7, products=("ABC-EUR",), rate=20)
        begun = wall_clock()
        async with serve(options) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", ("NO-NO",), "ticker")
            await ask(client, "subscribe", ("ABC-EUR", "BTC-USD"), "ticker", "heartbeat")
            ticks: list[Frame] = []
            beat = None
            while len(ticks) < 10 or beat is None:
                frame = await receive(client)
                now = wall_clock()
                beat = frame if frame["type"] == "heartbeat" and frame["product_id"] == "ABC-EUR" else beat
                if frame["type"] == "ticker" and frame["product_id"] == "ABC-EUR":
                    ticks.append(frame)
                    assert begun <= parse_rfc3339(frame["time"]) <= now
                    assert frame["sequence"] > begun

        assert abs(parse_rfc3339(beat["time"]) - now) < BOUND * MICROS_PER_SECOND
        ids = [tick["trade_id"] for tick in ticks]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert beat["last_trade_id"] in (*ids, ids[0] - 1, ids[-1] + 1)

    run(scenario())


def test_a_loop_goes_on_with_new_ids(tmp_path: Path) -> None:
    path = tmp_path / "short.frames"
    write_recording(path, seed=7, seconds=5, products=("BTC-USD",))
    once = texts(path, ("BTC-USD",))

    async def scenario() -> None:
        options = ExchangeOptions(frames=path, speed=20, loop=True)
        async with serve(options) as exchange, connect(exchange.url) as client:
            await ask(client, "subscribe", ("BTC-USD",), "ticker")
            frames = [await receive(client) for _ in range(3 * len(once))]

        assert len({frame["sequence"] for frame in frames}) == len(frames)
        assert [frame["price"] for frame in frames[: len(once)]] == [json.loads(text)["price"] for text in once]

    run(scenario())


def test_a_recording_that_breaks_while_it_plays_ends_the_exchange(market: Path) -> None:
    def break_it() -> None:
        market.write_text("not a frame\n")

    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=market, speed=0)) as exchange:
            break_it()
            async with connect(exchange.url) as client:
                await ask(client, "subscribe", ("BTC-USD",), "ticker")

                await exchange.finished()

    with pytest.raises(FrameError, match="line 1 does not begin with epoch seconds"):
        run(scenario())


def test_a_busy_port_is_one_clear_error(market: Path) -> None:
    async def scenario() -> None:
        async with (
            serve(ExchangeOptions(frames=market)) as first,
            serve(ExchangeOptions(frames=market, port=first.port)),
        ):
            raise AssertionError("two servers on one port")

    with pytest.raises(PortBusyError, match=r"127\.0\.0\.1:\d+ is in use: stop what listens there"):
        run(scenario())


def test_a_host_that_is_not_here_is_one_clear_error(market: Path) -> None:
    async def scenario() -> None:
        async with serve(ExchangeOptions(frames=market, host="203.0.113.7")):
            raise AssertionError("served on an address of nobody")

    with pytest.raises(SimulatorError, match=r"cannot listen on 203\.0\.113\.7:0"):
        run(scenario())


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pulsestream.cli", "exchange", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_listens_and_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    with command("--synthetic", "7") as process:
        assert process.stdout is not None
        ready = process.stdout.readline()

        async def scenario() -> None:
            async with connect(ready.split()[3]) as client:
                assert (await ask(client, "subscribe", ("BTC-USD",), "ticker"))["type"] == "subscriptions"
                process.send_signal(number)
                assert (await closed(client))[0] == 1001

        assert ready.startswith("exchange simulator on ws://127.0.0.1:")
        assert ready.endswith(" (synthetic market 7, 20 products)\n")
        run(scenario())
        assert process.wait(BOUND) == 0


def test_the_command_ends_with_one_line_if_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with command("--synthetic", "7", "--port", str(port)) as process:
            _, errors = process.communicate(timeout=BOUND)

    assert process.returncode == 2
    assert f"127.0.0.1:{port} is in use" in errors
    assert "Traceback" not in errors


def test_the_command_writes_a_recording_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "written.frames"

    with command("--synthetic", "7", "--seconds", "3600", "--rate", "0.1", "--write", str(path)) as process:
        process.communicate(timeout=BOUND)

    assert process.returncode == 0
    times = [frame.received for frame in read_frames(path)]
    assert times[-1] - times[0] > 3500 * MICROS_PER_SECOND
