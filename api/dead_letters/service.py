"""Dead letters: found and shown, tried, sent again, discarded.

A replay holds its letters' rows while the broker takes the records, and settles those that it acknowledged in the same
transaction. A crash in between leaves letters open whose records are on their topic already: the next replay sends
them again with the same mark, and both have the effect of one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from api import errors
from api.audit.entry import Action, Actor, append_change
from api.auth import Caller
from api.cursor import CursorError, CursorSeal, Position
from api.database import Connection, Database
from api.dead_letters import repository, shown
from api.dead_letters.filters import Filter
from api.dead_letters.outcomes import Done, Outcome, barred, done, gone, groups, not_sent, sent
from api.dead_letters.repository import LetterRow
from api.dead_letters.trial import judge
from api.ingestion.publisher import Publisher, QueueFullError, Report
from pulsestream.core.clock import Clock
from pulsestream.core.headers import as_replay
from pulsestream.core.log import logger
from pulsestream.core.metrics import DEAD_LETTERS_SETTLED
from schemas.records import DeadLetter

AT_ONCE: Final = 100
"""Letters that one request replays or tries at most."""
AT_WORK: Final = 3
"""Replays that hold a connection with the database at once."""
TURN: Final = 10.0
"""Seconds that one waits for its turn."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters a request is about: these ids, or the open ones of a filter, the oldest first, behind a cursor."""

    ids: Sequence[str] = ()
    where: Filter | None = None
    limit: int = AT_ONCE
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Letters in the walk's order; `next_cursor` is None after the last one."""

    letters: list[LetterRow]
    next_cursor: str | None


