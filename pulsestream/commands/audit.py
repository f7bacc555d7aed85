"""The audit: a tenant's over the HTTP API, listed and verified; every tenant's over the database, verified."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TextIO

import msgspec

from api.audit import head_publisher
from api.audit.head_publisher import published_heads
from api.audit.verification import Checked, check, tenants
from api.relay_database import connect
from pulsestream.client import Client
from pulsestream.client.account import PAGE
from pulsestream.commands.shown import printable
from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings

_ROW: Final = "{seq:>8}  {at:27}  {action:22}  {actor:13}  {target}"
_HEADINGS: Final = {"seq": "SEQ", "at": "AT", "action": "ACTION", "actor": "KEY", "target": "TARGET"}


class _Head(msgspec.Struct):
    tenant: str
    seq: int
    hash: str


def listed(api: Client, filters: Mapping[str, str | None], limit: int, *, as_json: bool, out: TextIO) -> None:
    """Write the tenant's rows, newest first, one a line, up to `limit` (0: all)."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    if not as_json:
        out.write(_ROW.format(**_HEADINGS) + "\n")
    entries = islice(api.audit.list(page=min(limit or PAGE, PAGE), **wanted), limit or None)
    out.writelines((json.dumps(entry, ensure_ascii=False) if as_json else _line(entry)) + "\n" for entry in entries)


def verify(api: Client, *, out: TextIO) -> bool:
    """Verify the tenant's whole chain over the API, write what was found, and return whether it is whole."""
    verdict = api.audit.verify()
    if verdict["intact"]:
        out.write(f"whole: {verdict['last']} rows, the last one's hash is {verdict['hash']}\n")
    else:
        out.write(printable(f"broken at row {verdict['broken_at']}: {verdict['reason']}") + "\n")
    return bool(verdict["intact"])


def verify_all(
    settings: Settings, named: Sequence[str], kept: Iterable[str], *, heads: bool, as_json: bool, out: TextIO
) -> bool:
    """Verify the chains of these tenants, or of all, over the database, each held against the lines that were `kept`.

    With `heads` also against the ends that the relay has published. Writes a line for each and returns whether all are
    whole; raises UsageError for a line that is none, OutageError.
    """
    hashes = _hashes(kept)
    for head in published_heads(settings).values() if heads else ():
        hashes.setdefault(head.tenant, {}).setdefault(head.seq, head.hash)
    whole = True
    with connect(settings, "pulsestream-audit") as connection:
        known = {*tenants(connection), *hashes}
        for tenant in named or sorted(known):
            if tenant not in known:
                raise UsageError(f"tenant {tenant!r} has no audit: nothing of it was changed or refused so far")
            checked = check(connection, tenant, hashes.get(tenant, {}))
            whole = whole and checked.broken_at is None
            out.write(_checked(checked, as_json=as_json) + "\n")
    return whole


def accept(settings: Settings, tenant: str) -> str:
    """Publish where a tenant's chain ends now in the place of what was published; return what to show.

    Raises UsageError for a tenant of which nothing is published.
    """
    before = published_heads(settings).get(tenant)
    if before is None:
        raise UsageError(f"nothing is published of tenant {tenant!r}: there is nothing to put in its place")
    with connect(settings, "pulsestream-audit") as connection:
        end = head_publisher.accept(settings, connection, tenant)
    now = "nothing any more" if end is None else f"row {end.seq} with the hash {end.hash}"
    return f"{tenant}: published was row {before.seq} with the hash {before.hash}, and is {now}"


def _hashes(lines: Iterable[str]) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for number, line in enumerate(lines, 1):
        try:
            head = msgspec.json.decode(line, type=_Head)
        except msgspec.MsgspecError as error:
            said = f"line {number} of the hashes that were kept is not one of `verify-all --json`: {error}"
            raise UsageError(said) from error
        found.setdefault(head.tenant, {})[head.seq] = head.hash
    return {tenant: {seq: text for seq, text in hashes.items() if seq} for tenant, hashes in found.items()}


def _checked(checked: Checked, *, as_json: bool) -> str:
    if as_json:
        return msgspec.json.encode(checked).decode()
    if checked.broken_at is None:
        return f"{checked.tenant}: whole, {checked.seq} rows, the last one's hash is {checked.hash}"
    return printable(f"{checked.tenant}: BROKEN at row {checked.broken_at}: {checked.reason}")


def _line(entry: Mapping[str, Any]) -> str:
    actor = (entry["actor"] or {}).get("id") or "-"
    named = {name: entry[name] for name in ("seq", "at", "action", "target")}
    return printable(_ROW.format(**named, actor=actor))
