"""/api/v1/channels: POST and GET; one channel's GET, PATCH, DELETE, its test, and the log of its attempts."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from fastapi import APIRouter, Depends, Query
from fastapi import Body as Given
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from api import errors
from api.auth import CanReadChannels, CanWriteChannels
from api.channels.repository import ChannelRow
from api.channels.service import Channels
from api.channels.targets import Target
from api.dependencies import channels
from api.models import Body, Moment, Shown
from api.openapi import problems
from pulsestream.core.clock import parse_rfc3339, to_datetime
from streams.engine.durations import Duration, format_duration

SECOND: Final = 1_000_000
MAX_PAGE: Final = 1000
MOST: Final = 50
"""Values that a matcher lists at most."""
_ID: Final = "019c1f6e-2b7a-7c3e-9f00-1b2c3d4e5f60"
_MESSAGE: Final = "msg_0006459a3f2c1d8f3b0c9d2e4f5a6b"
_EXAMPLE: Final = {
    "name": "desk",
    "target": {"kind": "webhook", "url": "https://example.com/alerts"},
    "matchers": {"severities": ["critical"]},
    "group_by": ["rule"],
}

router = APIRouter(tags=["channels"], prefix="/api/v1/channels")
Service = Annotated[Channels, Depends(channels)]
Value = Annotated[str, Field(min_length=1, max_length=200)]
Values = Annotated[list[Value], Field(max_length=MOST)]
Grouping = Annotated[str, Field(pattern=r"^(rule|exchange|product|severity|label:.{1,100})$")]


def _between(low: int, high: int) -> AfterValidator:
    def check(micros: int) -> int:
        if not low * SECOND <= micros <= high * SECOND:
            raise ValueError(f"has to be {format_duration(low * SECOND)} to {format_duration(high * SECOND)}")
        return micros

    return AfterValidator(check)


Wait = Annotated[Duration, _between(0, 3600)]
Interval = Annotated[Duration, _between(1, 86_400)]
Repeat = Annotated[Duration, _between(60, 30 * 86_400)]


class WantedMatchers(Body):
    """What an alert has to be; every list that is not empty has to hold its value."""

    severities: list[Literal["info", "warning", "critical"]] = Field([], max_length=3)
    rule_ids: Values = Field(default=[])
    exchanges: Values = Field(default=[])
    products: Values = Field(default=[])
    labels: dict[Value, Values] = Field({}, max_length=MOST, examples=[{"desk": ["spot"]}])


class _Grouped(Body):
    """How a channel gathers alerts into messages, and which."""

    matchers: WantedMatchers = Field(WantedMatchers(), description="default: every alert")
    group_by: list[Grouping] = Field(
        ["rule", "exchange", "product"],
        max_length=10,
        description="alerts that agree in these are told of together; empty: all of them. label:NAME: a rule's label",
    )
    group_wait: Wait = Field(
        0,
        description="from a group's first alert to its first message",
        examples=["10s"],
        json_schema_extra={"default": "0s"},
    )
    group_interval: Interval = Field(
        60 * SECOND,
        description="between two messages of a group",
        examples=["1m"],
        json_schema_extra={"default": "1m"},
    )
    repeat_interval: Repeat = Field(
        4 * 3600 * SECOND,
        description="until what still fires is told of again",
        examples=["4h"],
        json_schema_extra={"default": "4h"},
    )
    send_resolved: bool = Field(True, description="tell when an alert is over, too")


class _Named(Body):
    @field_validator("name", check_fields=False)
    @classmethod
    def _shows(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("holds a character that does not show: use a name that people can read")
        return name


class CreateChannel(_Named, _Grouped):
    """A channel to make."""

    name: str = Field(min_length=1, max_length=100, examples=["desk"])
    target: Target


class ChangeChannel(_Named, _Grouped):
    """What to change; a member that is left out stays as it is."""

    name: str = Field(default_factory=str, min_length=1, max_length=100, examples=["desk"])
    target: Target | None = Field(None, description="of the same kind, and whole")
    enabled: bool = Field(True, description="false: a pause, in which nothing is sent and nothing is kept for later")

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("changes nothing: give at least one member")
        return self


class ShownChannel(Shown):
    """A channel, without its secret."""

    id: str = Field(examples=[_ID])
    name: str = Field(examples=["desk"])
    target: dict[str, Any] = Field(examples=[{"kind": "webhook", "url": "https://example.com/alerts"}])
    matchers: dict[str, Any] = Field(examples=[{"severities": ["critical"]}])
    group_by: list[str] = Field(examples=[["rule"]])
    group_wait: str = Field(examples=["0s"])
    group_interval: str = Field(examples=["1m"])
    repeat_interval: str = Field(examples=["4h"])
    send_resolved: bool
    state: str = Field(
        description="active; paused: by a person; disabled: by the notifier, see disabled_reason", examples=["active"]
    )
    disabled_reason: str | None = Field(examples=[None])
    failing_since: Moment | None = Field(
        description="of the first failure since a message was delivered last; null: none failed since", examples=[None]
    )
    created_by: str = Field(description="id of the key that made it")
    created_at: Moment


class MadeChannel(ShownChannel):
    """A new channel with its signing secret."""

    secret: str | None = Field(
        description="signs a webhook's messages; shown this once: store it. null: a channel of another kind",
        examples=["whsec_<base64>"],
    )


class ShownChannels(Shown):
    """The tenant's channels, oldest first."""

    channels: list[ShownChannel]


