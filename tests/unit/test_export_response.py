"""An export's answer as plain ASGI: what it sends, and how it ends when something fails on the way."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from api import errors
from api.errors import Problem
from api.search import export
from api.search.encoding import Record
from api.search.export import Export, ExportResponse, Exports


async def pages(*made: Sequence[Record] | Exception) -> AsyncGenerator[Sequence[Record], None]:
    for one in made:
        if isinstance(one, Exception):
            raise one
        yield one


class Client:
    """What a server gives an application; `stalls_after` messages nothing more is taken."""

    def __init__(self, stalls_after: int = 1000, *, leaves: bool = False) -> None:
        self.sent: list[Any] = []
        self.is_cut = False
        self.scope: Any = {"type": "http", "extensions": {"pulsestream.abort": {"pulsestream.abort": self.cut}}}
        self._stalls_after = stalls_after
        self._leaves = leaves
        self._left = asyncio.Event()

    def cut(self) -> None:
        self.is_cut = True

    async def receive(self) -> Any:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if len(self.sent) >= self._stalls_after:
            await asyncio.Event().wait()
        self.sent.append(message)
        if self._leaves and len(self.sent) > 1:
            self._left.set()
        await asyncio.sleep(0.005)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def is_whole(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False


def answer(client: Client, *made: Sequence[Record] | Exception, exports: Exports | None = None) -> None:
    response = ExportResponse(Export("acme", "ndjson", ["a"], pages(*made)), exports or Exports())
    asyncio.run(response(client.scope, client.receive, client.send))


def test_every_page_is_sent_and_then_the_end() -> None:
    client = Client()

    answer(client, [{"a": 1}, {"a": 2}], [{"a": None}])

    assert client.body == b'{"a":1}\n{"a":2}\n{"a":null}\n'
    assert client.is_whole
    assert not client.is_cut


def test_what_fails_before_the_first_row_is_a_problem() -> None:
    client, exports = Client(), Exports()

    with pytest.raises(Problem):
        answer(client, errors.database_away(), exports=exports)

    assert client.sent == []
    with exports.turn("acme"), exports.turn("acme"):
        pass


def test_what_fails_half_way_cuts_the_connection_and_never_looks_whole() -> None:
    client = Client()

    answer(client, [{"a": 1}], errors.database_away())

    assert client.body == b'{"a":1}\n'
    assert client.is_cut
    assert not client.is_whole


def test_a_client_that_takes_nothing_for_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "STALL", 0.05)
    client = Client(stalls_after=2)

    answer(client, [{"a": 1}], [{"a": 2}], [{"a": 3}])

    assert client.is_cut
    assert not client.is_whole


def test_nothing_more_is_read_for_a_client_that_has_left() -> None:
    client = Client(leaves=True)
    read = 0

    async def endless() -> AsyncGenerator[Sequence[Record], None]:
        nonlocal read
        while True:
            read += 1
            yield [{"a": read}]

    response = ExportResponse(Export("acme", "csv", ["a"], endless()), Exports())
    asyncio.run(asyncio.wait_for(response(client.scope, client.receive, client.send), 30))

    assert not client.is_whole
    assert read < 1000


def test_the_exports_of_a_tenant_and_of_all_are_bounded() -> None:
    exports = Exports()

    def nested(tenants: list[str]) -> None:
        if tenants:
            with exports.turn(tenants[0]):
                nested(tenants[1:])

    nested(["a", "a", "b", "b", "c", "c", "d", "d"])
    with pytest.raises(Problem, match="2 exports of this tenant"):
        nested(["a", "a", "a"])
    with pytest.raises(Problem, match="8 exports are under way"):
        nested(["a", "a", "b", "b", "c", "c", "d", "d", "e"])
    nested(["a", "a", "b", "b", "c", "c", "d", "d"])