class DeadLetters:
    """What can be done with a tenant's dead letters."""

    def __init__(self, database: Database, seal: CursorSeal, publisher: Publisher, clock: Clock) -> None:
        self._database = database
        self._seal = seal
        self._publisher = publisher
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_WORK)

    async def search(self, tenant: str, wanted: Filter, limit: int, cursor: str | None, *, ascending: bool) -> Page:
        """Return one page, in the order in which the letters were first refused; raises Problem 400."""
        behind = self._behind(tenant, wanted, cursor, ascending=ascending)
        async with self._database.tenant(tenant) as connection:
            rows = await repository.search(connection, tenant, wanted, behind, limit + 1, ascending=ascending)
        return Page(rows[:limit], self._next_cursor(tenant, wanted, rows, limit, ascending=ascending))

    async def get(self, tenant: str, letter_id: str) -> dict[str, Any]:
        """Return a letter with what its record holds; raises Problem 404."""
        async with self._database.tenant(tenant) as connection:
            rows = await repository.find(connection, tenant, [letter_id])
            letter = await repository.read(connection, tenant, letter_id)
            refused = await repository.refused_replays(connection, tenant, letter_id)
        if letter is None or letter_id not in rows:
            raise _not_found(letter_id)
        return {"letter": rows[letter_id], "refused_replays": refused, **shown.contents(letter)}

    async def replay(self, caller: Caller, choice: Choice, *, dry_run: bool, force: bool) -> Done:
        """Send records again that would be stored now, with `force` also the others, or say what would become of them.

        Raises Problem 404 for an id that the tenant does not have, before anything is sent.
        """
        rows, next_cursor = await self._chosen(caller.tenant, choice)
        outcomes = {row.id: Outcome(row.id, f"already_{row.settled}") for row in rows if row.settled}
        for group in groups([row for row in rows if not row.settled]):
            async with self._turn():
                outcomes |= await self._replay_group(caller, group, dry_run=dry_run, force=force)
        return done([outcomes.get(row.id, gone(row.id)) for row in rows], next_cursor, dry_run=dry_run)

    async def discard(self, caller: Caller, choice: Choice, reason: str) -> Done:
        """Settle open letters without sending them again, for a reason that is kept; raises Problem 404."""
        rows, next_cursor = await self._chosen(caller.tenant, choice)
        ids = [row.id for row in rows if not row.settled]
        async with self._database.tenant(caller.tenant) as connection:
            settled = await repository.settle(
                connection, caller.tenant, ids, settled="discarded", by=caller.key_id, reason=reason
            )
            raced = await self._raced(connection, caller.tenant, set(ids) - set(settled))
            await _audit(connection, caller, Action.DEAD_LETTERS_DISCARD, settled, state="discarded", reason=reason)
        _account(caller, "discarded", len(settled))
        outcomes = raced | {row.id: Outcome(row.id, f"already_{row.settled}") for row in rows if row.settled}
        outcomes |= {letter_id: Outcome(letter_id, "discarded") for letter_id in settled}
        return done([outcomes.get(row.id, gone(row.id)) for row in rows], next_cursor)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Let few replays hold a connection at once: the broker may keep them waiting. Raises Problem 503."""
        try:
            await asyncio.wait_for(self._turns.acquire(), TURN)
        except TimeoutError as error:
            raise errors.overloaded(f"{AT_WORK} replays are under way") from error
        try:
            yield
        finally:
            self._turns.release()

    async def _chosen(self, tenant: str, choice: Choice) -> tuple[list[LetterRow], str | None]:
        if choice.where is None:
            async with self._database.tenant(tenant) as connection:
                found = await repository.find(connection, tenant, choice.ids)
            for letter_id in choice.ids:
                if letter_id not in found:
                    raise _not_found(letter_id)
            return [found[letter_id] for letter_id in dict.fromkeys(choice.ids)], None
        behind = self._behind(tenant, choice.where, choice.cursor, ascending=True)
        async with self._database.tenant(tenant) as connection:
            rows = await repository.search(connection, tenant, choice.where, behind, choice.limit + 1, ascending=True)
        cursor = self._next_cursor(tenant, choice.where, rows, choice.limit, ascending=True)
        return rows[: choice.limit], cursor

    async def _replay_group(
        self, caller: Caller, group: Sequence[LetterRow], *, dry_run: bool, force: bool
    ) -> dict[str, Outcome]:
        async with self._database.tenant(caller.tenant) as connection:
            ids = [row.id for row in group]
            letters = await repository.lock(connection, caller.tenant, ids)
            outcomes = await self._raced(connection, caller.tenant, set(ids) - letters.keys())
            faults = await judge(connection, [*letters.values()], self._clock())
            ready: dict[str, DeadLetter] = {}
            for (letter_id, letter), fault in zip(letters.items(), faults, strict=True):
                obstacle = barred(caller.tenant, letter_id, letter, fault, force=force and not dry_run)
                if obstacle is None:
                    ready[letter_id] = letter
                else:
                    outcomes[letter_id] = obstacle
            if dry_run:
                return outcomes | {letter_id: Outcome(letter_id, "would_succeed") for letter_id in ready}
            answers = await self._send(ready)
            replayed = [letter_id for letter_id, outcome in answers.items() if outcome.outcome == "replayed"]
            await repository.settle(
                connection, caller.tenant, replayed, settled="replayed", by=caller.key_id, reason=None
            )
            await _audit(connection, caller, Action.DEAD_LETTERS_REPLAY, replayed, state="replayed")
        _account(caller, "replayed", len(replayed))
        return outcomes | answers

    async def _raced(self, connection: Connection, tenant: str, ids: Iterable[str]) -> dict[str, Outcome]:
        """Return what became of letters that were open a moment ago and are not to be had."""
        rows = await repository.find(connection, tenant, [*ids])
        return {
            row.id: Outcome(row.id, f"already_{row.settled}")
            if row.settled
            else Outcome(row.id, "busy", message="another request has it in hand: try again in some seconds")
            for row in rows.values()
        }

    async def _send(self, letters: dict[str, DeadLetter]) -> dict[str, Outcome]:
        reports: dict[str, asyncio.Future[Report]] = {}
        for letter_id, letter in letters.items():
            headers = ((header.name, header.value) for header in letter.headers)
            marked = as_replay(headers, letter_id, letter.replays + 1)
            try:
                reports[letter_id] = self._publisher.send(letter.topic, letter.key, letter.value, marked)
            except QueueFullError:
                break
        outcomes = {letter_id: sent(letter_id, await report) for letter_id, report in reports.items()}
        return outcomes | {letter_id: not_sent(letter_id) for letter_id in letters.keys() - outcomes.keys()}

    def _behind(self, tenant: str, wanted: Filter, cursor: str | None, *, ascending: bool) -> Position | None:
        if cursor is None:
            return None
        try:
            return self._seal.open(cursor, tenant, [wanted.identity(), ascending])
        except CursorError as error:
            raise errors.invalid_cursor(
                f"{error}. Use next_cursor of an answer to this very request, unchanged."
            ) from error

    def _next_cursor(
        self, tenant: str, wanted: Filter, rows: Sequence[LetterRow], limit: int, *, ascending: bool
    ) -> str | None:
        if len(rows) <= limit:
            return None
        return self._seal.seal(rows[limit - 1].position, tenant, [wanted.identity(), ascending])


async def _audit(connection: Connection, caller: Caller, action: Action, ids: Sequence[str], **after: str) -> None:
    if ids:
        letters = {"ids": [*ids]}
        before = letters | {"state": "open"}
        await append_change(connection, Actor.of(caller), action, "dead-letters", before=before, after=letters | after)


def _account(caller: Caller, settled: str, letters: int) -> None:
    if letters:
        DEAD_LETTERS_SETTLED.labels(settled).inc(letters)
        _log.info("dead letters settled", tenant=caller.tenant, settled=settled, letters=letters, key_id=caller.key_id)


def _not_found(letter_id: str) -> errors.Problem:
    return errors.not_found(
        f"There is no dead letter {letter_id[:60]!r}: GET /api/v1/dead-letters lists the tenant's dead letters."
    )
