"""/api/v1/keys: POST and GET, one key's GET, PATCH and DELETE, and its rotation."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query
from fastapi import Body as Given
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from api.auth import CanReadKeys, CanWriteKeys
from api.dependencies import keys
from api.keys_admin.repository import KeyRow
from api.keys_admin.service import MAX_OVERLAP, Keys, Made
from api.models import Body, Moment, Shown, end_given
from api.openapi import problems

MAX_PAGE = 1000
DAY = 24 * 3600
_ID = "03kV8sLq2ZxYb"
_TEXT = "ps_live_<id>_<secret>_<checksum>"
_END = "2027-01-31T12:00:00Z"
_ENDS = "RFC 3339, with a zone; null: the key does not end"


router = APIRouter(tags=["keys"], prefix="/api/v1/keys")
Service = Annotated[Keys, Depends(keys)]


class ListParameters(BaseModel):
    """Which keys to list. Unknown parameters are refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Literal["active", "expired", "revoked", "any"] = "active"
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the page before")


class _Named(Body):
    @field_validator("name", check_fields=False)
    @classmethod
    def _shows(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("holds a character that does not show: use a name that people can read")
        return name


class CreateKey(_Named):
    """A key to make."""

    name: str = Field(min_length=1, max_length=100, description="what it is for", examples=["desk 1"])
    role: Literal["owner", "admin", "viewer"] = Field(description="not above that of the key that makes it")
    expires_at: str | None = Field(None, max_length=64, description=_ENDS, examples=[_END])


class RotateKey(Body):
    """How to rotate a key."""

    overlap_seconds: int = Field(
        DAY, ge=0, le=MAX_OVERLAP, description="how long the key works on beside its successor; 0: it ends at once"
    )


class ChangeKey(_Named):
    """What to change; a member that is left out stays as it is."""

    name: str = Field(
        default_factory=str, min_length=1, max_length=100, description="what it is for", examples=["desk 2"]
    )
    expires_at: str | None = Field(None, max_length=64, description=_ENDS, examples=[_END])

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("changes nothing: give name, expires_at, or both")
        return self


class ShownKey(Shown):
    """A key, without its text: nobody can see that again."""

    id: str = Field(description="the key's public part", examples=[_ID])
    name: str = Field(examples=["desk 1"])
    role: str = Field(description="owner, admin or viewer", examples=["viewer"])
    state: str = Field(description="active, expired or revoked", examples=["active"])
    created_at: Moment
    created_by: str | None = Field(description="id of the key that made it; null: it came with the tenant")
    expires_at: Moment | None = Field(description="null: it does not end", examples=[None])
    revoked_at: Moment | None = Field(examples=[None])
    replaced_by: str | None = Field(description="id of the key that a rotation put in its place", examples=[None])
    last_used_at: Moment | None = Field(description="to the minute; null: never", examples=[None])


class MadeKey(ShownKey):
    """A new key with its text."""

    api_key: str = Field(description="shown this once: store it", examples=[_TEXT])


class ShownKeys(Shown):
    """A page of keys."""

    keys: list[ShownKey]
    next_cursor: str | None = Field(description="for the next page; null after the last key", examples=[None])


@router.post("", status_code=201, response_model=MadeKey, responses=problems(400, 401, 403, 409, 413, 415, 422, 503))
async def create_key(
    body: Annotated[CreateKey, Given(examples=[{"name": "desk 1", "role": "viewer", "expires_at": _END}])],
    caller: CanWriteKeys,
    service: Service,
) -> dict[str, Any]:
    """Make a key. Its text is in this answer only; if that was lost, revoke the key by its id and make another."""
    return _made(await service.create(caller, body.name, body.role, end_given("/expires_at", body.expires_at)), service)


@router.get("", response_model=ShownKeys, responses=problems(400, 401, 403, 503))
async def list_keys(
    parameters: Annotated[ListParameters, Query()], caller: CanReadKeys, service: Service
) -> dict[str, Any]:
    """List the tenant's keys, the newest first: by default those that work."""
    state = None if parameters.state == "any" else parameters.state
    page = await service.list(caller.tenant, state, parameters.limit, parameters.cursor)
    return {"keys": [_shown(key, service) for key in page.keys], "next_cursor": page.next_cursor}


@router.get("/{key_id}", response_model=ShownKey, responses=problems(400, 401, 403, 404, 503))
async def get_key(key_id: str, caller: CanReadKeys, service: Service) -> dict[str, Any]:
    """Show a key."""
    return _shown(await service.get(caller.tenant, key_id), service)


@router.delete("/{key_id}", status_code=204, responses=problems(400, 401, 403, 404, 409, 503))
async def revoke_key(key_id: str, caller: CanWriteKeys, service: Service) -> None:
    """Revoke a key for good: refused here from now on, and by every other process of the API within seconds."""
    await service.revoke(caller, key_id)


@router.post(
    "/{key_id}/rotate",
    status_code=201,
    response_model=MadeKey,
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
async def rotate_key(
    key_id: str,
    body: Annotated[RotateKey, Given(examples=[{"overlap_seconds": DAY}])],
    caller: CanWriteKeys,
    service: Service,
) -> dict[str, Any]:
    """Make a key of the same name, role and end in the place of this one, which works on for a while beside it."""
    return _made(await service.rotate(caller, key_id, body.overlap_seconds), service)


@router.patch("/{key_id}", response_model=ShownKey, responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503))
async def change_key(
    key_id: str,
    body: Annotated[ChangeKey, Given(examples=[{"expires_at": _END}])],
    caller: CanWriteKeys,
    service: Service,
) -> dict[str, Any]:
    """Give a key another name, another end, or both. One that has ended stays ended, and the role stays what it is."""
    changes: dict[str, str | datetime | None] = {}
    if "name" in body.model_fields_set:
        changes["name"] = body.name
    if "expires_at" in body.model_fields_set:
        changes["expires_at"] = end_given("/expires_at", body.expires_at)
    return _shown(await service.change(caller, key_id, changes), service)


def _shown(key: KeyRow, service: Keys) -> dict[str, Any]:
    return asdict(key) | {"state": key.state(service.now())}


def _made(made: Made, service: Keys) -> dict[str, Any]:
    return _shown(made.key, service) | {"api_key": made.text}
