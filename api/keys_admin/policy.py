"""Who may do what to which key. Pure: every function lets it pass, or raises the Problem that says why not.

Nobody gives what they do not have: neither a higher role than their own key's, nor a longer life. And a tenant always
keeps an Owner key without an end, so that it cannot lock itself out.
"""

from datetime import datetime
from typing import Final

from api import errors
from api.auth import Caller, Permission
from api.keys_admin.repository import Counts, KeyRow
from pulsestream.core.clock import format_rfc3339, to_micros

_RANKS: Final = {"viewer": 0, "admin": 1, "owner": 2}


def check_actor(actor: KeyRow | None, now: datetime) -> KeyRow:
    """Return the caller's own key if the database still says that it works; raises Problem 401.

    Without this, one that was revoked could make its successor in the seconds until every process knows.
    """
    if actor is None or actor.state(now) != "active":
        raise errors.unauthorized("This key is unknown, expired or revoked. Use another key of the tenant.")
    return actor


def check_role(actor: KeyRow, role: str) -> None:
    """Let a key make or touch keys up to its own role; raises Problem 403."""
    if _RANKS[role] > _RANKS[actor.role]:
        raise errors.forbidden(
            f"This key has role {actor.role}: keys of role {role} are made, rotated, changed and revoked with a key of "
            f"role {role}."
        )


def check_ahead(expires_at: datetime | None, now: datetime) -> None:
    """Refuse an end that is not ahead; raises Problem 422."""
    if expires_at is not None and expires_at <= now:
        raise errors.invalid_body(
            [errors.FieldError("/expires_at", f"{_time(expires_at)} is not ahead: to end a key now, revoke it")]
        )


def check_life(actor: KeyRow, expires_at: datetime | None) -> None:
    """Let a key that ends give no longer life than its own; raises Problem 403."""
    if _outlasts(expires_at, actor.expires_at):
        raise errors.forbidden(
            f"This key ends itself, at {_time(actor.expires_at)}, and gives no key a longer life: say an earlier "
            "expires_at, or use a key that lasts longer."
        )


def check_longer_life(actor: KeyRow, held: KeyRow, expires_at: datetime | None) -> None:
    """Likewise where a key that is there would end at another time: a shorter life can be given by any key."""
    if _outlasts(expires_at, held.expires_at):
        check_life(actor, expires_at)


def check_active(key: KeyRow, now: datetime) -> None:
    """Refuse to change a key that ended: it stays ended. Raises Problem 409."""
    state = key.state(now)
    if state != "active":
        raise errors.conflict("key-ended", "Key ended", f"Key {key.id} is {state} and stays so: make a new key.")


def check_not_replaced(key: KeyRow) -> None:
    """Refuse a second successor, which a repeated request would make; raises Problem 409."""
    if key.replaced_by is not None:
        raise errors.conflict(
            "key-rotated",
            "Key was rotated",
            f"Key {key.id} was rotated before, and {key.replaced_by} took its place: rotate that one. If its text was "
            "lost, revoke it and make a new key.",
            key_id=key.replaced_by,
        )


def check_owner_left(counts: Counts) -> None:
    """Refuse a change after which a tenant has no Owner key without an end; raises Problem 409."""
    if not counts.lasting_owners:
        raise errors.conflict(
            "last-owner-key",
            "Last owner key",
            "After this the tenant would have no Owner key that neither ends nor is revoked, and could lock itself "
            "out: make another Owner key without expires_at first.",
        )


def denial(problem: errors.Problem, caller: Caller, wanted: Permission, ended: str) -> errors.Denial | None:
    """Return what the audit keeps of a refusal: that of who may not, and not that of what cannot be."""
    reason = {"unauthorized": f"key {ended}", "forbidden": "beyond its own"}.get(problem.code)
    if reason is None:
        return None
    return errors.Denial(caller.tenant, caller.key_id, caller.role, wanted, reason)


def _outlasts(end: datetime | None, other: datetime | None) -> bool:
    return other is not None and (end is None or end > other)


def _time(moment: datetime | None) -> str:
    return "never" if moment is None else format_rfc3339(to_micros(moment))
