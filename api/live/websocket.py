"""GET /api/v1/live as a WebSocket: one message in, then the session's messages out, one at a time.

The next message is made when the last one has been taken, so a client that reads slowly holds one message and what
uvicorn's buffer takes (64 KiB); one that reads nothing does not answer pings, and is cut.
"""

import asyncio
from contextlib import aclosing, suppress
from typing import Final

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from api.asgi import AsgiMessage, ClientGoneError, Receive, Scope, Send, request_id
from api.audit.denials import Denials
from api.auth import Permission
from api.errors import Problem
from api.http_protocol import ABORT, abort
from api.limits.entrance import Entrance
from api.live.client import Client
from api.live.hub import Hub
from api.live.messages import Close, CloseError, Subscribe, bye_message, interest, parse_subscribe, shortened
from api.live.session import Session
from api.live.speech import messages
from pulsestream.core.metrics import LIVE_CLOSED

PATH: Final = "/api/v1/live"
FIRST_WITHIN: Final = 10.0
"""Seconds from the connection until the client's message."""
PING_EVERY: Final = 20.0
PONG_WITHIN: Final = 20.0
"""Seconds after which a client that does not answer a ping is cut."""
CLOSED_WITHIN: Final = 15.0
"""Seconds after which a client that does not take our close is cut."""
_CLOSED: Final = {401: Close.UNAUTHORIZED, 403: Close.FORBIDDEN, 429: Close.TOO_MANY}


class BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket connection, which the application can also end without the client's help."""

    def handle_connect(self, event: object) -> None:
        """Let the application in."""
        super().handle_connect(event)  # type: ignore[arg-type] # a Request of websockets
        if hasattr(self, "scope"):
            self.scope["extensions"][ABORT] = {ABORT: self.transport.abort}

    def keepalive_timeout(self) -> None:
        """Cut a client that does not answer: it does not read either, and a close would wait behind its buffer."""
        self.transport.abort()


class LiveSocket:
    """The ASGI application of the route."""

    permission: Final = Permission.DATA_READ

    def __init__(self, entrance: Entrance, denials: Denials, hub: Hub) -> None:
        self._entrance = entrance
        self._denials = denials
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection to its end."""
        await receive()  # the handshake
        await send({"type": "websocket.accept"})
        try:
            await self._serve(scope, receive, send)
        except CloseError as reason:
            LIVE_CLOSED.labels(str(int(reason.code))).inc()
            asyncio.get_running_loop().call_later(CLOSED_WITHIN, abort, scope)
            await _close(send, reason)
        except (ClientDisconnected, ClientGoneError):
            return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = await _first_message(scope, receive)
        try:
            caller = await self._entrance.caller(asked.key, scope)
            caller.require(self.permission)
            client = Client(caller, interest(asked), lambda: abort(scope))
            session = await self._hub.join(client, asked.resume)
        except Problem as problem:
            self._denials.note(problem, request_id(scope))
            raise CloseError(_CLOSED.get(problem.status, Close.TRY_AGAIN), problem.detail) from problem
        watching = asyncio.create_task(_watch(client, receive))
        try:
            await self._write(client, session, send)
        finally:
            self._hub.leave(client)
            watching.cancel()

    async def _write(self, client: Client, session: Session, send: Send) -> None:
        async with aclosing(messages(self._hub, client, session)) as said:
            async for text in said:
                await send({"type": "websocket.send", "text": text})


async def _first_message(scope: Scope, receive: Receive) -> Subscribe:
    if scope["query_string"]:
        raise CloseError(Close.BAD_MESSAGE, "the URL takes no parameters: say it in the first message")
    try:
        async with asyncio.timeout(FIRST_WITHIN):
            message = await receive()
    except TimeoutError as error:
        raise CloseError(Close.NO_MESSAGE, f"no subscribe message within {FIRST_WITHIN:.0f} s") from error
    return parse_subscribe(_content(message))


async def _watch(client: Client, receive: Receive) -> None:
    """Wait for what ends a connection: the client's close, or another message, of which there is none."""
    message = await receive()
    if message["type"] == "websocket.disconnect":
        client.close(ClientGoneError())
    else:
        client.close(CloseError(Close.BAD_MESSAGE, "one message only: connect again to ask for something else"))


def _content(message: AsgiMessage) -> str | bytes:
    if message["type"] == "websocket.disconnect":
        raise ClientGoneError
    text = message.get("text")
    content: str | bytes = message.get("bytes", b"") if text is None else text
    return content


async def _close(send: Send, reason: CloseError) -> None:
    with suppress(ClientDisconnected):
        await send({"type": "websocket.send", "text": bye_message(reason.code, reason.reason)})
        await send({"type": "websocket.close", "code": int(reason.code), "reason": shortened(reason.reason)})
