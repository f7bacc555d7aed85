"""Stored ticks and trades of a tenant as a source, read as the API reads them when a rule is tried."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from api.stored import StoredRecords, snapshot
from pulsestream.commands.reading import Skipped, SourceError
from pulsestream.core.errors import OutageError
from pulsestream.core.topics import check_slug
from streams.engine.reading import Slice, Span


class RowSource:
    """What is stored of a tenant. Raises SourceError when that is nothing, OutageError when the database is away."""

    def __init__(self, database_url: str, tenant: str, span: Span) -> None:
        self.skipped = Skipped()
        self._url = database_url
        self._tenant = check_slug(tenant)
        self._span = span
        with self._records() as records:
            if records.is_empty():
                raise SourceError(
                    f"no tick and no trade of tenant {tenant!r} is stored; `pulsestream doctor` looks why"
                )

    def traded(self) -> set[tuple[str, str]]:
        """Return the products of which trades are stored."""
        with self._records() as records:
            return set(records.traded())

    def slices(self, span: int | None) -> Iterator[Slice]:  # noqa: ARG002 - rows are counted, whatever time they cover
        """Yield slices of a number of records, in order of time."""
        with self._records() as records:
            yield from records.slices()

    @contextmanager
    def _records(self) -> Iterator[StoredRecords]:
        try:
            with snapshot(self._url, self._tenant) as connection:
                yield StoredRecords(connection, self._tenant, self._span)
        except psycopg.Error as error:
            raise OutageError(
                f"cannot read what is stored: {error}; is the database that was named running?"
            ) from error
