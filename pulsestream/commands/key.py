"""API keys: made, listed, rotated and revoked over the HTTP API; checked without it."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Literal, TextIO, TypeAlias

from api import keys
from pulsestream.client import Client
from pulsestream.client.objects import MadeKey, Role
from pulsestream.commands.shown import table
from pulsestream.commands.times import parse_time
from pulsestream.core.clock import Clock, format_rfc3339
from pulsestream.core.errors import UsageError

State: TypeAlias = Literal["active", "expired", "revoked", "any"]
_Column: TypeAlias = Literal["id", "name", "role", "state", "created_at", "expires_at", "last_used_at"]
_LONGEST: Final = 4096
"""Characters that are looked at: a key has 76."""
_HEADINGS: Final = ("ID", "NAME", "ROLE", "STATE", "CREATED", "ENDS", "LAST USED")
_COLUMNS: Final[tuple[_Column, ...]] = ("id", "name", "role", "state", "created_at", "expires_at", "last_used_at")


def end_of(until: str | None, days: float | None, clock: Clock) -> str | None:
    """Return the end that was asked for as a time, None for no end; raises UsageError where both are given."""
    if until is not None and days is not None:
        raise UsageError("--until and --days both say when the key ends: give one of them")
    if until is not None:
        return format_rfc3339(parse_time("--until", until))
    return None if days is None else format_rfc3339(clock() + timedelta(days=days) // timedelta(microseconds=1))


def create(api: Client, name: str, role: Role, expires_at: str | None, *, as_json: bool, out: TextIO) -> None:
    """Make a key and write its text, once."""
    _write_made(api.keys.create(name, role, expires_at=expires_at), as_json=as_json, out=out)


def rotate(api: Client, key_id: str, overlap: int | None, *, as_json: bool, out: TextIO) -> None:
    """Make a key in the place of another and write its text, once."""
    _write_made(api.keys.rotate(_id(key_id), overlap_seconds=overlap), as_json=as_json, out=out)


def revoke(api: Client, key_id: str) -> str:
    """Revoke a key; return what to show."""
    api.keys.revoke(_id(key_id))
    return f"key {key_id} revoked: it is refused everywhere within seconds"


def listed(api: Client, state: State, *, as_json: bool, out: TextIO) -> None:
    """Write the tenant's keys in a state, the newest first."""
    found = api.keys.list(state)
    if as_json:
        out.writelines(json.dumps(one) + "\n" for one in found)
    else:
        out.write(table(_HEADINGS, [[one[column] or "-" for column in _COLUMNS] for one in found]))


def check(read: Callable[[int], str]) -> str:
    """Return what to say of a text that is a key by its shape and checksum; raises UsageError for one that is none.

    Asks nobody, and never shows the text.
    """
    found = keys.parse(read(_LONGEST).strip())
    if found is None:
        raise UsageError(
            "that is no API key: its shape or its checksum does not fit, so it was mistyped or not copied whole"
        )
    return f"well-formed: the checksum fits. Its id is {found.id}; whether it is taken, the API knows"


def _write_made(made: MadeKey, *, as_json: bool, out: TextIO) -> None:
    if as_json:
        out.write(json.dumps(made) + "\n")
    else:
        end = made["expires_at"] or "it is revoked"
        out.write(f"key {made['id']} of role {made['role']}, until {end}. Its text, shown this once:\n")
        out.write(f"{made['api_key']}\n")


def _id(text: str) -> str:
    if keys.parse(text) is not None:
        raise UsageError("that is a whole key: name it by its id, the part behind ps_live_")
    if not (text.isascii() and text.isalnum()):
        raise UsageError(f"{text!r} is no id of a key: `pulsestream key list` shows them")
    return text
