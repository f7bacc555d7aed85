"""The REST client against a real HTTP server that misbehaves."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from producers.errors import RestAwayError, RestRefusedError
from producers.rest_client import RestClient, RestLimits
from producers.venues.protocol import RestRequest
from tests.support.rest_exchange import History, RestExchange

LIMITS = RestLimits(
    first_pause=0.01, longest_pause=0.02, connect=1.0, read=1.0, within=1.5, body_bytes=200_000, longest_hold=5.0
)
LATEST = RestRequest("/products/BTC-USD/trades", {"limit": "3"})


@pytest.fixture
def exchange() -> Iterator[RestExchange]:
    with RestExchange({"BTC-USD": History(newest=50, started=0)}) as served:
        yield served


@asynccontextmanager
async def client(
    exchange: RestExchange, rate: float = 1000.0, limits: RestLimits = LIMITS
) -> AsyncIterator[RestClient]:
    async with RestClient("x", exchange.url, rate, limits) as made:
        yield made


def get(exchange: RestExchange, request: RestRequest = LATEST, times: int = 1) -> list[bytes]:
    async def all_of_them() -> list[bytes]:
        async with client(exchange) as rest:
            return [await rest.get(request) for _ in range(times)]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("fault", ["500", "503", "408", "reset", "truncated", "silent", "drip"])
def test_a_passing_failure_is_tried_again(exchange: RestExchange, fault: str) -> None:
    exchange.misbehave([fault, fault])

    body = get(exchange)[0]

    assert body.count(b"trade_id") == 3
    assert len(exchange.asked) == 3


@pytest.mark.parametrize("status", ["429", "418"])
def test_too_many_requests_waits_as_long_as_the_exchange_says(exchange: RestExchange, status: str) -> None:
    exchange.misbehave([f"{status}:1"])

    get(exchange)

    assert exchange.asked[1].at - exchange.asked[0].at >= 0.99


def test_a_retry_after_holds_every_request(exchange: RestExchange) -> None:
    exchange.misbehave(["429:1"])

    async def two() -> float:
        async with client(exchange) as rest:
            first = asyncio.create_task(rest.get(LATEST))
            while not rest._throttle.held(time.monotonic()):  # noqa: ASYNC110 - it happens in the client
                await asyncio.sleep(0.01)
            await rest.get(LATEST)
            await first
        return exchange.asked[1].at - exchange.asked[0].at

    assert asyncio.run(two()) >= 0.99


def test_a_ban_that_is_too_long_is_said_at_once(exchange: RestExchange) -> None:
    exchange.misbehave(["418:3600"])
    started = time.monotonic()

    with pytest.raises(RestAwayError, match="wants no requests for 3600 s") as caught:
        get(exchange)

    assert caught.value.retry_in > 3_500
    assert time.monotonic() - started < 60
    assert len(exchange.asked) == 1


@pytest.mark.parametrize("fault", ["400", "403", "redirect"])
def test_what_asking_again_cannot_change_is_an_error_at_once(exchange: RestExchange, fault: str) -> None:
    exchange.misbehave([fault])

    with pytest.raises(RestRefusedError, match="not followed" if fault == "redirect" else f"{fault} "):
        get(exchange)

    assert len(exchange.asked) == 1


def test_an_unknown_product_is_refused_with_its_status(exchange: RestExchange) -> None:
    with pytest.raises(RestRefusedError, match="NotFound") as caught:
        get(exchange, RestRequest("/products/XXX-USD/trades"))

    assert caught.value.status == 404


def test_a_body_is_read_up_to_a_bound(exchange: RestExchange) -> None:
    exchange.misbehave(["huge"])

    with pytest.raises(RestRefusedError, match="more than 200000 bytes"):
        get(exchange)


def test_a_dead_api_is_not_hammered(exchange: RestExchange) -> None:
    exchange.misbehave(["500"] * 1000)

    async def hammer() -> list[float]:
        rests = []
        async with client(exchange) as rest:
            for _ in range(50):
                try:
                    await rest.get(LATEST)
                except RestAwayError as error:
                    rests.append(error.retry_in)
        return rests

    rests = asyncio.run(hammer())

    assert len(rests) == 50
    assert len(exchange.asked) == LIMITS.attempts


def test_the_rate_holds_over_all_tasks_and_can_change(exchange: RestExchange) -> None:
    async def many() -> None:
        async with client(exchange, rate=5.0, limits=RestLimits(burst=1)) as rest:
            await asyncio.gather(*(rest.get(LATEST) for _ in range(6)))
            rest.set_rate(1000.0)
            await asyncio.gather(*(rest.get(LATEST) for _ in range(20)))

    asyncio.run(many())

    times = [asked.at for asked in exchange.asked]
    assert times[5] - times[0] >= 3 / 5
    assert times[25] - times[6] < 15 / 5
