"""Keys made, rotated, changed, revoked: each change under the tenant's lock, judged by what the database says then."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from api import errors, keys
from api.audit.entry import Action, Actor, append_change
from api.auth import Caller, Permission
from api.cursor import CursorError, CursorSeal, Position
from api.database import Connection, Database
from api.keys_admin import policy, repository
from api.keys_admin.repository import WALK, KeyRow, NewKey
from api.limits.quotas import Quotas
from api.outbox import lock_tenant
from pulsestream.core.clock import Clock, format_rfc3339, to_datetime, to_micros
from pulsestream.core.log import logger

MAX_OVERLAP: Final = 7 * 24 * 3600
"""Seconds for which a key may work on beside its successor."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A new key and its text, which nobody can see again."""

    key: KeyRow
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Keys, the newest first; `next_cursor` is None after the last one."""

    keys: list[KeyRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class _Turn:
    """A tenant's turn to change its keys: who changes them, when, and how many of them worked before."""

    connection: Connection
    caller: Caller
    actor: KeyRow
    now: datetime
    quotas: Quotas
    use: int

    @property
    def tenant(self) -> str:
        """Whose keys they are."""
        return self.caller.tenant

    async def find(self, key_id: str) -> KeyRow:
        """Return a key that the actor may touch; raises Problem 403 or 404."""
        key = await _found(self.connection, self.tenant, key_id)
        policy.check_role(self.actor, key.role)
        return key

    async def end(self, action: Action, held: KeyRow | None, key: KeyRow) -> None:
        """Look at what the tenant is left with, and audit it; raises Problem 403 or 409, which undoes everything."""
        counts = await repository.count_keys(self.connection, self.tenant, self.now)
        await self.quotas.check(self.connection, self.tenant, "keys", self.use, counts.active)
        if held is not None and held.role == "owner" and held.expires_at is None and held.revoked_at is None:
            policy.check_owner_left(counts)
        await self.audit(action, held, key)

    async def audit(self, action: Action, held: KeyRow | None, key: KeyRow) -> None:
        """Append what became of a key to the audit."""
        before = None if held is None else _audited(held)
        actor = Actor.of(self.caller)
        await append_change(self.connection, actor, action, f"key:{key.id}", before=before, after=_audited(key))


