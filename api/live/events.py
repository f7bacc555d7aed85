"""POST /api/v1/live/tickets and GET /api/v1/live/events: the live view as Server-Sent Events, for browsers."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response, Security
from pydantic import BaseModel, ConfigDict, Field

from api import errors
from api.access_log import CALLER
from api.asgi import ClientGoneError, Receive, Scope, Send
from api.auth import Caller, CanReadData, Permission, Requirement, key_header
from api.dependencies import Services, services
from api.errors import FieldError, Problem
from api.http_protocol import abort
from api.live.client import Client
from api.live.hub import Hub
from api.live.messages import DATASETS, Close, CloseError, Interest, bye_message
from api.live.session import Session
from api.live.speech import messages
from api.live.tickets import LIFETIME, Ticket, TicketError
from api.models import Moment, Shown
from api.openapi import problems
from pulsestream.core.metrics import LIVE_CLOSED

router = APIRouter(tags=["live"], prefix="/api/v1/live")
BEAT: Final = 15.0
"""Seconds without a message after which a comment is sent, for proxies."""
LISTED: Final = 1_000
"""Names that a filter may hold."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_STREAM: Final = {
    "description": "Messages as they come, one in each `data`; `id` is the resume token. It has no end",
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": 'id: 8gJ…\ndata: {"type":"alerts","rows":[…],"resume":"8gJ…"}\n\n',
        }
    },
}
_STATUS: Final = {Close.TRY_AGAIN: 503, Close.TOO_MANY: 429, Close.BAD_TOKEN: 400}


class ShownTicket(Shown):
    """A ticket."""

    ticket: str = Field(description="opens one stream of events, once", examples=["kT3v…"])
    expires_at: Moment = Field(description=f"{LIFETIME} s after it was given", examples=["2026-01-31T12:00:30.000000Z"])


class StreamParameters(BaseModel):
    """What to show. Unknown parameters are refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticket: str | None = Field(None, max_length=500, description="instead of the header X-API-Key")
    datasets: str | None = Field(None, max_length=100, description="of ticks, stats, alerts, separated by commas")
    products: str | None = Field(None, max_length=8_000, examples=["BTC-USD,ETH-USD"])
    exchanges: str | None = Field(None, max_length=8_000, examples=["coinbase"])
    windows: str | None = Field(None, max_length=100, description="of statistics", examples=["1m,5m"])
    resume: str | None = Field(None, max_length=2_000, description="a token of an earlier connection")

    def interest(self) -> Interest:
        """Return what is asked for; raises Problem 400."""
        wanted = _names("datasets", self.datasets)
        unknown = (wanted or frozenset()).difference(DATASETS)
        if unknown:
            raise errors.invalid_parameters(
                [FieldError("datasets", f"{min(unknown)[:60]!r} is none of {', '.join(DATASETS)}")]
            )
        return Interest(
            frozenset(DATASETS) if wanted is None else wanted,
            _names("products", self.products),
            _names("exchanges", self.exchanges),
            _names("windows", self.windows),
        )


@dataclass(frozen=True, slots=True)
class TicketOrKey(Requirement):
    """A route's dependency on a caller with a permission, whose ticket can stand for the key."""

    async def __call__(self, request: Request, key: Annotated[str | None, Security(key_header)]) -> Caller:
        """Return the caller; raises Problem 401, 403, 429 or 503."""
        provided, ticket = services(request), request.query_params.get("ticket")
        if ticket is None:
            caller = await provided.entrance.caller(key, request.scope)
        else:
            try:
                caller = await provided.authenticator.still(await provided.tickets.take(ticket))
                request.scope[CALLER] = caller
            except TicketError as error:
                raise errors.unauthorized(f"Make another ticket (POST /api/v1/live/tickets): {error}.") from error
        caller.require(self.permission)
        return caller


CanFollow = Annotated[Caller, Depends(TicketOrKey(Permission.DATA_READ))]


@router.post("/tickets", status_code=201, response_model=ShownTicket, responses=problems(400, 401, 403, 429, 503))
async def make_ticket(caller: CanReadData, provided: Annotated[Services, Depends(services)]) -> Ticket:
    """Make a ticket that opens one stream of events within 30 s, for those who can send no header."""
    return provided.tickets.give(caller)


@router.get("/events", response_class=Response, responses={200: _STREAM, **problems(400, 401, 403, 429, 503)})
async def follow_events(
    parameters: Annotated[StreamParameters, Query()],
    request: Request,
    provided: Annotated[Services, Depends(services)],
    caller: CanFollow,
    last_event_id: Annotated[
        str | None, Header(max_length=2_000, description="a resume token, as EventSource sends it")
    ] = None,
) -> Response:
    """Show ticks, statistics and alerts as they come: the same messages as over the WebSocket, as Server-Sent Events.

    Alerts come once and in order, over reconnects with the token of the last event (`resume`, or `Last-Event-ID`).
    """
    wanted = parameters.interest()
    client = Client(caller, wanted, lambda: abort(request.scope))
    try:
        session = await provided.live.join(client, parameters.resume or last_event_id)
    except CloseError as reason:
        raise _problem(reason) from reason
    return EventStream(provided.live, client, session)


class EventStream(Response):
    """An answer that is made while it is sent."""

    def __init__(self, hub: Hub, client: Client, session: Session) -> None:
        super().__init__(media_type="text/event-stream", headers=_HEADERS)
        del self.headers["content-length"]
        self._hub = hub
        self._client = client
        self._session = session

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send messages until either side has enough."""
        watching = asyncio.create_task(_watch(self._client, receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send(send)
        except CloseError as reason:
            LIVE_CLOSED.labels(str(int(reason.code))).inc()
            body = event(bye_message(reason.code, reason.reason))
            await send({"type": "http.response.body", "body": body, "more_body": False})
        except ClientGoneError:
            return
        finally:
            watching.cancel()
            self._hub.leave(self._client)

    async def _send(self, send: Send) -> None:
        async with aclosing(messages(self._hub, self._client, self._session, BEAT)) as said:
            async for text in said:
                await send({"type": "http.response.body", "body": event(text), "more_body": True})


class _Resume(msgspec.Struct):
    resume: str | None = None


_decoder: Final = msgspec.json.Decoder(_Resume)


def event(text: str) -> bytes:
    """Return a message as a server-sent event (HTML Living Standard, 9.2.6); a comment where it is empty."""
    if not text:
        return b":\n\n"
    token = _decoder.decode(text).resume
    named = "" if token is None else f"id: {token}\n"
    return f"{named}data: {text}\n\n".encode()


async def _watch(client: Client, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    client.close(ClientGoneError())


def _problem(reason: CloseError) -> Problem:
    status = _STATUS[reason.code]
    if status == 400:  # noqa: PLR2004 - a parameter
        return errors.invalid_parameters([FieldError("resume", reason.reason)])
    if status == 429:  # noqa: PLR2004 - the tier's connections
        return errors.too_many_connections(reason.reason)
    return errors.unavailable("overloaded", "Too much is under way", f"{reason.reason}.")


def _names(name: str, listed: str | None) -> frozenset[str] | None:
    if listed is None:
        return None
    names = frozenset(part.strip() for part in listed.split(","))
    if "" in names or len(names) > LISTED:
        raise errors.invalid_parameters([FieldError(name, f"give 1 to {LISTED} names, separated by commas")])
    return names
