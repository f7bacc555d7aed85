"""Exports: a whole walk as one stream, at the pace of whoever reads it.

Of the rows one page is in memory at a time, and no transaction is open while the client takes it. A client that takes
nothing for too long is cut off, and so is one whose export fails half-way: a stream that ends without HTTP's last chunk
is not whole.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from api import errors
from api.asgi import Receive, Scope, Send
from api.http_protocol import abort
from api.search.encoding import MEDIA_TYPES, Format, Record, encoded, first_bytes
from pulsestream.core.log import logger
from pulsestream.core.metrics import EXPORTED_ROWS, EXPORTS

AT_ONCE: Final = 8
"""Exports of all tenants together."""
OF_TENANT: Final = 2
STALL: Final = 60.0
"""Seconds for which a client may take nothing."""
_log = logger(__name__)


class Exports:
    """How many exports are under way."""

    def __init__(self) -> None:
        self._of_tenants: dict[str, int] = {}

    @contextmanager
    def turn(self, tenant: str) -> Iterator[None]:
        """Take part; raises Problem 503 where there is no room."""
        own = self._of_tenants.get(tenant, 0)
        if own >= OF_TENANT:
            raise errors.overloaded(f"{own} exports of this tenant are under way")
        if sum(self._of_tenants.values()) >= AT_ONCE:
            raise errors.overloaded(f"{AT_ONCE} exports are under way")
        self._of_tenants[tenant] = own + 1
        try:
            yield
        finally:
            left = self._of_tenants[tenant] - 1
            if left:
                self._of_tenants[tenant] = left
            else:
                del self._of_tenants[tenant]


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported: the names of the columns, and pages of rows as they are read."""

    tenant: str
    form: Format
    header: Sequence[str]
    pages: AsyncGenerator[Sequence[Record], None]


async def arranged(
    pages: AsyncGenerator[Sequence[Mapping[str, Any]], None], arrange: Callable[[Sequence[Any]], Sequence[Record]]
) -> AsyncGenerator[Sequence[Record], None]:
    """Give the same pages with their rows arranged otherwise."""
    async with aclosing(pages):
        async for page in pages:
            yield arrange(page)


class ExportResponse(Response):
    """An answer that is made while it is sent."""

    def __init__(self, export: Export, exports: Exports) -> None:
        super().__init__(media_type=MEDIA_TYPES[export.form])
        del self.headers["content-length"]
        self._export = export
        self._exports = exports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; raises Problem as long as nothing is sent, and ends the connection afterwards."""
        with self._exports.turn(self._export.tenant):
            async with aclosing(self._export.pages) as pages:
                first: Sequence[Record] = await anext(pages, [])
                gone = asyncio.ensure_future(_gone(receive))
                try:
                    await self._send(first, pages, send, gone)
                except TimeoutError:
                    self._cut(scope, "stalled", f"nothing was taken for {STALL:.0f} s")
                except Exception as error:  # noqa: BLE001 - whatever it is, the client must not take it for the end
                    self._cut(scope, "failed", str(error))
                finally:
                    gone.cancel()

    async def _send(
        self,
        first: Sequence[Record],
        pages: AsyncGenerator[Sequence[Record], None],
        send: Send,
        gone: "asyncio.Future[None]",
    ) -> None:
        export = self._export
        await _in_time(send({"type": "http.response.start", "status": 200, "headers": self.raw_headers}))
        body = first_bytes(export.form, export.header) + encoded(export.form, export.header, first)
        rows = len(first)
        while not gone.done():
            await _in_time(send({"type": "http.response.body", "body": body, "more_body": True}))
            EXPORTED_ROWS.inc(rows)
            page = await anext(pages, None)
            if page is None:
                await _in_time(send({"type": "http.response.body", "body": b"", "more_body": False}))
                EXPORTS.labels("complete").inc()
                return
            body, rows = encoded(export.form, export.header, page), len(page)
        EXPORTS.labels("gone").inc()

    def _cut(self, scope: Scope, outcome: str, reason: str) -> None:
        EXPORTS.labels(outcome).inc()
        _log.warning("export cut off", outcome=outcome, reason=reason, tenant=self._export.tenant)
        abort(scope)


async def _in_time(sending: Awaitable[None]) -> None:
    async with asyncio.timeout(STALL):
        await sending


async def _gone(receive: Receive) -> None:
    """Return once the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
