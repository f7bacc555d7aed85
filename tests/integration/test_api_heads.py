"""A request's head is bounded in size, number and time, on real connections to uvicorn as the API sets it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn

from api import http_protocol
from api.asgi import Answer, Receive, Scope, Send, send_answer
from api.http_protocol import MAX_HEAD, MAX_HEADERS
from api.server import server_config

Scenario = Callable[[int], Awaitable[Any]]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def works(_: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send_answer(send, Answer(200, b"{}"))


def served(scenario: Scenario) -> Any:
    """Run a scenario with the port of a running server."""

    async def run() -> Any:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(server_config(works))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                return await asyncio.wait_for(scenario(listener.getsockname()[1]), 30)
            finally:
                server.should_exit = True
                await serving

    return asyncio.run(run())


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(port: int, *pieces: bytes) -> tuple[int, dict[str, Any], bool]:
    """Send pieces; returns the status and document of the answer, and whether the server closed the connection."""
    async with connected(port) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        try:
            closed = await asyncio.wait_for(reader.read(1), 0.3) == b""
        except TimeoutError:
            closed = False
    return int(head.split()[1]), json.loads(body), closed


@pytest.mark.parametrize(
    ("pieces", "status", "closed"),
    [
        ((GET + b"\r\n",), 200, False),
        ((GET, b"X: ", b"y" * 1000, b"\r\n\r\n"), 200, False),
        ((b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,), 200, False),
        ((GET + b"X: " + b"y" * MAX_HEAD + b"\r\n\r\n",), 431, True),
        ((GET + b"".join(b"X-%d: y\r\n" % number for number in range(MAX_HEADERS)) + b"\r\n",), 431, True),
        ((b"GET /" + b"y" * MAX_HEAD + b" HTTP/1.1\r\nHost: x\r\n\r\n",), 431, True),
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), 400, True),
    ],
)
def test_a_head_is_taken_up_to_its_bounds_and_refused_with_a_problem(
    pieces: tuple[bytes, ...],
    status: int,
    closed: bool,  # noqa: FBT001 - parametrised
) -> None:
    async def scenario(port: int) -> None:
        answered, document, was_closed = await exchange(port, *pieces)
        assert (answered, was_closed) == (status, closed)
        assert status == 200 or document["type"].startswith("urn:pulsestream:problem:")

    served(scenario)


def test_a_head_without_an_end_is_cut_at_the_bound() -> None:
    async def scenario(port: int) -> int:
        sent = 0
        async with connected(port) as (_, writer):
            writer.write(GET + b"X: ")
            with suppress(ConnectionError):
                for _ in range(10_000):
                    writer.write(b"y" * 16_384)
                    await writer.drain()
                    sent += 16_384
        return sent

    assert served(scenario) < 16 * 1024 * 1024


def test_requests_one_behind_the_other_are_bounded_each_for_itself() -> None:
    async def scenario(port: int) -> bytes:
        answers = b""
        async with connected(port) as (reader, writer):
            for _ in range(20):
                writer.write(GET + b"X: " + b"y" * (MAX_HEAD // 2) + b"\r\n\r\n")
            while answers.count(b"HTTP/1.1 200") < 20:
                answers += await asyncio.wait_for(reader.read(65_536), 10)
        return answers

    assert b"431" not in served(scenario)


@pytest.mark.parametrize("pieces", [[], [b"G"], [GET], [GET + b"\r\n", GET]])
def test_a_head_that_does_not_arrive_is_not_waited_for_for_ever(
    pieces: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_WITHIN", 0.2)

    async def scenario(port: int) -> bytes:
        async with connected(port) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
            return await asyncio.wait_for(reader.read(), 3)

    assert b"head-timeout" in served(scenario)


def test_a_connection_that_waits_between_requests_is_left_to_its_keep_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_WITHIN", 0.1)

    async def scenario(port: int) -> None:
        async with connected(port) as (reader, writer):
            for _ in range(2):
                writer.write(GET + b"\r\n")
                assert b"200" in await reader.readuntil(b"{}")
                await asyncio.sleep(0.35)  # longer than a head may take

    served(scenario)
