"""What this process needs to be ready, looked at in the background so that a probe is answered at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import psycopg

from api.database import Database, fetch_all, fetch_one
from api.errors import Problem
from api.ingestion.publisher import Publisher
from pulsestream.core.health import Check, Readiness
from schemas.errors import MigrationError
from schemas.migrate import migrations, pending

EVERY: Final = 2.0
"""Seconds between two looks."""
_NOT_YET: Final = "not looked at yet"
Look = Callable[[], Awaitable[str | None]]


class Health:
    """The last known state of the database and the broker."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher
        self._looks: dict[str, Look] = {"database": self._look_at_database, "kafka": self._look_at_kafka}
        self._said: dict[str, str | None] = dict.fromkeys(self._looks, _NOT_YET)
        self.readiness = Readiness()
        for name in self._looks:
            self.readiness.add(name, self._last_word(name))

    def states(self) -> dict[str, str]:
        """Return `ok`, or what is missing, by name."""
        return {name: said or "ok" for name, said in self._said.items()}

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Look once at everything."""
        said = await asyncio.gather(*(look() for look in self._looks.values()))
        self._said.update(zip(self._looks, said, strict=True))

    def _last_word(self, name: str) -> Check:
        return lambda: self._said[name]

    async def _look_at_database(self) -> str | None:
        try:
            async with self._database.connection() as connection:
                await fetch_one(connection, "ping", {})
                rows = await fetch_all(connection, "applied_migrations", {})
            lacking = pending({row["version"]: row["checksum"] for row in rows}, migrations())
        except psycopg.errors.UndefinedTable:
            return "the database was never migrated: run `pulsestream migrate`"
        except (Problem, MigrationError) as error:
            return str(error)
        return f"the database lacks {lacking[0].name}: run `pulsestream migrate`" if lacking else None

    async def _look_at_kafka(self) -> str | None:
        return await asyncio.to_thread(self._publisher.answers)
