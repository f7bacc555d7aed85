"""What bodies have in common: pydantic stands at the border of HTTP only."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer

from pulsestream.core.clock import format_rfc3339, to_micros

Moment = Annotated[datetime, PlainSerializer(lambda moment: format_rfc3339(to_micros(moment)), return_type=str)]
"""A time as every answer writes it: RFC 3339, UTC, microseconds."""


class Body(BaseModel):
    """A request's body: unknown members are refused, so that a misspelt one is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shown(BaseModel):
    """An answer's body, made from any object with these attributes."""

    model_config = ConfigDict(frozen=True, from_attributes=True)