class Keys:
    """What can be done with a tenant's keys. `forget` is told of each key that changed."""

    def __init__(
        self,
        database: Database,
        quotas: Quotas,
        peppers: keys.Peppers,
        seal: CursorSeal,
        *,
        clock: Clock,
        forget: Callable[[str], None],
    ) -> None:
        self._database = database
        self._quotas = quotas
        self._peppers = peppers
        self._seal = seal
        self._clock = clock
        self._forget = forget

    def now(self) -> datetime:
        """Return the time by which keys are judged."""
        return to_datetime(self._clock())

    async def list(self, tenant: str, state: str | None, limit: int, cursor: str | None) -> Page:
        """Return a page of the keys in a state, or of all; raises Problem 400."""
        behind = None if cursor is None else self._behind(tenant, state, cursor)
        async with self._database.tenant(tenant) as connection:
            rows = await repository.list_keys(connection, tenant, state, self.now(), behind=behind, limit=limit + 1)
        more = len(rows) > limit
        return Page(rows[:limit], self._seal.seal(rows[limit - 1].position, tenant, [WALK, state]) if more else None)

    async def get(self, tenant: str, key_id: str) -> KeyRow:
        """Return a key; raises Problem 404."""
        async with self._database.tenant(tenant) as connection:
            return await _found(connection, tenant, key_id)

    async def create(self, caller: Caller, name: str, role: str, expires_at: datetime | None) -> Made:
        """Make a key; raises Problem 403, 409 or 422."""
        async with self._turn(caller) as turn:
            policy.check_role(turn.actor, role)
            policy.check_ahead(expires_at, turn.now)
            policy.check_life(turn.actor, expires_at)
            made = await self._insert(turn, NewKey(name, role, expires_at, turn.actor.id))
            await turn.end(Action.KEY_CREATE, None, made.key)
        _account("key made", caller, made.key)
        return made

    async def rotate(self, caller: Caller, key_id: str, overlap: int) -> Made:
        """Make a key in the place of another, which works on for `overlap` seconds; raises Problem 403, 404 or 409."""
        async with self._turn(caller) as turn:
            held = await turn.find(key_id)
            policy.check_not_replaced(held)
            policy.check_active(held, turn.now)
            policy.check_life(turn.actor, held.expires_at)
            made = await self._insert(turn, NewKey(held.name, held.role, held.expires_at, turn.actor.id))
            await turn.audit(Action.KEY_CREATE, None, made.key)
            end = turn.now + timedelta(seconds=overlap)
            ended = replace(held, expires_at=min(held.expires_at or end, end), replaced_by=made.key.id)
            await repository.change_key(turn.connection, turn.tenant, ended)
            await turn.end(Action.KEY_ROTATE, held, ended)
        self._forget(key_id)
        _account("key rotated", caller, held, successor=made.key.id)
        return made

    async def change(self, caller: Caller, key_id: str, changes: dict[str, str | datetime | None]) -> KeyRow:
        """Give a key another name, end, or both; raises Problem 403, 404, 409 or 422."""
        async with self._turn(caller) as turn:
            held = await turn.find(key_id)
            policy.check_active(held, turn.now)
            changed = replace(held, **changes)  # type: ignore[arg-type] # the endpoint names fields and their types
            if "expires_at" in changes:
                policy.check_ahead(changed.expires_at, turn.now)
                policy.check_longer_life(turn.actor, held, changed.expires_at)
            if changed != held:
                await repository.change_key(turn.connection, turn.tenant, changed)
                await turn.end(Action.KEY_CHANGE, held, changed)
        self._forget(key_id)
        _account("key changed", caller, changed)
        return changed

    async def revoke(self, caller: Caller, key_id: str) -> None:
        """End a key for good; revoking it again changes nothing. Raises Problem 403, 404 or 409."""
        async with self._turn(caller) as turn:
            held = await turn.find(key_id)
            if held.revoked_at is None:
                await repository.revoke_key(turn.connection, turn.tenant, key_id, turn.now)
                await turn.end(Action.KEY_REVOKE, held, replace(held, revoked_at=turn.now))
        self._forget(key_id)
        _account("key revoked", caller, held)

    @asynccontextmanager
    async def _turn(self, caller: Caller) -> AsyncIterator[_Turn]:
        """Take the tenant's turn; everything in the block happens, or nothing where it raises."""
        async with self._database.tenant(caller.tenant) as connection:
            await lock_tenant(connection, caller.tenant)
            now = self.now()
            held = await repository.find_key(connection, caller.tenant, caller.key_id)
            counts = await repository.count_keys(connection, caller.tenant, now)
            try:
                yield _Turn(connection, caller, policy.check_actor(held, now), now, self._quotas, counts.active)
            except errors.Problem as problem:
                ended = "gone" if held is None else held.state(now)
                problem.denial = policy.denial(problem, caller, Permission.KEYS_WRITE, ended)
                raise

    async def _insert(self, turn: _Turn, wanted: NewKey) -> Made:
        key = keys.generate()
        row = await repository.insert_key(turn.connection, turn.tenant, key, self._peppers, wanted)
        return Made(row, key.text)

    def _behind(self, tenant: str, state: str | None, cursor: str) -> Position:
        try:
            return self._seal.open(cursor, tenant, [WALK, state])
        except CursorError as error:
            raise errors.invalid_cursor(
                f"{error}. Use next_cursor of an answer to this very request, unchanged."
            ) from error


async def _found(connection: Connection, tenant: str, key_id: str) -> KeyRow:
    row = await repository.find_key(connection, tenant, key_id)
    if row is None:
        raise errors.not_found(f"There is no key {key_id[:60]!r}: GET /api/v1/keys lists the tenant's keys.")
    return row


def _audited(key: KeyRow) -> dict[str, Any]:
    """Return what the audit knows of a key: what it may do, until when, and what took its place."""
    times = {"expires_at": key.expires_at, "revoked_at": key.revoked_at}
    shown = {name: format_rfc3339(to_micros(moment)) for name, moment in times.items() if moment is not None}
    successor = {} if key.replaced_by is None else {"replaced_by": key.replaced_by}
    return {"name": key.name, "role": key.role} | shown | successor


def _account(event: str, caller: Caller, key: KeyRow, **more: str) -> None:
    _log.info(event, tenant=caller.tenant, key_id=key.id, role=key.role, by=caller.key_id, **more)
