"""The sink's process: takes batches from Kafka, stores each in one transaction, and survives what either side does.

While one batch is stored, in the database's thread, the next one is taken and encoded; it is handed over when the one
before is stored for certain. A batch that cannot be stored is dropped from memory, what was taken behind it with it,
and read again from the database's positions, so there is one way back from every failure. While the database is away
the sink stays in its group and rests.
"""

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.collector import calm_collector
from pulsestream.core.errors import OutageError
from pulsestream.core.health import Readiness, operations
from pulsestream.core.kafka import BrokerError
from pulsestream.core.log import logger
from pulsestream.core.metrics import (
    SINK_BATCH_SECONDS,
    SINK_DUPLICATES,
    SINK_FENCED,
    SINK_RETENTION_GAPS,
    SINK_ROWS,
)
from pulsestream.core.settings import Settings
from sinks.database import Database, Stored
from sinks.dead_letters import DeadLetters
from sinks.errors import DatabaseAwayError, FencedError
from sinks.plan import Batch, Gap, Move, Place, plan
from sinks.source import LINGER, Limits, Overtaken, Source
from sinks.storage import Storage
from sinks.thread import Thread
from sinks.timing import observe
from sinks.unknown import UnknownSchemas

IDLE: Final = 0.25
"""Seconds that an idle sink waits for a record: how late it sees a signal at most."""
PATIENCE: Final = 5.0
"""Seconds that a batch may be on its way before the sink rests until it is stored, and before a revocation goes on."""
SILENCE: Final = 300.0
"""Seconds after which a connection whose server says nothing counts as dead."""
ANSWER: Final = 20.0
"""Seconds that the database may take to say where partitions go on; less than a member may go without a poll."""
SWITCH: Final = 0.0005
"""Seconds after which a thread that computes lets another one go on: with Python's own 5 ms, each of the database's
answers waits that long for the thread that decodes."""
FIRST_BACKOFF: Final = 0.25
LONGEST_BACKOFF: Final = 10.0

R = TypeVar("R")

_log = logger(__name__)


def run(settings: Settings) -> None:
    """Store records until SIGTERM or SIGINT; raises BrokerError and DatabaseError for what no retry mends."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sys.setswitchinterval(SWITCH)
    sink = Sink(settings, wall_clock)
    with calm_collector(), operations(settings.ops_port, sink.readiness):
        sink.run(stop.is_set)


@dataclass(slots=True)
class Backoff:
    """How long to rest after failures: equal jitter under a doubling bound ("Exponential Backoff And Jitter", AWS)."""

    failures: int = 0

    def next_delay(self) -> float:
        """Count a failure and return seconds to rest."""
        bound = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2**self.failures)
        self.failures = min(self.failures + 1, 16)
        return random.uniform(bound / 2, bound)  # noqa: S311 - spreads load, no secret

    def limit(self, batch: int) -> int:
        """Return how many records to try: half for each failure, in case a large transaction is what fails."""
        return max(1, batch >> self.failures)

    def ease(self) -> None:
        """Count a success: one failure less."""
        self.failures = max(0, self.failures - 1)


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch on its way to the database since `left`; its first record was taken at `began` (seconds, both).

    With what became of it comes the time at which that was certain, in microseconds.
    """

    batch: Batch
    stored: Future[tuple[Stored, int]]
    began: float
    left: float


