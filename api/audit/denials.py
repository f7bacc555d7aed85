"""Refusals of known keys on their way into the audit, apart from the requests that were refused.

A request leaves a count and goes on; a task of its own writes the rows. While the database is away the counts wait.
They are lost when the process is killed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from api.audit.entry import Action, Actor, append
from api.audit.refusals import Refusals, Refused
from api.database import Database
from api.errors import Problem
from pulsestream.core.log import logger
from pulsestream.core.metrics import AUDIT_DENIALS

REST: Final = 0.2
"""Seconds between two looks while something is refused."""
LOOK: Final = 5.0
"""Seconds after which what was held back is looked at without a new refusal, and a database that was away again."""
FAREWELL: Final = 3.0
"""Seconds that the last rows may take when the process stops."""
_AWAY: Final = 503
_log = logger(__name__)


class Denials:
    """What was refused in this process; belongs to one event loop."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._refusals = Refusals()
        self._news = asyncio.Event()

    def note(self, problem: Problem, request_id: str) -> None:
        """Count a refusal, if it is one of a known key; costs neither time nor an error."""
        if problem.denial is None:
            return
        if self._refusals.add(problem.denial, request_id):
            self._news.set()
        else:
            AUDIT_DENIALS.labels("lost").inc()

    async def write(self) -> None:
        """Write what is refused, until this is cancelled."""
        while True:
            self._news.clear()
            if not await self._write(self._refusals.take(self._monotonic())):
                await asyncio.sleep(LOOK)
                continue
            await asyncio.sleep(REST)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._news.wait()

    async def close(self) -> None:
        """Write everything that is left, within bounds."""
        try:
            async with asyncio.timeout(FAREWELL):
                await self._write(self._refusals.take(self._monotonic(), everything=True))
        except TimeoutError:
            _log.warning("refused requests are missing in the audit", reason=f"no answer within {FAREWELL:.0f} s")

    async def _write(self, rows: Sequence[Refused]) -> bool:
        """Append rows and return whether the database is there; what it was not asked for is counted again."""
        left = deque(rows)
        try:
            while left:
                await self._append_or_lose(left[0])
                left.popleft()
        except Problem as problem:
            _log.warning("refused requests wait for the audit", rows=len(left), reason=str(problem))
            return False
        finally:
            for refused in left:
                self._refusals.put_back(refused)
        return True

    async def _append_or_lose(self, refused: Refused) -> None:
        """Append a row; raises Problem 503. One that the database refuses is gone: no later try would end otherwise."""
        try:
            await self._append(refused)
        except Exception as error:  # a surprise must not keep the rows behind it back
            if isinstance(error, Problem) and error.status == _AWAY:
                raise
            AUDIT_DENIALS.labels("lost").inc(refused.times)
            _log.exception("the audit does not take a refused request", tenant=refused.denial.tenant)
        else:
            AUDIT_DENIALS.labels("recorded").inc(refused.times)

    async def _append(self, refused: Refused) -> None:
        denial = refused.denial
        actor = Actor(denial.key_id, denial.role, refused.request_id)
        told = {"reason": denial.reason, "permission": denial.permission, "times": refused.times}
        async with self._database.tenant(denial.tenant) as connection:
            await append(connection, actor, Action.ACCESS_DENIED, f"key:{denial.key_id}", {"denial": told})
