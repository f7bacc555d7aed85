"""What an operator sees of tenants, and does with them, over the database."""

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final, TextIO

from api.erasure.broker import Belongings
from api.erasure.service import preview
from api.relay_database import Connection, connect, fetch_all
from api.tenants import operators
from pulsestream.commands.shown import printable, table
from pulsestream.core.clock import format_rfc3339, to_micros
from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings

_PROCESS: Final = "pulsestream-tenant"
_COLUMNS: Final = ("tenant", "tier", "status", "delete_after", "created_at", "products", "last_used", "name")
_TOPICS: Final = ("dataset", "status", "detail")
_KEYS: Final = ("id", "name", "role", "created_at", "expires_at", "revoked_at", "last_used_at")
_RECENT: Final = ("day", "requests", "events", "bytes", "refused")


def listed(settings: Settings, status: str | None, *, as_json: bool, out: TextIO) -> None:
    """Write every tenant, or those of a status, by slug."""
    with connect(settings, _PROCESS) as connection:
        rows = [_plain(row) for row in fetch_all(connection, "list_tenants", status=status)]
    if as_json:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        out.write(_table(_COLUMNS, rows))


def show(settings: Settings, tenant: str, *, as_json: bool, out: TextIO) -> None:
    """Write what is known of a tenant; raises UsageError where there is none."""
    with connect(settings, _PROCESS) as connection:
        found = _found(connection, tenant)
    if as_json:
        out.write(json.dumps(found, ensure_ascii=False) + "\n")
        return
    lists = {"topics": _TOPICS, "api_keys": _KEYS, "usage": _RECENT}
    out.writelines(f"{name}: {_cell(value)}\n" for name, value in found.items() if name not in lists)
    for name, columns in lists.items():
        if found[name]:
            out.write("\n" + _table(columns, found[name]))


def suspend(settings: Settings, tenant: str, reason: str) -> str:
    """Suspend a tenant and return what to show; raises UsageError where that cannot be."""
    _do(settings, lambda connection: operators.suspend(connection, tenant, reason))
    return f"tenant {tenant} suspended: its keys are refused within 3 s, and it is fed no more"


def resume(settings: Settings, tenant: str) -> str:
    """Bring a suspended tenant back and return what to show; raises UsageError where that cannot be."""
    _do(settings, lambda connection: operators.resume(connection, tenant))
    return f"tenant {tenant} is active again, with all that it had"


def change_tier(settings: Settings, tenant: str, tier: str) -> str:
    """Give a tenant another tier and return what to show; raises UsageError where that cannot be."""
    changed = _do(settings, lambda connection: operators.change_tier(connection, tenant, tier))
    return f"tenant {tenant} is of tier {tier}" + (" now; its limits follow within 3 s" if changed else " already")


def delete(settings: Settings, tenant: str) -> str:
    """Begin to delete a tenant and return what to show; raises UsageError where that cannot be."""
    grace = timedelta(days=settings.deletion_grace_days)
    _do(settings, lambda connection: operators.delete(connection, tenant, grace))
    days = settings.deletion_grace_days
    return f"tenant {tenant} is suspended, and erased in {days} days; until then: pulsestream tenant restore {tenant}"


def restore(settings: Settings, tenant: str) -> str:
    """Bring back a tenant that is being deleted and return what to show; raises UsageError where that cannot be."""
    _do(settings, lambda connection: operators.restore(connection, tenant))
    return f"tenant {tenant} is active again, with all that it had"


def erase(settings: Settings, tenant: str) -> str:
    """End the grace period of a tenant and return what to show; raises UsageError where that cannot be."""
    _do(settings, lambda connection: operators.end_grace(connection, tenant))
    return f"the relay erases tenant {tenant} from now on: pulsestream tenant show {tenant} tells how far it is"


def would_erase(settings: Settings, tenant: str, out: TextIO) -> None:
    """Write what an erasure of a tenant would remove now, as JSON; raises BrokerError, ErasureError."""
    with connect(settings, _PROCESS) as connection:
        found = preview(connection, Belongings(settings), tenant)
    out.write(json.dumps(found, indent=2) + "\n")


def _do(settings: Settings, change: Callable[[Connection], bool | None]) -> bool | None:
    with connect(settings, _PROCESS) as connection:
        return change(connection)


def _found(connection: Connection, tenant: str) -> dict[str, Any]:
    rows = fetch_all(connection, "tenant_and_use", tenant=tenant)
    if not rows:
        raise UsageError(f"there is no tenant {tenant!r}: `pulsestream tenant list` shows all")
    lists = {"topics": "list_topics", "api_keys": "list_tenant_keys", "usage": "recent_usage"}
    more = {name: fetch_all(connection, query, tenant=tenant) for name, query in lists.items()}
    erasures = [_plain(row) for row in fetch_all(connection, "list_erasures", tenant=tenant)]
    erasure = {"erasure": erasures[0] if erasures else None}
    return _plain(rows[0]) | erasure | {name: [_plain(row) for row in held] for name, held in more.items()}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _as_text(value) for name, value in row.items()}


def _as_text(value: object) -> object:
    if isinstance(value, datetime):
        return format_rfc3339(to_micros(value))
    return value.isoformat() if isinstance(value, date) else value


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    headings = [column.upper().replace("_", " ") for column in columns]
    return table(headings, [[_cell(row[column]) for column in columns] for row in rows])


def _cell(value: object) -> str:
    return "-" if value is None else printable(str(value))
