"""The simulator's faults, REST and records over real sockets, in the language of each exchange."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from producers.exchange.dialects import VENUES
from producers.exchange.server import Exchange, ExchangeOptions, serve
from producers.exchange.synthetic import write_recording
from producers.frames import read_frames
from producers.venues.protocol import load
from pulsestream.core.clock import wall_clock
from schemas.records import Trade
from tests.support.markets import PRODUCTS

BOUND = 60.0
BUSY = "BTC-USD"
Line = dict[str, Any]


def run(scenario: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND):
            await scenario

    asyncio.run(bounded())


def lines(path: Path, kind: str | None = None) -> list[Line]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in found if kind is None or line["kind"] == kind]


@asynccontextmanager
async def faulty(tmp_path: Path, *faults: Line, **options: Any) -> AsyncIterator[Exchange]:
    plan = tmp_path / "plan.yaml"
    plan.write_text(json.dumps({"seed": 7, "faults": faults}))
    settings = {"synthetic": 7, "products": (BUSY,), "rate": 200.0, **options}
    async with serve(
        ExchangeOptions(faults=plan, fault_log=tmp_path / "faults", truth=tmp_path / "truth", **settings)
    ) as exchange:
        yield exchange


async def subscribe(client: ClientConnection, *channels: str) -> None:
    await client.send(json.dumps({"type": "subscribe", "product_ids": [BUSY], "channels": channels or ["matches"]}))


async def trades(client: ClientConnection, count: int) -> list[int]:
    """Return the ids of so many matches; the one of the subscription does not count."""
    found: list[int] = []
    while len(found) < count:
        frame = json.loads(await client.recv())
        found += [frame["trade_id"]] if frame["type"] == "match" else []
    return found


def test_dropped_doubled_late_and_reordered_frames_are_what_the_log_says(tmp_path: Path) -> None:
    received: list[int] = []

    async def scenario() -> None:
        matches = {"channel": "trades"}
        faults = (
            {"kind": "drop", "match": matches, "when": {"every": 10, "count": 3}},
            {"kind": "duplicate", "match": matches, "when": {"every": 17, "count": 2}},
            {"kind": "reorder", "by": 2, "match": matches, "when": {"every": 23, "count": 2}},
            {"kind": "delay", "seconds": 0.5, "match": matches, "when": {"every": 31, "count": 2}},
        )
        async with faulty(tmp_path, *faults) as exchange, connect(exchange.url) as client:
            await subscribe(client)
            received.extend(await trades(client, 200))

    run(scenario())

    log = {kind: [line["trade_ids"][0] for line in lines(tmp_path / "faults", kind)] for kind in _KINDS_OF_FRAMES}
    assert [len(log[kind]) for kind in _KINDS_OF_FRAMES] == [3, 2, 2, 2]
    made = [line["trade_id"] for line in lines(tmp_path / "truth", "trade") if line["product"] == BUSY]
    assert not set(log["drop"]) & set(received)
    assert all(received.count(number) == 2 for number in log["duplicate"])
    for number in log["reorder"]:
        assert received.index(number) >= received.index(number + 2) or number + 2 in log["drop"] + log["delay"]
    for number in log["delay"]:
        assert received.index(number) > received.index(number + 5)
    late = {*log["reorder"], *log["delay"]}
    on_time = [number for number in dict.fromkeys(received) if number not in late]
    assert on_time == [number for number in made if number not in late | set(log["drop"])][: len(on_time)]


_KINDS_OF_FRAMES = ("drop", "duplicate", "reorder", "delay")


def test_a_half_open_connection_says_nothing_more_and_a_new_one_does(tmp_path: Path) -> None:
    async def scenario() -> None:
        fault = {"kind": "half_open", "match": {"channel": "trades"}, "when": {"every": 5, "count": 1}}
        async with faulty(tmp_path, fault) as exchange, connect(exchange.url, ping_interval=None) as client:
            await subscribe(client)
            await trades(client, 4)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.recv(), 1.5)
            pong = await client.ping()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pong, 0.5)
            async with connect(exchange.url) as second:
                await subscribe(second)
                await trades(second, 5)
            client.transport.abort()

    run(scenario())

    assert [line["session"] for line in lines(tmp_path / "faults")] == [1]


@pytest.mark.parametrize("code", [1001, 1011, 4000, 1006])
def test_a_connection_is_closed_with_the_code_of_the_plan(tmp_path: Path, code: int) -> None:
    async def scenario() -> None:
        fault = {"kind": "close", "code": code, "match": {"channel": "trades"}, "when": {"every": 5, "count": 1}}
        async with faulty(tmp_path, fault) as exchange, connect(exchange.url) as client:
            await subscribe(client)
            with pytest.raises(ConnectionClosed):
                await trades(client, 100)
            assert client.close_code == code

    run(scenario())

    sessions = [(line["session"], line["event"]) for line in lines(tmp_path / "truth", "session")]
    assert sessions == [(1, "opened"), (1, "subscribed"), (1, "closed")]


def test_handshakes_are_refused_or_ended_as_planned_and_then_succeed(tmp_path: Path) -> None:
    async def scenario() -> None:
        faults = (
            {"kind": "http_429", "to": "websocket", "retry_after": 3, "when": {"count": 1}},
            {"kind": "accept_then_close", "code": 1013, "when": {"count": 1}},
        )
        async with faulty(tmp_path, *faults) as exchange:
            with pytest.raises(InvalidStatus) as refused:
                await connect(exchange.url)
            async with connect(exchange.url) as ended:
                with pytest.raises(ConnectionClosed):
                    await ended.recv()
            async with connect(exchange.url) as client:
                await subscribe(client)
                await trades(client, 1)

        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["Retry-After"] == "3"
        assert ended.close_code == 1013

    run(scenario())

    assert [line["kind"] for line in lines(tmp_path / "faults")] == ["http_429", "accept_then_close"]
    events = [line["event"] for line in lines(tmp_path / "truth", "session")]
    assert events == ["refused", "closed", "opened", "subscribed", "closed"]


def test_a_frame_over_the_limit_ends_the_clients_connection_and_a_drip_slows_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        faults = (
            {"kind": "slow_drip", "seconds": 1, "bytes_per_second": 2000, "when": {"count": 1}},
            {"kind": "oversize", "bytes": 200_000, "when": {"after": 1, "count": 1}},
        )
        async with faulty(tmp_path, *faults, rate=20.0) as exchange, connect(exchange.url, max_size=100_000) as client:
            await subscribe(client)
            begun = asyncio.get_running_loop().time()
            await trades(client, 3)
            assert asyncio.get_running_loop().time() - begun > 0.3
            with pytest.raises(ConnectionClosed) as closed:
                await trades(client, 1000)
            assert closed.value.sent is not None
            assert closed.value.sent.code == 1009

    run(scenario())


def test_rest_fails_as_planned_and_never_tells_what_is_hidden_from_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        faults = (
            {"kind": "rest_missing", "match": {"product": BUSY}, "when": {"every": 4}},
            {"kind": "drop", "rest": False, "match": {"channel": "trades"}, "when": {"every": 6, "count": 3}},
            {"kind": "rest_500", "when": {"count": 1}},
            {"kind": "rest_truncated", "when": {"count": 1}},
            {"kind": "http_429", "to": "rest", "retry_after": 2, "when": {"count": 1}},
        )
        async with (
            faulty(tmp_path, *faults) as exchange,
            connect(exchange.url) as client,
            httpx.AsyncClient(base_url=exchange.url.replace("ws", "http"), trust_env=False) as http,
        ):
            await subscribe(client)
            received = await trades(client, 40)
            first = await http.get("/time")
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get("/products")
            third = await http.get("/time")
            page = await http.get(f"/products/{BUSY}/trades", params={"after": received[-1] + 1, "limit": 100})

        assert (first.status_code, third.status_code, third.headers["Retry-After"]) == (500, 429, "2")
        hidden = {i for line in lines(tmp_path / "faults", "rest_missing") for i in line["trade_ids"]}
        hidden |= {i for line in lines(tmp_path / "faults", "drop") for i in line["trade_ids"]}
        told = {trade["trade_id"] for trade in page.json()}
        made = {line["trade_id"] for line in lines(tmp_path / "truth", "trade") if line["product"] == BUSY}
        below = {number for number in made if received[0] <= number <= received[-1]}
        assert hidden & below
        assert told & below == below - hidden

    run(scenario())


def test_too_many_requests_are_answered_with_429_and_when_to_come_again() -> None:
    async def scenario() -> None:
        async with (
            serve(ExchangeOptions(synthetic=7, rest_rate=1)) as exchange,
            httpx.AsyncClient(base_url=exchange.url.replace("ws", "http"), trust_env=False) as http,
        ):
            answers = [await http.get("/time") for _ in range(40)]

        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert answers[0].status_code == 200
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)

    run(scenario())


@pytest.mark.parametrize("venue", sorted(VENUES))
def test_an_exchanges_own_client_hears_and_reads_again_every_trade(venue: str, tmp_path: Path) -> None:
    products = PRODUCTS[venue][:2]
    path = {"binance": "/stream", "kraken": "/v2", "coinbase": ""}[venue]
    heard: list[Trade] = []
    read: list[Trade] = []

    async def scenario() -> None:
        language = load(venue)
        options = ExchangeOptions(
            venue=venue, synthetic=7, products=products, rate=100.0, truth=tmp_path / "truth", rest_rate=0
        )
        async with (
            serve(options) as exchange,
            connect(exchange.url + path, max_queue=None) as client,
            httpx.AsyncClient(base_url=exchange.url.replace("ws", "http"), trust_env=False) as http,
        ):
            session = language.session()
            for message in session.subscribe(products):
                await client.send(message)
            while len(heard) < 300:
                heard.extend(o for o in session.receive(await client.recv(), wall_clock()) if isinstance(o, Trade))
            for product in products:
                ids = [trade.trade_id for trade in heard if trade.product == product]
                request = language.rest.trades(product, ids[0], heard[0].exchange_time)
                answer = await http.get(request.path, params=dict(request.query))
                found = language.rest.parse_trades(product, answer.content, wall_clock())
                read.extend(trade for trade in found if ids[0] <= trade.trade_id <= ids[-1])

    run(scenario())

    made = {(line["product"], line["trade_id"]): line for line in lines(tmp_path / "truth", "trade")}
    for trade in heard + read:
        truth = made.get((trade.product, trade.trade_id))
        if truth is not None:  # else it happened before the start
            assert (float(truth["price"]), float(truth["size"]), truth["side"]) == (trade.price, trade.size, trade.side)
    assert {t.event_id for t in read} == {t.event_id for t in heard}


@pytest.mark.parametrize("venue", ["binance", "kraken"])
def test_a_written_recording_is_replayed_frame_by_frame_in_its_own_language(venue: str, tmp_path: Path) -> None:
    path = tmp_path / "market.frames"
    write_recording(path, seed=7, seconds=10, venue=venue)
    language = load(venue)
    session = language.session()

    recorded = [frame.text for frame in read_frames(path)]
    wanted = [text for text in recorded if '"status"' not in text and '"heartbeat"' not in text]
    received: list[str] = []

    async def scenario() -> None:
        options = ExchangeOptions(venue=venue, frames=path, speed=0, unfiltered=True)
        async with serve(options) as exchange, connect(exchange.url + "/stream") as client:
            for message in session.subscribe(exchange.products[:1]):
                await client.send(message)
            while len(received) < len(wanted):
                text = str(await client.recv())
                received.extend([text] if text in set(wanted) else [])

    run(scenario())

    assert received == wanted


@pytest.mark.parametrize("speed", [0, 20])
def test_a_recording_goes_wrong_by_plan_too(tmp_path: Path, speed: float) -> None:
    path = tmp_path / "market.frames"
    write_recording(path, seed=7, seconds=10, products=(BUSY,))
    wanted = [frame.text for frame in read_frames(path) if '"type":"match"' in frame.text]
    received: list[str] = []

    async def scenario() -> None:
        fault = {"kind": "drop", "match": {"channel": "trades"}, "when": {"every": 5}}
        options = {"synthetic": None, "frames": path, "speed": speed, "products": (), "rate": 2.0}
        async with faulty(tmp_path, fault, **options) as exchange, connect(exchange.url) as client:
            await subscribe(client, "matches")
            await client.recv()
            received.extend([str(await client.recv()) for _ in range(len(wanted) - len(wanted) // 5)])
            page = json.loads(await _get(exchange.url, f"/products/{BUSY}/trades"))
            assert len(page) == len(wanted)

    run(scenario())

    assert received == [text for number, text in enumerate(wanted, start=1) if number % 5]
    assert [line["text"] for line in lines(tmp_path / "faults")] == wanted[4::5]


async def _get(url: str, path: str) -> bytes:
    async with httpx.AsyncClient(base_url=url.replace("ws", "http"), trust_env=False) as http:
        return (await http.get(path)).content


def test_a_real_recording_of_binance_is_replayed(shared_data: Path) -> None:
    path = shared_data / "binance" / "2021-10-12-us.frames"
    wanted = [frame.text for frame in read_frames(path)]
    received: list[str] = []

    async def scenario() -> None:
        options = ExchangeOptions(venue="binance", frames=path, speed=0, unfiltered=True)
        async with serve(options) as exchange, connect(exchange.url + "/stream") as client:
            stream = json.loads(wanted[0])["stream"]
            await client.send(json.dumps({"method": "SUBSCRIBE", "params": [stream], "id": 1}))
            assert json.loads(await client.recv()) == {"result": None, "id": 1}
            received.extend([str(await client.recv()) for _ in wanted])

    run(scenario())

    assert received == wanted


def test_binance_announces_the_end_of_a_connection_and_ends_it() -> None:
    async def scenario() -> None:
        options = ExchangeOptions(venue="binance", synthetic=7, max_age=1.0, notice=0.5)
        async with serve(options) as exchange, connect(f"{exchange.url}/ws/btcusdt@trade") as client:
            kinds = [json.loads(text)["e"] async for text in client]

        assert "serverShutdown" in kinds
        assert client.close_code == 1001

    run(scenario())
