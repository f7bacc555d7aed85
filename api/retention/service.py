"""One run of retention: what is no longer kept goes, or is told. Runs in the relay, and as `pulsestream retention`.

Where a table is a hypertable, a chunk in which nobody needs anything is dropped whole; all else goes by rows, a bounded
number in each transaction, so that the sink never waits for long. What ends a run halfway, the next one goes on with.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import psycopg

from api.relay_database import Connection
from api.retention import plan, store
from api.retention.plan import TABLES, Chunk, Share, Table
from pulsestream.core.errors import OutageError
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings

HOURS: Final = "trade_hours"
IDS: Final = "event_ids"
_log = logger(__name__)
Stopping = Callable[[], bool]


class BusyError(OutageError):
    """Another run of retention is at work: one at a time."""


@dataclass(slots=True)
class Removed:
    """What went, or would go, of one tenant in one table.

    `octets` is an estimate where rows go one by one, and leaves them out while the server does not know their size.
    """

    rows: int = 0
    chunks: int = 0
    octets: float = 0.0


@dataclass(frozen=True, slots=True)
class Span:
    """How long new chunks of a table are, and how long they should be (None: not known yet)."""

    table: str
    present: timedelta
    fitting: timedelta | None


@dataclass(slots=True)
class Report:
    """What a run did, or would do. `held`: chunks left for the next run, because somebody writes to them."""

    removed: dict[tuple[str, str], Removed] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    chunks: int = 0
    held: int = 0

    def of(self, table: str, tenant: str) -> Removed:
        """Return the account of a tenant in a table, to be written on."""
        return self.removed.setdefault((table, tenant), Removed())


def run(
    connection: Connection, settings: Settings, now: datetime, *, dry_run: bool, stopping: Stopping = lambda: False
) -> Report:
    """Remove what is no longer kept, or only tell; raises BusyError. A connection in autocommit, its time zone UTC."""
    if dry_run:
        return _Run(connection, settings, now, stopping, is_dry=True).run()
    if not store.take_turn(connection):
        raise BusyError("another run of retention is at work: it does what this one would, so wait for it")
    try:
        return _Run(connection, settings, now, stopping, is_dry=False).run()
    finally:
        if not connection.closed:
            store.end_turn(connection)


class _Run:
    def __init__(
        self, connection: Connection, settings: Settings, now: datetime, stopping: Stopping, *, is_dry: bool
    ) -> None:
        self._connection = connection
        self._periods = plan.periods(settings)
        self._cutoffs = plan.cutoffs(store.tiers(connection), self._periods, now)
        self._ids_before = now - plan.ids_kept(settings)
        self._has_chunks = store.has_chunks(connection)
        self._stopping = stopping
        self._is_dry = is_dry
        self._report = Report()

    def run(self) -> Report:
        for table in TABLES:
            if self._has_chunks:
                self._drop_chunks(table)
            for tenant, cutoff in self._finite():
                self._remove_rows(table, tenant, cutoff)
        for tenant, cutoff in self._finite():
            self._remove_hours(tenant, cutoff)
        self._remove_ids()
        if self._has_chunks and not self._stopping():
            self._fit_chunks()
        return self._report

    def _finite(self) -> Iterator[tuple[str, datetime]]:
        for tenant, cutoff in self._cutoffs.items():
            if self._stopping():
                return
            if cutoff is not None:
                yield tenant, cutoff

    def _drop_chunks(self, table: Table) -> None:
        newest = max((cutoff for cutoff in self._cutoffs.values() if cutoff is not None), default=None)
        for chunk in store.chunks(self._connection, table, newest) if newest else ():
            if self._stopping():
                return
            shares = self._over(table, chunk)
            if shares is not None and (self._is_dry or self._drop(table, chunk)):
                self._report.chunks += 1
                self._account(table, chunk, shares)

    def _over(self, table: Table, chunk: Chunk) -> list[Share] | None:
        """Return what is in a chunk, if nobody needs any of it."""
        if store.any_has_rows(self._connection, table, chunk, plan.needing(chunk, self._cutoffs)):
            return None
        shares = store.shares(self._connection, table, chunk)
        return shares if plan.is_over(chunk, shares, self._cutoffs) else None

    def _drop(self, table: Table, chunk: Chunk) -> bool:
        try:
            with store.holding(self._connection, chunk):
                if self._over(table, chunk) is None:
                    return False
                store.drop(self._connection, table, chunk)
        except psycopg.Error as error:
            if not store.is_held(error):
                raise
            _log.info("a chunk is in use and stays for now", table=table.name, chunk=chunk.name)
            self._report.held += 1
            return False
        _log.info("chunk dropped", table=table.name, chunk=chunk.name, first=str(chunk.first), last=str(chunk.last))
        return True

    def _account(self, table: Table, chunk: Chunk, shares: list[Share]) -> None:
        rows = sum(share.rows for share in shares)
        for share in shares:
            removed = self._report.of(table.name, share.tenant)
            removed.rows += share.rows
            removed.chunks += 1
            removed.octets += chunk.octets * share.rows / rows

    def _remove_rows(self, table: Table, tenant: str, cutoff: datetime) -> None:
        if self._is_dry:
            in_chunks = self._report.removed.get((table.name, tenant))
            rows = store.old_rows(self._connection, table, tenant, cutoff) - (in_chunks.rows if in_chunks else 0)
        else:
            rows = self._walk(table, tenant, cutoff)
        if rows > 0:
            removed = self._report.of(table.name, tenant)
            removed.rows += rows
            removed.octets += rows * (store.octets_a_row(self._connection, table) or 0.0)

    def _walk(self, table: Table, tenant: str, cutoff: datetime) -> int:
        walk = store.BEGIN
        while not walk.ended and not self._stopping():
            walk = store.remove_some(self._connection, table, tenant, cutoff, walk)
        return walk.removed

    def _remove_hours(self, tenant: str, cutoff: datetime) -> None:
        if self._is_dry:
            rows = store.count_hours(self._connection, tenant, cutoff)
        else:
            rows = sum(self._until_none(lambda: store.remove_hours(self._connection, tenant, cutoff)))
        if rows:
            self._report.of(HOURS, tenant).rows += rows

    def _until_none(self, remove: Callable[[], int]) -> Iterator[int]:
        while not self._stopping() and (rows := remove()):
            yield rows

    def _remove_ids(self) -> None:
        if self._is_dry:
            self._account_ids(store.count_ids(self._connection, self._ids_before))
            return
        for _ in self._until_none(self._remove_some_ids):
            """All of them."""

    def _remove_some_ids(self) -> int:
        removed = store.remove_ids(self._connection, self._ids_before)
        self._account_ids(removed)
        return sum(removed.values())

    def _account_ids(self, removed: dict[str, int]) -> None:
        for tenant, rows in removed.items():
            self._report.of(IDS, tenant).rows += rows

    def _fit_chunks(self) -> None:
        growths = store.growths(self._connection)
        fitting = plan.fitting_span(growths, store.memory(self._connection), self._periods)
        for growth in growths:
            self._report.spans.append(Span(growth.table, growth.span, fitting))
            if fitting is not None and fitting != growth.span and not self._is_dry:
                store.set_span(self._connection, growth.table, fitting)
                _log.info("new chunks have another length", table=growth.table, was=str(growth.span), now=str(fitting))
