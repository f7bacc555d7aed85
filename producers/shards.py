"""Membership in the consumer group that divides an exchange's feed shards among its running producers.

The group's topic holds no records: its partitions are the shards, and the broker's group protocol says who has which.
A thread of its own polls the consumer and passes on what the broker says, one thing after another, to the owner's
coroutines on the event loop. A lease, renewed by commits that the broker takes from members only, says whether this
process may speak for its shards: one that was stopped for a while finds out before it writes anything.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from producers.lease import Lease
from pulsestream.core.errors import UsageError
from pulsestream.core.kafka import ADMIN_TIMEOUT, BrokerError, client_config, reason
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEED_SHARDS

SESSION: Final = 6.0
"""Seconds without a heartbeat after which the broker gives a member's shards to others."""
POLL_EVERY: Final = 0.1
GIVE_UP_WITHIN: Final = 10.0
"""Seconds that the group waits for a shard to be handed over."""
LEAVE_WITHIN: Final = 3.0

_log = logger(__name__)


class ShardOwner(Protocol):
    """Who feeds the shards. The calls come one after another, on the event loop."""

    async def take(self, shards: Collection[int]) -> None:
        """Feed these shards as well. One that was in doubt and is not among them belongs to somebody else."""

    async def give_up(self, shards: Collection[int]) -> None:
        """Stop feeding these shards and write that down: another producer has them when this returns."""

    async def doubt(self) -> None:
        """Keep quiet about all shards: the group has dropped this process, and the next `take` says what is left."""


def group_id(exchange: str) -> str:
    """Return the name of an exchange's group of producers."""
    return f"ps-producer.{exchange}"


class ShardGroup:
    """This process as a member of its exchange's group."""

    def __init__(
        self, settings: Settings, owner: ShardOwner, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._leaving = threading.Event()
        self._told: list[Future[None]] = []
        self._lease = Lease(monotonic)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._consumer = Consumer(_config(settings) | {"on_commit": self._committed})
        self._thread = threading.Thread(
            target=self._live, args=(asyncio.get_running_loop(),), name="shards", daemon=True
        )

    def holds_lease(self) -> bool:
        """Say whether it is certain that no other producer has this one's shards."""
        return self._lease.holds()

    async def run(self) -> None:
        """Be a member until `leave`; raises UsageError for a topic that does not fit, BrokerError, or the owner's."""
        await asyncio.to_thread(self._check)
        self._thread.start()
        await asyncio.shield(self._ended)

    async def leave(self) -> None:
        """Leave the group, so that the others need not wait for this process's silence; bounded."""
        self._leaving.set()
        if self._thread.is_alive():
            await asyncio.wait([self._ended], timeout=LEAVE_WITHIN)

    def _check(self) -> None:
        try:
            topic = self._consumer.list_topics(FEED_SHARDS, timeout=ADMIN_TIMEOUT).topics[FEED_SHARDS]
        except KafkaException as error:
            raise BrokerError(f"cannot read the partitions of {FEED_SHARDS}: {reason(error)}") from error
        if topic.error is not None:
            raise UsageError(f"topic {FEED_SHARDS} cannot be read ({topic.error.str()}): run `pulsestream migrate`")
        self._fits(len(topic.partitions))

    def _fits(self, partitions: int) -> None:
        wanted = self._settings.feed_shards
        if partitions != wanted:
            raise UsageError(
                f"PULSESTREAM_FEED_SHARDS={wanted}, but topic {FEED_SHARDS} has {partitions} partitions: set it to "
                f"{partitions} in every producer, or stop them all and change the topic (`pulsestream migrate` adds "
                "partitions)"
            )

    # ---- in the thread ----

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        failure: BaseException | None = None
        try:
            self._poll(loop)
        except Exception as error:  # noqa: BLE001 - it is raised by `run`, on the event loop
            failure = error
        finally:
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(self._end, failure)

    def _end(self, failure: BaseException | None) -> None:
        if self._ended.done():
            return
        if failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(failure)

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        def assigned(_: Consumer, partitions: list[TopicPartition]) -> None:
            self._assigned(loop, _shards(partitions))

        def revoked(_: Consumer, partitions: list[TopicPartition]) -> None:
            self._revoked(loop, _shards(partitions))

        def lost(_: Consumer, partitions: list[TopicPartition]) -> None:
            self._lost(loop, _shards(partitions))

        self._consumer.subscribe([FEED_SHARDS], on_assign=assigned, on_revoke=revoked, on_lost=lost)
        try:
            while not self._leaving.is_set():
                self._take_error(self._consumer.poll(POLL_EVERY))
                self._renew()
                self._take_failures()
        finally:
            self._consumer.close()

    def _assigned(self, loop: asyncio.AbstractEventLoop, shards: list[int]) -> None:
        _log.info("shards assigned", exchange=self._settings.exchange, shards=shards)
        if shards and max(shards) >= self._settings.feed_shards:
            self._fits(max(shards) + 1)
        self._lease.hasten()
        self._tell(loop, self._owner.take(shards))

    def _revoked(self, loop: asyncio.AbstractEventLoop, shards: list[int]) -> None:
        _log.info("shards revoked", exchange=self._settings.exchange, shards=shards)
        told = self._tell(loop, self._owner.give_up(shards))
        try:
            told.result(GIVE_UP_WITHIN)
        except TimeoutError:
            _log.error("shards not handed over in time", exchange=self._settings.exchange, shards=shards)

    def _lost(self, loop: asyncio.AbstractEventLoop, shards: list[int]) -> None:
        self._lease.void()
        _log.warning("shards lost", exchange=self._settings.exchange, shards=shards)
        self._tell(loop, self._owner.doubt())

    def _tell(self, loop: asyncio.AbstractEventLoop, call: Coroutine[Any, Any, None]) -> Future[None]:
        told = asyncio.run_coroutine_threadsafe(call, loop)
        self._told.append(told)
        return told

    def _take_failures(self) -> None:
        """Raise what one of the owner's calls ended with."""
        ended = [told for told in self._told if told.done()]
        self._told = [told for told in self._told if not told.done()]
        for told in ended:
            told.result()

    def _renew(self) -> None:
        """Ask the broker to confirm the membership, by a commit that only a member can make."""
        owned = self._consumer.assignment() if self._lease.is_due() else []
        if not owned:
            return
        self._lease.asked()
        offsets = [TopicPartition(held.topic, held.partition, 0) for held in owned]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._committed(error.args[0], offsets)

    def _committed(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        self._lease.answered(confirmed=error is None)
        if error is not None:
            _log.info("membership not confirmed", exchange=self._settings.exchange, reason=error.str())

    def _take_error(self, message: Message | None) -> None:
        error = message.error() if message is not None else None
        if error is None or error.retriable() or error.code() not in _FINAL:
            return
        raise BrokerError(
            f"user {self._settings.kafka_username!r} cannot be a member of {group_id(self._settings.exchange)} on "
            f"{FEED_SHARDS}: {error.str()}: it needs READ on both"
        )


_FINAL: Final = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED})


def _shards(partitions: list[TopicPartition]) -> list[int]:
    return sorted(partition.partition for partition in partitions)


def _config(settings: Settings) -> dict[str, Any]:
    return {
        **client_config(settings, "ps-producer-shards"),
        "group.id": group_id(settings.exchange),
        "session.timeout.ms": int(SESSION * 1000),
        "heartbeat.interval.ms": 1000,
        "socket.timeout.ms": 10_000,
        "partition.assignment.strategy": "cooperative-sticky",
        "enable.auto.commit": False,
        "auto.offset.reset": "latest",
        "log_level": 2,  # everything less is said by the callbacks
    }
