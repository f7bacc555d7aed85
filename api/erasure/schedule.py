"""Erasure in the background of the relay: its own thread and connection, whenever a tenant's grace period is over.

What fails is told in the log and by readiness, and goes on where it was after a pause; other tenants do not wait.
"""

import threading
from contextvars import copy_context
from functools import partial
from typing import Final

import psycopg

from api.erasure.broker import Belongings
from api.erasure.service import Erasure, due
from api.relay_database import connect
from pulsestream.core.errors import PulseStreamError
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings

EVERY: Final = 5.0
"""Seconds between two looks."""
_log = logger(__name__)


class ErasureSchedule:
    """The thread; it ends when `stop` is set, after the statement that it is at."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._problem: str | None = None
        target = partial(copy_context().run, self._run)  # so that its log says which process it is
        self._thread = threading.Thread(target=target, name="erasure", daemon=True)
        self.start = self._thread.start
        self.join = self._thread.join

    def problem(self) -> str | None:
        """Return what keeps a tenant from being erased, or None; for readiness."""
        return self._problem

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self._problem = self._once()
            except (PulseStreamError, psycopg.Error) as error:
                self._problem = f"erasure: {error}"
                _log.exception("erasure failed, and is tried again", seconds=EVERY)

    def _once(self) -> str | None:
        failure = None
        with connect(self._settings, "pulsestream-erasure") as connection:
            for tenant in due(connection):
                try:
                    Erasure(connection, Belongings(self._settings), tenant, stopping=self._stop.is_set).run()
                except (PulseStreamError, psycopg.Error) as error:
                    if connection.closed:
                        raise
                    failure = f"tenant {tenant} is not erased yet: {error}"
                    _log.warning("erasure waits", tenant=tenant, reason=str(error))
        return failure
