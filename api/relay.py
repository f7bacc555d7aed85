"""`pulsestream relay`: the outbox to the control topics, the reconciler of tenants' topics, and retention.

One relay works at a time: the advisory lock belongs to the database session that also marks what was published, so that
whoever loses the session stops. Others wait for their turn. Whatever goes wrong with the database ends the process; a
broker that is away is waited for.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Final

from api.ingestion.idempotency import WINDOW_HOURS
from api.outbox_publisher import OutboxPublisher
from api.reconciler import Reconciler
from api.relay_database import Connection, await_notice, connect, execute, fetch_one
from api.retention.schedule import Schedule
from pulsestream.core.errors import PulseStreamError
from pulsestream.core.health import Readiness, operations
from pulsestream.core.kafka import BrokerError
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings

LOCK: Final = 0x72656C6179  # "relay"
POLL: Final = 0.5
"""Seconds between two looks without a notification."""
TURN: Final = 1.0
"""Seconds between two tries to become the relay at work."""
LONGEST_PAUSE: Final = 5.0
PRUNE_EVERY: Final = 600.0
PRUNE_LETTERS: Final = 20_000
PRUNE_KEYS: Final = 100_000
VERIFY_EVERY: Final = 60.0
STOP_WITHIN: Final = 5.0
"""Seconds that the reconciler may take to finish its step; what it leaves undone the next relay does."""
_UNSEEN_PAUSE: Final = 0.1
_log = logger(__name__)


def run(settings: Settings) -> None:
    """Relay until SIGTERM or SIGINT; raises OutageError when the database is away, BrokerError for a fatal producer."""
    readiness = Readiness()
    with (
        _stop_event() as stop,
        operations(settings.ops_port, readiness),
        connect(settings, "pulsestream-relay") as connection,
    ):
        if not _await_turn(connection, stop):
            return
        reconciling = _Reconciling(settings, stop)
        retention = Schedule(settings, stop)
        publisher = OutboxPublisher(settings, connection, stop)
        readiness.add("outbox", publisher.problem)
        readiness.add("topics", reconciling.problem)
        reconciling.start()
        retention.start()
        try:
            _relay(settings, publisher, connection, reconciling, stop)
        finally:
            stop.set()
            reconciling.join(STOP_WITHIN)
            retention.join(STOP_WITHIN)
        reconciling.check()


def _relay(
    settings: Settings,
    publisher: OutboxPublisher,
    connection: Connection,
    reconciling: "_Reconciling",
    stop: threading.Event,
) -> None:
    execute(connection, "listen_outbox")
    _log.info("relaying")
    pause = _Pause(stop)
    pruning = _Every(PRUNE_EVERY)
    while not stop.is_set():
        reconciling.check()
        published = publisher.publish()
        if publisher.problem() is not None:
            pause.longer()
        elif published == 0:
            pause.reset()
            await_notice(connection, POLL)
        if pruning.due():
            publisher.prune()
            prune_dead_letters(connection, settings.dead_letter_days)
            prune_idempotency_keys(connection)


def prune_dead_letters(connection: Connection, days: int) -> int:
    """Delete dead letters older than `days`, the oldest first and a bounded number at once; return how many."""
    return execute(connection, "prune_dead_letters", days=days, limit=PRUNE_LETTERS)


def prune_idempotency_keys(connection: Connection) -> int:
    """Delete keys of ingestion that are free again, a bounded number at once; return how many."""
    return execute(connection, "prune_idempotency_keys", hours=WINDOW_HOURS, limit=PRUNE_KEYS)


class _Reconciling:
    """The reconciler's thread, with a connection of its own; a failure in it ends the process."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._failure: PulseStreamError | None = None
        self._problem: str | None = None
        target = partial(copy_context().run, self._run)  # so that its log says which process it is
        self._thread = threading.Thread(target=target, name="reconciler", daemon=True)
        self.start = self._thread.start
        self.join = self._thread.join

    def check(self) -> None:
        """Raise what ended the thread."""
        if self._failure is not None:
            raise self._failure
        if not self._thread.is_alive() and not self._stop.is_set():
            raise PulseStreamError("the reconciler ended unexpectedly: see the log")

    def problem(self) -> str | None:
        """Return what keeps topics from being made, or None; for readiness."""
        return self._problem

    def _run(self) -> None:
        try:
            with connect(self._settings, "pulsestream-reconciler") as connection:
                execute(connection, "listen_topics")
                self._loop(Reconciler(self._settings, connection), connection)
        except PulseStreamError as error:
            self._failure = error

    def _loop(self, reconciler: Reconciler, connection: Connection) -> None:
        pause = _Pause(self._stop)
        verifying = _Every(VERIFY_EVERY)
        while not self._stop.is_set():
            try:
                unseen = _pass(reconciler, thorough=verifying.due())
            except BrokerError as error:
                self._problem = str(error)
                _log.warning("topics cannot be reconciled", reason=str(error))
                pause.longer()
                continue
            self._problem = None
            pause.reset()
            await_notice(connection, _UNSEEN_PAUSE if unseen else POLL)


def _pass(reconciler: Reconciler, *, thorough: bool) -> bool:
    if thorough:
        reconciler.verify()
    return reconciler.provision(again=thorough)


class _Pause:
    """Waits longer after each failure in a row; ends at once when the process is to stop."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._seconds = POLL

    def longer(self) -> None:
        self._stop.wait(self._seconds)
        self._seconds = min(self._seconds * 2, LONGEST_PAUSE)

    def reset(self) -> None:
        self._seconds = POLL


class _Every:
    """Says when a period has passed; the first time at once."""

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._monotonic = monotonic
        self._next = monotonic()

    def due(self) -> bool:
        if self._monotonic() < self._next:
            return False
        self._next = self._monotonic() + self._seconds
        return True


def _await_turn(connection: Connection, stop: threading.Event) -> bool:
    waiting = False
    while not stop.is_set():
        if fetch_one(connection, "take_relay_lock", lock=LOCK)["taken"]:
            return True
        if not waiting:
            _log.info("another relay is at work: waiting for its turn to end")
            waiting = True
        stop.wait(TURN)
    return False


@contextmanager
def _stop_event() -> Iterator[threading.Event]:
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
