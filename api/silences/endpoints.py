"""/api/v1/silences: POST and GET, one silence's GET and DELETE, and a preview of what one would match."""

import json
import re
from datetime import datetime, time
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query
from fastapi import Body as Given
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from api import errors
from api.alerts.endpoints import ShownCurrent, shown
from api.auth import CanReadSilences, CanWriteSilences
from api.dependencies import silences
from api.models import Body, Moment, Shown
from api.openapi import problems
from api.silences.repository import NewSilence, SilenceRow, Weekly
from api.silences.service import Silences
from pulsestream.core.clock import parse_rfc3339, to_datetime

router = APIRouter(tags=["silences"], prefix="/api/v1/silences")
Service = Annotated[Silences, Depends(silences)]
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_REGULAR = re.compile(r"\.[*+]|[\\()\[\]{}]|^\^|\$$")
"""What gives a regular expression away."""
_EXAMPLE = {
    "matchers": [{"name": "product", "op": "=~", "value": "BTC-*"}],
    "ends_at": "2027-01-31T12:00:00Z",
    "comment": "exchange maintenance",
}


class Matcher(Body):
    """What has to hold for an alert."""

    name: str = Field(
        max_length=70,
        pattern=r"^(rule_id|rule_name|exchange|product|severity|labels\.[a-zA-Z_][a-zA-Z0-9_]{0,62})$",
        description="rule_id, rule_name, exchange, product, severity or labels.<name>",
        examples=["product"],
    )
    op: Literal["=", "!=", "=~", "!~"] = Field(description="=~ and !~ compare with a glob", examples=["=~"])
    value: str = Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$", examples=["BTC-*|ETH-*"])

    @model_validator(mode="after")
    def _glob(self) -> Self:
        if self.op in {"=~", "!~"} and _REGULAR.search(self.value):
            raise ValueError(
                "patterns are globs and no regular expressions: * any text, ? one character, | alternatives"
            )
        return self


class WeeklyBody(Body):
    """When a maintenance window comes back."""

    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(min_length=1, max_length=7)
    from_time: str = Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", examples=["22:30"])
    minutes: int = Field(ge=1, le=1440, description="how long it holds", examples=[180])
    time_zone: str = Field(max_length=64, description="by whose clock", examples=["Europe/Berlin"])

    @field_validator("days")
    @classmethod
    def _once(cls, days: list[str]) -> list[str]:
        if len(set(days)) < len(days):
            raise ValueError("names a day twice")
        return days

    def weekly(self) -> Weekly:
        """Return it as it is stored."""
        numbers = sorted(DAYS.index(day) + 1 for day in self.days)
        return Weekly(numbers, time.fromisoformat(self.from_time), self.minutes, self.time_zone)


class PreviewBody(Body):
    """Matchers to try."""

    matchers: list[Matcher] = Field(min_length=1, max_length=20, description="all of them have to hold")


class SilenceBody(PreviewBody):
    """A silence, or with `weekly` a maintenance window."""

    starts_at: str | None = Field(None, max_length=64, description="RFC 3339; null: now")
    ends_at: str | None = Field(None, max_length=64, description="RFC 3339; null only with `weekly`: until it is ended")
    weekly: WeeklyBody | None = Field(None, description="holds at these times only", examples=[None])
    comment: str = Field(min_length=1, max_length=500, description="why")

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.ends_at is None and self.weekly is None:
            raise ValueError("a silence ends: give ends_at, or make it a maintenance window with weekly")
        return self

    def new(self, now: datetime) -> NewSilence:
        """Return it as it is stored; raises Problem 422 for a time that is none."""
        starts_at = _moment("/starts_at", self.starts_at) or now
        weekly = None if self.weekly is None else self.weekly.weekly()
        return NewSilence("", _json(self.matchers), starts_at, _moment("/ends_at", self.ends_at), weekly, self.comment)