class Sink:
    """One sink. `run` is its whole life; `readiness` may be asked from other threads."""

    def __init__(self, settings: Settings, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.readiness = Readiness()
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._database = Database(settings.database_url.get_secret_value())
        self._dead_letters = DeadLetters(settings, clock)
        self._unknown = UnknownSchemas(settings.schema_registry_url.get_secret_value())
        self._store = Thread("store")
        self._flight: Flight | None = None
        self._source = self._joined()
        self._backoff = Backoff()
        self._storage = Storage(monotonic)
        self._resting = self._needs_session = True
        self._try_at = 0.0
        self.readiness.add("storage", lambda: self._storage.problem)
        self.readiness.add("broker", lambda: self._source.problem)
        self.readiness.add("assignment", self._assignment_problem)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Store records until `stopping()`; the batch in hand is finished. Raises BrokerError, DatabaseError."""
        _log.info("sink started", group=self._settings.sink_group)
        try:
            while not stopping():
                self._turn()
            unstored = self._land_anyhow()
            if unstored is not None:
                _log.warning("the last batch was not stored", reason=str(unstored))
        finally:
            self.close()
        _log.info("sink stopped")

    def close(self) -> None:
        """Leave the group and the database; what is being stored is finished first."""
        try:
            self._source.close()
        finally:
            self._store.run(self._database.close)
            self._store.close()

    def _turn(self) -> None:
        if self._resting:
            self._recover()
            return
        try:
            self._go_on()
        except (DatabaseAwayError, BrokerError) as error:
            self._rest(error)
        except FencedError as error:
            self._rejoin(error)

    def _go_on(self) -> None:
        self._cross_gaps()
        self._source.settle()
        timeout = LINGER if self._flight else IDLE
        taken = self._source.take(self._limits(), timeout, self._store.is_idle)
        if taken:
            began = self._monotonic()
            batch = plan(taken, self._source.positions, self._clock())
            if self._unknown.learn(batch.refused):
                batch = plan(taken, self._source.positions, self._clock())
            self._land()
            if not self._source.holds(batch.moves):  # partitions went, or came back, while it was waited for
                self._source.misplace()
                return
            self._source.advance(batch.moves)
            stored = self._store.start(partial(self._commit, batch))
            self._flight = Flight(batch, stored, began, self._monotonic())
        elif self._store.is_idle():
            self._land()
        elif self._flight is not None:
            self._watch(self._flight.left)

    def _commit(self, batch: Batch) -> tuple[Stored, int]:
        return self._database.store(batch, self._dead_letters.send), self._clock()

    def _limits(self) -> Limits:
        return Limits(self._backoff.limit(self._settings.sink_batch), self._settings.sink_batch_kib * 1024)

    def _land(self) -> None:
        """Wait for the batch on its way to be stored, if there is one; raises why it was not."""
        if self._flight is None:
            return
        flight = self._flight
        try:
            stored, committed_at = self._stay(flight.stored, flight.left)
        finally:
            self._flight = None
        self._storage.answered()
        self._source.tell(flight.batch.moves)
        self._backoff.ease()
        SINK_BATCH_SECONDS.observe(self._monotonic() - flight.began)
        observe(flight.batch.rows, committed_at)
        for table, rows in stored.rows.items():
            SINK_ROWS.labels(table).inc(rows)
        for table, rows in stored.duplicates.items():
            SINK_DUPLICATES.labels(table).inc(rows)

    def _stay(self, doing: Future[R], since: float) -> R:
        """Wait for what the database does; for what takes long as a member of the group that takes nothing."""
        if not wait([doing], PATIENCE).done:
            self._source.hold()
            dropped = False
            while not doing.done():
                self._watch(since)
                dropped |= self._source.rest(IDLE)
            if dropped:
                self._source.misplace()
            self._source.let_go()
        return doing.result()

    def _watch(self, since: float) -> None:
        """Say that the database has been silent since a time, and give the connection up when that is too long."""
        silent = self._monotonic() - since
        if silent > PATIENCE:
            self._storage.silent(silent)
        if silent > SILENCE:
            self._database.abandon()

    def _land_anyhow(self) -> OutageError | None:
        """Wait for the batch on its way, and return what kept it from being stored: its records are read again."""
        try:
            self._land()
        except (DatabaseAwayError, BrokerError) as error:
            return error
        except FencedError as error:
            _log.warning("sink was fenced", reason=str(error))
        return None

    def _cross_gaps(self) -> None:
        for found in self._source.overtaken():
            self._land()
            gap, move = crossing(found)
            self._ask(partial(self._database.cross, gap, move))
            SINK_RETENTION_GAPS.inc()
            _log.critical(
                "records were gone before they could be stored",
                topic=gap.place.topic,
                partition=gap.place.partition,
                from_offset=gap.from_offset,
                to_offset=gap.to_offset,
                cause=gap.cause,
            )

    def _rest(self, error: OutageError) -> None:
        error = self._land_anyhow() or error
        delay = self._backoff.next_delay()
        if not self._resting:
            self._resting = True
            self._source.misplace()
        self._needs_session |= isinstance(error, DatabaseAwayError)
        self._storage.failed(error)
        self._try_at = self._monotonic() + delay
        _log.warning("sink rests", seconds=round(delay, 2), reason=str(error))

    def _recover(self) -> None:
        waiting = self._try_at - self._monotonic()
        if waiting > 0:
            self._source.rest(min(waiting, IDLE))
            return
        try:
            if self._needs_session:  # an absent broker costs none
                self._stay(self._store.start(self._database.connect), self._monotonic())
        except DatabaseAwayError as error:
            self._rest(error)
            return
        self._needs_session = False
        self._source.misplace()  # a rebalance while resting placed partitions, whose records resting threw away
        self._resting = False
        self._storage.connected()

    def _rejoin(self, error: FencedError) -> None:
        """Leave the group and join it anew: what it assigns then is truly this sink's."""
        SINK_FENCED.inc()
        _log.warning("sink was fenced", reason=str(error))
        self._storage.answered()
        self._source.close()
        self._source = self._joined()

    def _joined(self) -> Source:
        return Source(self._settings, self._positions, partial(self._store.finish, PATIENCE))

    def _positions(self, places: Collection[Place]) -> Mapping[Place, int]:
        if not self._store.finish(PATIENCE):
            raise DatabaseAwayError("the database does not answer yet")
        return self._ask(partial(self._database.positions, places))

    def _ask(self, task: Callable[[], R]) -> R:
        """Have a short task done, and give the connection up when it takes long: nobody polls meanwhile."""
        doing = self._store.start(task)
        if not wait([doing], ANSWER).done:
            self._database.abandon()
        return doing.result()

    def _assignment_problem(self) -> str | None:
        if not self._source.joined:
            return "the group has not assigned anything yet"
        waiting = len(self._source.unplaced)
        return f"{waiting} partitions wait for their positions" if waiting else None


def crossing(found: Overtaken) -> tuple[Gap, Move]:
    """Return the gap between a position and what the broker still has, and the move over it.

    Below the broker's first record, retention removed what lies between. Beyond its end, the broker lost records that
    it had acknowledged, and what is written there now carries their offsets again.
    """
    place, expected = found.position.place, found.position.next_offset
    if expected < found.low:
        return Gap(place, expected, found.low, "retention"), Move(place, expected, found.low)
    return Gap(place, found.high, expected, "truncated"), Move(place, expected, found.high)
