"""When keys were used last: noted in the process at each use, written to the database once a minute.

A use costs a look and a store in a dictionary. What the database does not take is tried again with what comes; a
process that is killed loses at most a minute of notes.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import psycopg

from api.database import Database, execute
from api.errors import Problem
from pulsestream.core.clock import Clock, to_datetime
from pulsestream.core.log import logger

EVERY: Final = 60.0
"""Seconds between two writes."""
MOST: Final = 20_000
"""Keys that are noted at once; uses of more of them within a minute are not."""
AT_ONCE: Final = 1_000
"""Keys in a statement."""
LAST_WRITE: Final = 3.0
"""Seconds that the write at a stop may take."""
_log = logger(__name__)


class KeyUse:
    """Notes uses of keys, and writes them while `run` runs. Used from one event loop."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[str, int] = {}

    def note(self, key_id: str) -> None:
        """Note that a key was used now."""
        if key_id in self._noted or len(self._noted) < MOST:
            self._noted[key_id] = self._clock()

    async def run(self, every: float = EVERY) -> None:
        """Write once in `every` seconds until cancelled, and a last time then."""
        try:
            while True:
                await asyncio.sleep(every)
                await self.write()
        finally:
            try:
                await asyncio.wait_for(self.write(), LAST_WRITE)
            except TimeoutError:
                _log.warning("uses of keys not written", keys=len(self._noted))

    async def write(self) -> None:
        """Write what is noted; where the database does not take it, it stays noted."""
        noted, self._noted = self._noted, {}
        ids = sorted(noted)
        try:
            for first in range(0, len(ids), AT_ONCE):
                await self._write({key_id: noted[key_id] for key_id in ids[first : first + AT_ONCE]})
                for key_id in ids[first : first + AT_ONCE]:
                    del noted[key_id]
        except (Problem, psycopg.Error) as error:
            _log.warning("uses of keys not written", keys=len(noted), reason=str(error))
        finally:
            for key_id, at in noted.items():
                if len(self._noted) < MOST:
                    self._noted.setdefault(key_id, at)

    async def _write(self, part: Mapping[str, int]) -> None:
        bound = {"ids": list(part), "times": [to_datetime(at) for at in part.values()]}
        async with self._database.connection() as connection:
            await execute(connection, "note_key_use", bound)