class ShownTest(Shown):
    """The message that is on its way."""

    message_id: str = Field(description="GET …/attempts?message_id= says what became of it", examples=[_MESSAGE])


class ShownAttempt(Shown):
    """An attempt to deliver a message."""

    message_id: str = Field(examples=[_MESSAGE])
    type: str = Field(description="of the message", examples=["alert.firing"])
    number: int = Field(description="from 1; one that is missing was cut off by a crash", examples=[1])
    at: Moment
    seconds: float = Field(examples=[0.142])
    outcome: str = Field(description="delivered or failed", examples=["delivered"])
    status: int | None = Field(description="of the answer; null: there was none", examples=[200])
    error: str | None = Field(examples=[None])
    response: str | None = Field(description="the beginning of the answer", examples=["ok"])


class ShownAttempts(Shown):
    """A page of attempts."""

    attempts: list[ShownAttempt]
    next_cursor: str | None = Field(description="for the next page; null after the last attempt", examples=[None])


class Resend(Body):
    """What to send again: one message, or all that failed since a time."""

    message_id: str | None = Field(None, max_length=100, description="whatever became of it", examples=[_MESSAGE])
    failed_since: str | None = Field(
        None, max_length=64, description="RFC 3339, with a zone", examples=["2026-01-31T12:00:00Z"]
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.message_id is None) == (self.failed_since is None):
            raise ValueError("names none or both: give message_id, or failed_since")
        return self


class ShownResend(Shown):
    """What is on its way again."""

    messages: int = Field(description="at most 10,000 at once: 0 when none is left", examples=[1])


class ShownMessage(Shown):
    """A message, and what became of it."""

    id: str = Field(examples=[_MESSAGE])
    type: str = Field(examples=["alert.firing"])
    state: str = Field(description="waiting, delivered, failed, superseded or muted", examples=["delivered"])
    detail: str | None = Field(description="why it is not delivered", examples=[None])
    attempts: int = Field(examples=[1])
    created_at: Moment
    next_at: Moment | None = Field(description="of the next attempt; null: there is none", examples=[None])
    settled_at: Moment | None
    body: dict[str, Any] = Field(description="as a webhook gets it", examples=[{"type": "alert.firing"}])


class ShownMessages(Shown):
    """A page of messages."""

    messages: list[ShownMessage]
    next_cursor: str | None = Field(description="for the next page; null after the last message", examples=[None])


class MessageParameters(BaseModel):
    """Which messages to list. Unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Literal["waiting", "delivered", "failed", "superseded", "muted"] | None = None
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the page before")


class AttemptParameters(BaseModel):
    """Which attempts to list. Unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    message_id: str | None = Field(None, max_length=100)
    outcome: Literal["delivered", "failed"] | None = None
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the page before")


@router.post(
    "", status_code=201, response_model=MadeChannel, responses=problems(400, 401, 403, 409, 413, 415, 422, 503)
)
async def create_channel(
    body: Annotated[CreateChannel, Given(examples=[_EXAMPLE])], caller: CanWriteChannels, service: Service
) -> dict[str, Any]:
    """Make a channel. A webhook's signing secret is in this answer only; nobody sees any other secret again."""
    made = await service.create(caller, body.target, _wanted(body, set(CreateChannel.model_fields)))
    return _shown(made.channel) | {"secret": made.secret}


@router.get("", response_model=ShownChannels, responses=problems(401, 403, 503))
async def list_channels(caller: CanReadChannels, service: Service) -> dict[str, Any]:
    """List the tenant's channels."""
    return {"channels": [_shown(channel) for channel in await service.list(caller.tenant)]}