class ListParameters(BaseModel):
    """Which silences. Unknown parameters are refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Literal["active", "pending", "expired", "any"] = Field(
        "any", description="pending: also between two windows"
    )
    limit: int = Field(100, ge=1, le=500)
    before: str | None = Field(None, max_length=64, description="next_before of the page before")


class ShownWeekly(Shown):
    """When a maintenance window comes back."""

    days: list[str]
    from_time: str
    minutes: int
    time_zone: str


class ShownMatcher(Shown):
    """What has to hold for an alert."""

    name: str
    op: str
    value: str


class ShownSilence(Shown):
    """A silence."""

    silence_id: str
    state: str = Field(description="active, pending (also between two windows) or expired", examples=["active"])
    matchers: list[ShownMatcher]
    starts_at: Moment
    ends_at: Moment | None
    weekly: ShownWeekly | None
    comment: str
    created_at: Moment
    created_by: str = Field(description="id of the key")
    expired_at: Moment | None = Field(description="ended before its time")
    expired_by: str | None = Field(description="by the key of this id")


class ShownSilences(Shown):
    """A page of silences, newest first."""

    silences: list[ShownSilence]
    next_before: str | None = Field(description="`before` for the next page; null after the last one")


class ShownMatches(Shown):
    """What is pending or firing now and would be silenced; at most 500."""

    alerts: list[ShownCurrent]


@router.post("", status_code=201, response_model=ShownSilence, responses=problems(400, 401, 403, 413, 415, 422, 503))
async def create_silence(
    body: Annotated[SilenceBody, Given(examples=[_EXAMPLE])], caller: CanWriteSilences, service: Service
) -> dict[str, Any]:
    """Silence the alerts that all matchers hold for, or make a maintenance window that comes back every week."""
    return _shown(await service.create(caller, body.new(service.now())))


@router.get("", response_model=ShownSilences, responses=problems(400, 401, 403, 503))
async def list_silences(
    parameters: Annotated[ListParameters, Query()], caller: CanReadSilences, service: Service
) -> dict[str, Any]:
    """List silences, newest first. Ended ones are kept for 90 days."""
    state = None if parameters.state == "any" else parameters.state
    page = await service.list(caller.tenant, state, parameters.limit, parameters.before)
    return {"silences": [_shown(row) for row in page.silences], "next_before": page.next_before}


@router.post("/preview", response_model=ShownMatches, responses=problems(400, 401, 403, 413, 415, 422, 503))
async def preview_silence(
    body: Annotated[PreviewBody, Given(examples=[{"matchers": _EXAMPLE["matchers"]}])],
    caller: CanReadSilences,
    service: Service,
) -> dict[str, Any]:
    """Show which pending and firing alerts a silence with these matchers would keep from being told."""
    return {"alerts": [shown(alert) for alert in await service.preview(caller.tenant, _json(body.matchers))]}


@router.get("/{silence_id}", response_model=ShownSilence, responses=problems(400, 401, 403, 404, 503))
async def get_silence(silence_id: str, caller: CanReadSilences, service: Service) -> dict[str, Any]:
    """Show a silence."""
    return _shown(await service.get(caller.tenant, silence_id))


@router.delete("/{silence_id}", status_code=204, responses=problems(400, 401, 403, 404, 503))
async def expire_silence(silence_id: str, caller: CanWriteSilences, service: Service) -> None:
    """End a silence now. Safe to repeat."""
    await service.expire(caller, silence_id)


def _shown(row: SilenceRow) -> dict[str, Any]:
    weekly = None
    if row.weekdays is not None and row.from_time is not None:
        days = [DAYS[day - 1] for day in row.weekdays]
        named = {"minutes": row.minutes, "time_zone": row.time_zone}
        weekly = {"days": days, "from_time": f"{row.from_time:%H:%M}", **named}
    return {name: getattr(row, name) for name in ShownSilence.model_fields if name != "weekly"} | {"weekly": weekly}


def _json(matchers: list[Matcher]) -> str:
    return json.dumps([matcher.model_dump() for matcher in matchers])


def _moment(pointer: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return to_datetime(parse_rfc3339(text))
    except (ValueError, OverflowError) as error:
        fault = f"{text[:60]!r} is not a time: write it as 2026-01-31T12:00:00Z"
        raise errors.invalid_body([errors.FieldError(pointer, fault)]) from error
