"""`pulsestream relay`: outbox to control topics, tenants' topics and Kafka users, retention, erasure, audit's ends.

One relay works at a time: the advisory lock belongs to the database session that also marks what was published, so that
whoever loses the session stops. Others wait for their turn. Whatever goes wrong with the database ends the process; a
broker that is away is waited for.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Final

from api.audit.head_publisher import HeadSchedule
from api.erasure.schedule import ErasureSchedule
from api.ingestion.idempotency import WINDOW_HOURS
from api.kafka_credentials.reconciler import CredentialReconciler
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
        reconciling = [
            _Reconciling(settings, stop, "topics", "listen_topics", _topics),
            _Reconciling(settings, stop, "credentials", "listen_kafka_credentials", _credentials),
        ]
        retention, erasure = Schedule(settings, stop), ErasureSchedule(settings, stop)
        heads = HeadSchedule(settings, stop)
        publisher = OutboxPublisher(settings, connection, stop)
        readiness.add("outbox", publisher.problem)
        readiness.add("erasure", erasure.problem)
        for each in reconciling:
            readiness.add(each.name, each.problem)
            each.start()
        retention.start()
        erasure.start()
        heads.start()
        try:
            _relay(settings, publisher, connection, reconciling, stop)
        finally:
            stop.set()
            for each in reconciling:
                each.join(STOP_WITHIN)
            retention.join(STOP_WITHIN)
            erasure.join(STOP_WITHIN)
            heads.join(STOP_WITHIN)
        for each in reconciling:
            each.check()


def _relay(
    settings: Settings,
    publisher: OutboxPublisher,
    connection: Connection,
    reconciling: "Sequence[_Reconciling]",
    stop: threading.Event,
) -> None:
    execute(connection, "listen_outbox")
    _log.info("relaying")
    pause = _Pause(stop)
    pruning = _Every(PRUNE_EVERY)
    while not stop.is_set():
        for each in reconciling:
            each.check()
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
    """A reconciler's thread, with a connection of its own; a failure in it ends the process.

    `build` makes what is called over and over: with True each VERIFY_EVERY seconds, else with False; it returns whether
    something is still to be seen.
    """

    def __init__(self, settings: Settings, stop: threading.Event, name: str, listen: str, build: "_Build") -> None:
        self.name = name
        self._settings = settings
        self._stop = stop
        self._listen = listen
        self._build = build
        self._failure: PulseStreamError | None = None
        self._problem: str | None = None
        target = partial(copy_context().run, self._run)  # so that its log says which process it is
        self._thread = threading.Thread(target=target, name=f"reconciler of {name}", daemon=True)
        self.start = self._thread.start
        self.join = self._thread.join

    def check(self) -> None:
        """Raise what ended the thread."""
        if self._failure is not None:
            raise self._failure
        if not self._thread.is_alive() and not self._stop.is_set():
            raise PulseStreamError(f"the reconciler of {self.name} ended unexpectedly: see the log")

    def problem(self) -> str | None:
        """Return what keeps the broker from being what it should, or None; for readiness."""
        return self._problem

    def _run(self) -> None:
        try:
            with connect(self._settings, f"pulsestream-{self.name}") as connection:
                execute(connection, self._listen)
                self._loop(self._build(self._settings, connection), connection)
        except PulseStreamError as error:
            self._failure = error

    def _loop(self, reconcile: "_Pass", connection: Connection) -> None:
        pause = _Pause(self._stop)
        verifying = _Every(VERIFY_EVERY)
        while not self._stop.is_set():
            try:
                unseen = reconcile(verifying.due())
            except BrokerError as error:
                self._problem = str(error)
                _log.warning(f"{self.name} cannot be reconciled", reason=str(error))
                pause.longer()
                continue
            self._problem = None
            pause.reset()
            await_notice(connection, _UNSEEN_PAUSE if unseen else POLL)


_Pass = Callable[[bool], bool]
_Build = Callable[[Settings, Connection], _Pass]


def _topics(settings: Settings, connection: Connection) -> _Pass:
    reconciler = Reconciler(settings, connection)

    def reconcile(thorough: bool) -> bool:  # noqa: FBT001 - called in one place, by what a clock says
        if thorough:
            reconciler.verify()
        return reconciler.provision(again=thorough)

    return reconcile


def _credentials(settings: Settings, connection: Connection) -> _Pass:
    reconciler = CredentialReconciler(settings, connection)

    def reconcile(thorough: bool) -> bool:  # noqa: FBT001 - likewise
        reconciler.provision()
        if thorough:
            reconciler.verify()
        return False

    return reconcile


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
