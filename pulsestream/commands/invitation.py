"""Invitations to register a tenant: made, listed and revoked by an operator, over the database."""

import json
from datetime import timedelta
from typing import Final, TextIO

from api.relay_database import connect, execute, fetch_all
from api.tenants.invitations import make
from pulsestream.commands.shown import printable, table
from pulsestream.core.clock import format_rfc3339, to_micros
from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings

_PROCESS: Final = "pulsestream-tenant"
_HEADINGS: Final = ("ID", "TIER", "STATE", "USED", "OF", "EXPIRES", "NOTE")


def invite(settings: Settings, tier: str, life: timedelta, uses: int, note: str) -> str:
    """Make an invitation and return what to show: its text, once."""
    with connect(settings, _PROCESS) as connection:
        made = make(connection, tier, life, uses, note)
    until = format_rfc3339(to_micros(made.expires_at))
    return f"invitation {made.id}: {uses} of tier {tier} until {until}. Its text, shown this once:\n{made.text}"


def listed(settings: Settings, *, as_json: bool, out: TextIO) -> None:
    """Write every invitation, the newest first, without its secret."""
    with connect(settings, _PROCESS) as connection:
        rows = fetch_all(connection, "list_invitations")
    for row in rows:
        for name in ("created_at", "expires_at", "revoked_at"):
            row[name] = row[name] and format_rfc3339(to_micros(row[name]))
    if as_json:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return
    columns = ("id", "tier", "state", "used", "uses", "expires_at", "note")
    out.write(table(_HEADINGS, [[printable(str(row[column])) for column in columns] for row in rows], frozenset()))


def revoke(settings: Settings, invitation: str) -> str:
    """Revoke an invitation and return what to show; raises UsageError for one that is not there or is revoked."""
    with connect(settings, _PROCESS) as connection:
        if not execute(connection, "revoke_invitation", id=invitation):
            raise UsageError(
                f"there is no invitation {invitation!r} that works: `pulsestream tenant invitations` lists them"
            )
    return f"invitation {invitation} revoked: nobody registers with it any more"