@router.get("/{channel_id}", response_model=ShownChannel, responses=problems(400, 401, 403, 404, 503))
async def get_channel(channel_id: str, caller: CanReadChannels, service: Service) -> dict[str, Any]:
    """Show a channel."""
    return _shown(await service.get(caller.tenant, channel_id))


@router.patch(
    "/{channel_id}", response_model=ShownChannel, responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503)
)
async def change_channel(
    channel_id: str,
    body: Annotated[ChangeChannel, Given(examples=[{"matchers": {"severities": ["critical", "warning"]}}])],
    caller: CanWriteChannels,
    service: Service,
) -> dict[str, Any]:
    """Change a channel, pause it, or have one that was disabled work again."""
    return _shown(await service.change(caller, channel_id, body.target, _wanted(body, body.model_fields_set)))


@router.delete("/{channel_id}", status_code=204, responses=problems(400, 401, 403, 404, 503))
async def delete_channel(channel_id: str, caller: CanWriteChannels, service: Service) -> None:
    """Delete a channel, with its messages and their log."""
    await service.delete(caller, channel_id)


@router.post(
    "/{channel_id}/test", status_code=202, response_model=ShownTest, responses=problems(400, 401, 403, 404, 503)
)
async def test_channel(channel_id: str, caller: CanWriteChannels, service: Service) -> dict[str, Any]:
    """Send a test message through the notifier, once; also to a channel that is paused or disabled."""
    return {"message_id": await service.test(caller.tenant, channel_id)}


@router.get("/{channel_id}/attempts", response_model=ShownAttempts, responses=problems(400, 401, 403, 404, 503))
async def list_attempts(
    channel_id: str, parameters: Annotated[AttemptParameters, Query()], caller: CanReadChannels, service: Service
) -> dict[str, Any]:
    """List attempts to deliver the channel's messages, the newest first."""
    page = await service.attempts(
        caller.tenant,
        channel_id,
        message_id=parameters.message_id,
        outcome=parameters.outcome,
        limit=parameters.limit,
        cursor=parameters.cursor,
    )
    return {"attempts": page.attempts, "next_cursor": page.next_cursor}


@router.get("/{channel_id}/messages", response_model=ShownMessages, responses=problems(400, 401, 403, 404, 503))
async def list_messages(
    channel_id: str, parameters: Annotated[MessageParameters, Query()], caller: CanReadChannels, service: Service
) -> dict[str, Any]:
    """List the channel's messages, the newest first."""
    page = await service.messages(caller.tenant, channel_id, parameters.state, parameters.limit, parameters.cursor)
    shown = [asdict(row) | {"body": msgspec.json.decode(row.document)} for row in page.messages]
    return {"messages": shown, "next_cursor": page.next_cursor}


@router.post(
    "/{channel_id}/resend",
    status_code=202,
    response_model=ShownResend,
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
async def resend_messages(
    channel_id: str,
    body: Annotated[Resend, Given(examples=[{"failed_since": "2026-01-31T12:00:00Z"}])],
    caller: CanWriteChannels,
    service: Service,
) -> dict[str, Any]:
    """Send one message again, or all that failed since a time: the same bytes under the same ids."""
    since = _moment(body.failed_since)
    return {"messages": await service.resend(caller, channel_id, message_id=body.message_id, since=since)}


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return to_datetime(parse_rfc3339(text))
    except (ValueError, OverflowError) as error:
        raise errors.invalid_body(
            [errors.FieldError("/failed_since", f"{text[:60]!r} is not a time: write it as 2026-01-31T12:00:00Z")]
        ) from error


def _wanted(body: _Grouped, names: set[str]) -> dict[str, Any]:
    """Return these members of a body as a channel has them."""
    given: dict[str, Any] = {name: getattr(body, name) for name in names if name != "target"}
    for name in ("group_wait", "group_interval", "repeat_interval"):
        if name in given:
            given[name] = given[name] / SECOND
    if "matchers" in given:
        given["matchers"] = given["matchers"].model_dump()
    return given


def _shown(channel: ChannelRow) -> dict[str, Any]:
    times = {
        name: format_duration(round(getattr(channel, name) * SECOND))
        for name in ("group_wait", "group_interval", "repeat_interval")
    }
    target = {"kind": channel.kind} | channel.target
    return asdict(channel) | times | {"target": target, "state": channel.state}
