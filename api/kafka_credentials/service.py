"""Kafka credentials made, rotated and revoked: rows under the tenant's lock, judged by what the database says then.

Nothing here speaks with the broker: the relay brings it to what the rows say.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from api import errors
from api.audit.entry import Action, Actor, append_change
from api.auth import Caller, Permission
from api.cursor import CursorError, CursorSeal, Position
from api.database import Connection, Database
from api.kafka_credentials import login, repository
from api.kafka_credentials.clients import Address, Topic
from api.kafka_credentials.repository import WALK, CredentialRow, NewCredential
from api.kafka_credentials.rights import WRITABLE
from api.keys_admin import policy
from api.keys_admin.repository import KeyRow, find_key
from api.limits.quotas import Quotas
from api.outbox import lock_tenant
from api.topics import request_topics, topic_statuses
from pulsestream.core.clock import Clock, format_rfc3339, to_datetime, to_micros
from pulsestream.core.log import logger

MAX_OVERLAP: Final = 7 * 24 * 3600
"""Seconds for which a credential may work on beside its successor."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A new credential and its password, which nobody can see again."""

    credential: CredentialRow
    topics: list[Topic]
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Credentials, the newest first, and the tenant's topics; `next_cursor` is None after the last one."""

    credentials: list[CredentialRow]
    topics: list[Topic]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class _Turn:
    """A tenant's turn to change its credentials: who changes them, when, and how many of them worked before."""

    connection: Connection
    caller: Caller
    actor: KeyRow
    now: datetime
    use: int

    @property
    def tenant(self) -> str:
        """Whose credentials they are."""
        return self.caller.tenant

    async def audit(self, action: Action, held: CredentialRow | None, now: CredentialRow) -> None:
        """Append what became of a credential to the audit."""
        target = f"kafka-credential:{now.id}"
        before = None if held is None else _audited(held)
        await append_change(self.connection, Actor.of(self.caller), action, target, before=before, after=_audited(now))


