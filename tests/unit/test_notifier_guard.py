"""Connections to addresses that tenants name go to a checked address, or nowhere. A real server stands behind."""

import asyncio
import ipaddress
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from pulsestream.core.targets import Address, parse_networks
from sinks.notifier.outbound import Answer, Client, OutboundError, RefusedTargetError, Resolver
from tests.support.notifying import LOCAL, Receiver, receiver

LOOPBACK = ipaddress.ip_address("127.0.0.1")
PUBLIC = ipaddress.ip_address("93.184.216.34")


@pytest.fixture(scope="module")
def inbox() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


class Names:
    """A resolver that answers each look-up with the next list."""

    def __init__(self, *answers: Sequence[Address]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> Sequence[Address]:
        self.asked.append(host)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def post(url: str, names: Names | None = None, private: str = "", seconds: float = 2.0) -> Answer:
    async def work() -> Answer:
        client = Client(parse_networks(private, "X"), seconds, names)
        try:
            return await client.post(url, {"webhook-id": "1"}, b"{}")
        finally:
            await client.close()

    return asyncio.run(work())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0", "017700000001"],
)
def test_no_spelling_of_loopback_is_reached(inbox: Receiver, host: str) -> None:
    before = len(inbox.received)

    with pytest.raises(OutboundError) as caught:
        post(inbox.url("/ok/hidden", host))

    assert isinstance(caught.value, RefusedTargetError) or "Name or service not known" in str(caught.value)
    assert len(inbox.received) == before


def test_one_private_address_among_public_ones_is_enough_to_refuse(inbox: Receiver) -> None:
    with pytest.raises(RefusedTargetError, match="private or special network"):
        post(f"https://mixed.example:{inbox.port}/ok/mixed", Names([PUBLIC, LOOPBACK]))

    assert inbox.at("/ok/mixed") == []


def test_a_name_is_looked_up_once_and_the_connection_goes_to_what_was_checked(inbox: Receiver) -> None:
    rebinding = Names([LOOPBACK], [ipaddress.ip_address("10.0.0.1")])

    answer = post(inbox.url("/ok/rebound", "rebinding.example"), rebinding, LOCAL)

    assert (answer.status, rebinding.asked) == (200, ["rebinding.example"])
    [request] = inbox.at("/ok/rebound")
    assert request.headers["host"] == f"rebinding.example:{inbox.port}"


def test_plain_http_goes_to_allowed_networks_only() -> None:
    with pytest.raises(RefusedTargetError, match="use https"):
        post("http://public.example/", Names([PUBLIC]))


def test_what_is_allowed_is_one_network_and_not_its_neighbours(inbox: Receiver) -> None:
    assert post(inbox.url("/ok/allowed"), private="127.0.0.1/32").status == 200
    with pytest.raises(RefusedTargetError):
        post(inbox.url("/ok/allowed", "neighbour.example"), Names([ipaddress.ip_address("127.0.0.2")]), "127.0.0.1/32")


def test_proxies_of_the_environment_are_not_used(inbox: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, inbox.url("/"))

    with pytest.raises(RefusedTargetError):
        post("http://127.0.0.1:1/ok/proxied")
    assert [request for request in inbox.received if "proxied" in request.path] == []


def test_a_name_that_nobody_answers_is_given_up_in_time() -> None:
    async def never(_host: str, _port: int) -> Sequence[Address]:
        await asyncio.sleep(60)
        return []

    async def work(resolve: Callable[[str, int], Coroutine[Any, Any, Sequence[Address]]]) -> None:
        client = Client((), 0.2, resolve)
        try:
            with pytest.raises(OutboundError, match=r"no answer within 0\.2 s"):
                await client.post("https://silent.example/", {}, b"")
        finally:
            await client.close()

    asyncio.run(work(never))


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".com"])
def test_a_name_that_cannot_be_one_has_no_address(name: str) -> None:
    resolver = Resolver()
    try:
        with pytest.raises(OSError, match="cannot be looked up"):
            asyncio.run(resolver(name, 443))  # type: ignore[arg-type] # a coroutine
    finally:
        resolver.close()
