"""What bodies have in common: pydantic stands at the border of HTTP only."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer

from api import errors
from pulsestream.core.clock import format_rfc3339, parse_rfc3339, to_datetime, to_micros

Moment = Annotated[datetime, PlainSerializer(lambda moment: format_rfc3339(to_micros(moment)), return_type=str)]
"""A time as every answer writes it: RFC 3339, UTC, microseconds."""


class Body(BaseModel):
    """A request's body: unknown members are refused, so that a misspelt one is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shown(BaseModel):
    """An answer's body, made from any object with these attributes."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


def end_given(pointer: str, text: str | None) -> datetime | None:
    """Return the time at `pointer` of a body, None where it is not given; raises Problem 422."""
    if text is None:
        return None
    try:
        return to_datetime(parse_rfc3339(text))
    except (ValueError, OverflowError) as error:
        raise errors.invalid_body(
            [errors.FieldError(pointer, f"{text[:60]!r} is not a time: write it as 2026-01-31T12:00:00Z")]
        ) from error


def moment_given(name: str, text: str | None) -> int | None:
    """Return the microseconds of a time in parameter `name`, None where it is not given; raises Problem 400."""
    if text is None:
        return None
    try:
        return to_micros(to_datetime(parse_rfc3339(text)))
    except (ValueError, OverflowError) as error:
        raise errors.invalid_parameters(
            [errors.FieldError(name, f"{text[:60]!r} is not a time: write it as 2026-01-31T12:00:00Z")]
        ) from error