class KafkaCredentials:
    """What can be done with a tenant's Kafka credentials. `address` is what its clients are told."""

    def __init__(self, database: Database, quotas: Quotas, address: Address, seal: CursorSeal, *, clock: Clock) -> None:
        self.address = address
        self._database = database
        self._quotas = quotas
        self._seal = seal
        self._clock = clock

    def now(self) -> datetime:
        """Return the time by which credentials are judged."""
        return to_datetime(self._clock())

    async def list(self, tenant: str, limit: int, cursor: str | None, *, with_ended: bool) -> Page:
        """Return a page of the credentials that work, or of all; raises Problem 400."""
        behind = None if cursor is None else self._behind(tenant, cursor, with_ended=with_ended)
        async with self._database.tenant(tenant) as connection:
            rows = await repository.list_credentials(
                connection, tenant, self.now(), with_ended=with_ended, behind=behind, limit=limit + 1
            )
            topics = await _topics(connection, tenant)
        more = len(rows) > limit
        last = self._seal.seal(rows[limit - 1].position, tenant, [WALK, with_ended]) if more else None
        return Page(rows[:limit], topics, last)

    async def get(self, tenant: str, credential_id: str) -> tuple[CredentialRow, Sequence[Topic]]:
        """Return a credential and the tenant's topics; raises Problem 404."""
        async with self._database.tenant(tenant) as connection:
            return await _found(connection, tenant, credential_id), await _topics(connection, tenant)

    async def create(self, caller: Caller, name: str, expires_at: datetime | None) -> Made:
        """Make a credential, and ask for the tenant's topics; raises Problem 403, 409 or 422."""
        self._check_offered()
        async with self._turn(caller) as turn:
            policy.check_ahead(expires_at, turn.now)
            policy.check_life(turn.actor, expires_at)
            made = await self._insert(turn, name, expires_at)
            await turn.audit(Action.KAFKA_CREDENTIAL_CREATE, None, made.credential)
        _account("kafka credential made", caller, made.credential)
        return made

    async def rotate(self, caller: Caller, credential_id: str, overlap: int) -> Made:
        """Make one in the place of another, which works on for `overlap` seconds; raises Problem 403, 404 or 409."""
        self._check_offered()
        async with self._turn(caller) as turn:
            held = await _found(turn.connection, turn.tenant, credential_id)
            _check_rotatable(held, turn.now)
            policy.check_life(turn.actor, held.expires_at)
            made = await self._insert(turn, held.name, held.expires_at, replaces=0 if overlap else 1)
            await turn.audit(Action.KAFKA_CREDENTIAL_CREATE, None, made.credential)
            end = turn.now + timedelta(seconds=overlap)
            ended = replace(held, expires_at=min(held.expires_at or end, end), replaced_by=made.credential.id)
            await repository.end_credential(turn.connection, turn.tenant, ended)
            await turn.audit(Action.KAFKA_CREDENTIAL_ROTATE, held, ended)
        _account("kafka credential rotated", caller, held, successor=made.credential.id)
        return made

    async def revoke(self, caller: Caller, credential_id: str) -> None:
        """End a credential for good; revoking it again changes nothing. Raises Problem 404."""
        async with self._turn(caller) as turn:
            held = await _found(turn.connection, turn.tenant, credential_id)
            if held.revoked_at is None:
                ended = replace(held, revoked_at=turn.now)
                await repository.end_credential(turn.connection, turn.tenant, ended)
                await turn.audit(Action.KAFKA_CREDENTIAL_REVOKE, held, ended)
        _account("kafka credential revoked", caller, held)

    def _check_offered(self) -> None:
        fault = self.address.fault()
        if fault is not None:
            raise errors.conflict(
                "kafka-not-offered",
                "Kafka is not offered",
                f"This installation has no broker address for tenants: {fault}. An operator sets "
                "PULSESTREAM_KAFKA_TENANT_BOOTSTRAP and PULSESTREAM_KAFKA_TENANT_SECURITY to a listener with SASL_SSL.",
            )

    @asynccontextmanager
    async def _turn(self, caller: Caller) -> AsyncIterator[_Turn]:
        """Take the tenant's turn; everything in the block happens, or nothing where it raises."""
        async with self._database.tenant(caller.tenant) as connection:
            await lock_tenant(connection, caller.tenant)
            now = self.now()
            held = await find_key(connection, caller.tenant, caller.key_id)
            use = await repository.count_credentials(connection, caller.tenant, now)
            try:
                yield _Turn(connection, caller, policy.check_actor(held, now), now, use)
            except errors.Problem as problem:
                ended = "gone" if held is None else held.state(now)
                problem.denial = policy.denial(problem, caller, Permission.KAFKA_CREDENTIALS_WRITE, ended)
                raise

    async def _insert(self, turn: _Turn, name: str, expires_at: datetime | None, *, replaces: int = 0) -> Made:
        wanted = turn.use + 1 - replaces
        await self._quotas.check(turn.connection, turn.tenant, "kafka_credentials", turn.use, wanted)
        password = login.new_password()
        new = NewCredential(login.new_id(), name, turn.actor.id, expires_at, login.salted(password))
        row = await repository.insert_credential(turn.connection, turn.tenant, new)
        await request_topics(turn.connection, turn.tenant, *WRITABLE)
        return Made(row, await _topics(turn.connection, turn.tenant), password)

    def _behind(self, tenant: str, cursor: str, *, with_ended: bool) -> Position:
        try:
            return self._seal.open(cursor, tenant, [WALK, with_ended])
        except CursorError as error:
            raise errors.invalid_cursor(
                f"{error}. Use next_cursor of an answer to this very request, unchanged."
            ) from error


async def _found(connection: Connection, tenant: str, credential_id: str) -> CredentialRow:
    row = await repository.find_credential(connection, tenant, credential_id)
    if row is None:
        raise errors.not_found(
            f"There is no Kafka credential {credential_id[:60]!r}: GET /api/v1/kafka-credentials lists the tenant's."
        )
    return row


async def _topics(connection: Connection, tenant: str) -> list[Topic]:
    return [Topic.of(status) for status in await topic_statuses(connection, tenant)]


def _check_rotatable(held: CredentialRow, now: datetime) -> None:
    """Refuse a second successor, which a repeated request would make, and one of what has ended; Problem 409."""
    if held.replaced_by is not None:
        raise errors.conflict(
            "kafka-credential-rotated",
            "Kafka credential was rotated",
            f"Kafka credential {held.id} was rotated before, and {held.replaced_by} took its place: rotate that one. "
            "If its password was lost, revoke it and make a new one.",
            credential_id=held.replaced_by,
        )
    if held.has_ended(now):
        raise errors.conflict(
            "kafka-credential-ended",
            "Kafka credential ended",
            f"Kafka credential {held.id} is {held.state(now)} and stays so: make a new one.",
        )


def _audited(row: CredentialRow) -> dict[str, Any]:
    """Return what the audit knows of a credential: until when it works, and what took its place."""
    times = {"expires_at": row.expires_at, "revoked_at": row.revoked_at}
    shown = {name: format_rfc3339(to_micros(moment)) for name, moment in times.items() if moment is not None}
    return {"name": row.name} | shown | ({} if row.replaced_by is None else {"replaced_by": row.replaced_by})


def _account(event: str, caller: Caller, row: CredentialRow, **more: str) -> None:
    _log.info(event, tenant=caller.tenant, credential=row.id, by=caller.key_id, **more)
