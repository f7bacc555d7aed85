"""Retention in the background of the relay: its own thread and connection, once an hour.

A run that fails is told in the log and by the age of the last one that ended well; the next one goes on where it was.
"""

import threading
from contextvars import copy_context
from functools import partial
from typing import Final

import psycopg

from api.relay_database import connect
from api.retention.service import BusyError, Report, run
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, to_datetime, wall_clock
from pulsestream.core.errors import PulseStreamError
from pulsestream.core.log import logger
from pulsestream.core.metrics import RETENTION_CHUNKS, RETENTION_LAST, RETENTION_ROWS
from pulsestream.core.settings import Settings

FIRST: Final = 300.0
"""Seconds from the start to the first run."""
EVERY: Final = 3600.0
_log = logger(__name__)


class Schedule:
    """The thread; it ends when `stop` is set, after the statement that it is at."""

    def __init__(
        self,
        settings: Settings,
        stop: threading.Event,
        clock: Clock = wall_clock,
        *,
        first: float = FIRST,
        every: float = EVERY,
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._clock = clock
        self._first, self._every = first, every
        target = partial(copy_context().run, self._run)  # so that its log says which process it is
        self._thread = threading.Thread(target=target, name="retention", daemon=True)
        self.start = self._thread.start
        self.join = self._thread.join

    def _run(self) -> None:
        wait = self._first
        while not self._stop.wait(wait):
            wait = self._every
            try:
                self._once()
            except BusyError as error:
                _log.info("retention waits", reason=str(error))
            except (PulseStreamError, psycopg.Error):
                _log.exception("retention failed, and is tried again", seconds=wait)

    def _once(self) -> None:
        now = self._clock()
        with connect(self._settings, "pulsestream-retention") as connection:
            report = run(connection, self._settings, to_datetime(now), dry_run=False, stopping=self._stop.is_set)
        _tell(report)
        RETENTION_LAST.set(now / MICROS_PER_SECOND)


def _tell(report: Report) -> None:
    for (table, _), removed in report.removed.items():
        RETENTION_ROWS.labels(table).inc(removed.rows)
    RETENTION_CHUNKS.inc(report.chunks)
    rows = sum(removed.rows for removed in report.removed.values())
    _log.info("retention ran", rows=rows, chunks=report.chunks, held=report.held)
