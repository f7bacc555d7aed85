"""The notifier's reader: alerts from every tenant's topic into the tables, one thread.

It begins with what was appended since there is a notifier: of older records nobody is told. After that positions are
the database's, moved in the transaction that takes the alerts. What is no sound alert is skipped: the sink keeps it
as a dead letter.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND, Clock, to_micros
from pulsestream.core.kafka import Admin, BrokerError
from pulsestream.core.log import logger
from pulsestream.core.metrics import NOTIFIER_ALERTS, NOTIFIER_SKIPPED
from pulsestream.core.settings import Settings
from pulsestream.core.topics import TENANTS, TenantTopic, parse_tenant_topic
from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.records import Alert
from sinks.errors import FencedError
from sinks.notifier.matching import Transition
from sinks.notifier.soundness import is_sound
from sinks.notifier.store import Store
from sinks.plan import Move, Place, moves
from sinks.source import Limits, Overtaken, Reading, Source
from sinks.taken import Taken

TOPICS: Final = (r"^ps\.[^.]+\.alerts\.v1$", TENANTS)
"""The second one, of which nothing is used, is there before any tenant: without a topic the group would not form."""
IDLE: Final = 0.2
_LIMITS: Final = Limits(1000, 8 * 1024 * 1024)
_CLIENT: Final = "ps-notifier"
_log = logger(__name__)


class Reader:
    """One membership in the notifiers' group."""

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._admin = Admin(settings, f"{_CLIENT}-admin")
        store.beginning()  # is now, if there was none before
        self._source = self._joined()

    def run(self, stop: threading.Event) -> None:
        """Take alerts until `stop` is set; raises OutageError."""
        try:
            while not stop.is_set():
                self._turn()
        finally:
            self._source.close()

    def problem(self) -> str | None:
        """Return what keeps it from reading, or None."""
        if self._source.problem is not None:
            return self._source.problem
        if not self._source.joined:
            return "the group has not assigned anything yet"
        waiting = len(self._source.unplaced)
        return f"{waiting} partitions wait for their positions" if waiting else None

    def _turn(self) -> None:
        try:
            for found in self._source.overtaken():
                self._cross(found)
            self._source.settle()
            taken = self._source.take(_LIMITS, IDLE, lambda: True)
            if taken:
                self._take(taken)
        except BrokerError as error:
            _log.warning("the broker cannot be used now", reason=str(error))
            self._source.rest(IDLE)
            self._source.misplace()
        except FencedError as error:
            _log.warning("notifier was fenced", reason=str(error))
            self._source.close()
            self._source = self._joined()

    def _take(self, taken: Sequence[Taken]) -> None:
        found = moves(taken, self._source.positions)
        oldest = self._clock() - self._settings.notify_max_age * MICROS_PER_SECOND
        done = self._store.take([each for records in taken for each in transitions(records)], found, oldest)
        self._source.advance(found)
        self._source.tell(found)
        NOTIFIER_ALERTS.labels("firing").inc(done.fired)
        NOTIFIER_ALERTS.labels("resolved").inc(done.ended)
        NOTIFIER_SKIPPED.labels("too_old").inc(done.too_old)

    def _cross(self, found: Overtaken) -> None:
        """Go on where the broker still has records."""
        place, expected = found.position.place, found.position.next_offset
        target = found.low if expected < found.low else found.high
        self._store.take([], [Move(place, expected, target)], 0)
        NOTIFIER_SKIPPED.labels("gone").inc(max(0, target - expected))
        _log.critical(
            "alerts were gone before anybody could be told",
            topic=place.topic,
            partition=place.partition,
            from_offset=expected,
            to_offset=target,
        )

    def _joined(self) -> Source:
        reading = Reading(self._settings.notify_group, _CLIENT, TOPICS)
        return Source(self._settings, self._locate, lambda: None, reading=reading)

    def _locate(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Return where each place goes on; one that is new begins with the first record since the beginning."""
        held = self._store.positions(places)
        new = [place for place in places if place not in held]
        if new:
            self._store.begin(self._first_offsets(new))
            held = self._store.positions(places)
        return held

    def _first_offsets(self, places: Sequence[Place]) -> dict[Place, int]:
        counts: dict[str, int] = {}
        for place in places:
            counts[place.topic] = max(counts.get(place.topic, 0), place.partition + 1)
        since = self._admin.since(counts, to_micros(self._store.beginning()))
        return {place: since[place.topic][place.partition] for place in places}


def transitions(records: Taken) -> list[Transition]:
    """Return the alerts among a topic's records."""
    topic = _topic(records.topic)
    if topic is None:
        return []
    found = []
    for value in records.values:
        alert = _alert(value)
        if alert is None:
            NOTIFIER_SKIPPED.labels("unsound").inc()
        else:
            found.append(Transition(topic.tenant, alert))
    return found


def _alert(value: bytes | None) -> Alert | None:
    try:
        alert = codec(Alert).decode(value)
    except DecodeError:
        return None
    return alert if is_sound(alert) else None


@lru_cache(maxsize=10_000)
def _topic(name: str) -> TenantTopic | None:
    return parse_tenant_topic(name)
