"""API keys: made, listed, rotated and revoked over the HTTP API; checked without it."""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, TextIO

from api import keys
from pulsestream.commands.api_client import call
from pulsestream.commands.shown import table
from pulsestream.commands.times import parse_time
from pulsestream.core.clock import Clock, format_rfc3339
from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings

_PATH: Final = "/api/v1/keys"
_PAGE: Final = 1000
_LONGEST: Final = 4096
"""Characters that are looked at: a key has 76."""
_HEADINGS: Final = ("ID", "NAME", "ROLE", "STATE", "CREATED", "ENDS", "LAST USED")
_COLUMNS: Final = ("id", "name", "role", "state", "created_at", "expires_at", "last_used_at")


def end_of(until: str | None, days: float | None, clock: Clock) -> str | None:
    """Return the end that was asked for as a time, None for no end; raises UsageError where both are given."""
    if until is not None and days is not None:
        raise UsageError("--until and --days both say when the key ends: give one of them")
    if until is not None:
        return format_rfc3339(parse_time("--until", until))
    return None if days is None else format_rfc3339(clock() + timedelta(days=days) // timedelta(microseconds=1))


def create(
    settings: Settings, key: str, name: str, role: str, expires_at: str | None, *, as_json: bool, out: TextIO
) -> None:
    """Make a key and write its text, once."""
    body = {"name": name, "role": role, "expires_at": expires_at}
    _write_made(call(settings, "POST", _PATH, body=body, key=key), as_json=as_json, out=out)


def rotate(settings: Settings, key: str, key_id: str, overlap: int | None, *, as_json: bool, out: TextIO) -> None:
    """Make a key in the place of another and write its text, once."""
    body = {} if overlap is None else {"overlap_seconds": overlap}
    made = call(settings, "POST", f"{_path(key_id)}/rotate", body=body, key=key)
    _write_made(made, as_json=as_json, out=out)


def revoke(settings: Settings, key: str, key_id: str) -> str:
    """Revoke a key; return what to show."""
    call(settings, "DELETE", _path(key_id), key=key)
    return f"key {key_id} revoked: it is refused everywhere within seconds"


def listed(settings: Settings, key: str, state: str, *, as_json: bool, out: TextIO) -> None:
    """Write the tenant's keys in a state, the newest first."""
    query: dict[str, Any] = {"state": state, "limit": _PAGE}
    found: list[Mapping[str, Any]] = []
    while True:
        page = call(settings, "GET", _PATH, query=query, key=key)
        found += page["keys"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
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


def _write_made(made: Mapping[str, Any], *, as_json: bool, out: TextIO) -> None:
    if as_json:
        out.write(json.dumps(made) + "\n")
    else:
        end = made["expires_at"] or "it is revoked"
        out.write(f"key {made['id']} of role {made['role']}, until {end}. Its text, shown this once:\n")
        out.write(f"{made['api_key']}\n")


def _path(key_id: str) -> str:
    if keys.parse(key_id) is not None:
        raise UsageError("that is a whole key: name it by its id, the part behind ps_live_")
    if not (key_id.isascii() and key_id.isalnum()):
        raise UsageError(f"{key_id!r} is no id of a key: `pulsestream key list` shows them")
    return f"{_PATH}/{key_id}"
