"""The streams worker, `pulsestream stream`: ticks of all tenants in, rolling statistics and alerts out.

One process owns some of the state partitions; start more to share them. It ends cleanly, with a last checkpoint, on
SIGTERM and SIGINT; any trouble with the broker or the state ends it at once, and a restart goes on from the last
checkpoint.
"""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, cast

import faust

from pulsestream.core.collector import calm_collector
from pulsestream.core.errors import UsageError
from pulsestream.core.health import Readiness, operations
from pulsestream.core.kafka import Admin
from pulsestream.core.log import logger
from pulsestream.core.metrics import STREAM_REFUSED_TOPICS
from pulsestream.core.settings import Settings
from pulsestream.core.topics import shard_app, state_topic
from schemas.control import Change
from schemas.records import Subscription, Tenant
from streams import discovery
from streams.app import build
from streams.control import Control, Listeners
from streams.ending import end_process
from streams.errors import StreamError
from streams.ownership import Ownership
from streams.rebuild import Progress, refuse_beside_workers
from streams.tenancy import Tenancy
from streams.transport import BatchConsumer

TICK: Final = 0.1
"""Seconds between two looks at the event clocks."""
PARKED_LOOK: Final = 1.0
PROGRESS_EVERY: Final = 5.0
"""Seconds between two lines about a rebuild."""
DRAIN_TIMEOUT: Final = 5.0
STOP_TIMEOUT: Final = 10.0
"""Seconds that leaving the group may take."""
SWITCH: Final = 0.0005
"""Seconds that folding may keep the threads waiting which speak to the broker."""
_THREADS: Final = 32
_QUIET: Final = ("faust", "aiokafka", "mode")

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Duty:
    """What a worker is there for: a shard of the tenants, and whether its state is computed again first."""

    shard: int = 0
    rebuild: bool = False


def run(settings: Settings, duty: Duty = Duty()) -> None:
    """Work until SIGTERM or SIGINT; raises UsageError when topics or other workers do not fit."""
    settings = shard_settings(settings, duty.shard)
    for name in _QUIET:  # theirs is written for a terminal; what matters of it is in our own log
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.setswitchinterval(SWITCH)
    readiness = Readiness()
    readiness.add("worker", lambda: "the worker has not begun yet")
    with calm_collector(), operations(settings.ops_port, readiness):
        asyncio.run(_Worker.run(settings, duty, readiness))


def shard_settings(settings: Settings, shard: int) -> Settings:
    """Return the settings of a shard's workers, whose application id is its own; UsageError if there is none."""
    if not 0 <= shard < settings.stream_shards:
        raise UsageError(
            f"there is no shard {shard}: PULSESTREAM_STREAM_SHARDS={settings.stream_shards} makes 0 to "
            f"{settings.stream_shards - 1}"
        )
    return settings.model_copy(update={"stream_app": shard_app(settings.stream_app, shard)})


def check(settings: Settings, duty: Duty) -> None:
    """Raise UsageError unless the topics fit the settings, and nobody stands in the way of a rebuild."""
    admin = Admin(settings, f"{settings.stream_app}-admin")
    check_topics(settings, admin)
    if duty.rebuild:
        refuse_beside_workers(admin, settings.stream_app)


def check_topics(settings: Settings, admin: Admin) -> None:
    """Raise UsageError unless the state topic exists and has the partitions that the settings say."""
    topic = state_topic(settings.stream_app)
    info = admin.describe([topic]).get(topic)
    if info is None:
        raise UsageError(f"topic {topic} does not exist: create the platform's topics first (pulsestream up does)")
    if info.partitions != settings.partitions:
        raise UsageError(
            f"topic {topic} has {info.partitions} partitions, PULSESTREAM_PARTITIONS says {settings.partitions}: "
            "set it to the topic's number"
        )


class _Worker:
    """The parts of one worker and what runs beside them."""

    def __init__(self, settings: Settings, duty: Duty, readiness: Readiness, pool: ThreadPoolExecutor) -> None:
        self._settings = settings
        self._duty = duty
        self._tenancy = Tenancy(duty.shard, settings.stream_shards)
        self._ownership = Ownership(settings, pool, end_process, rebuild=duty.rebuild)
        self._app: faust.App = build(settings, self._ownership, self._tenancy.reads, end_process)
        self._consumer = cast(BatchConsumer, self._app.consumer)
        listeners = Listeners(
            self._ownership.learn, self._ownership.hear, self._on_subscriptions, self._on_tenants, end_process
        )
        self._control = Control(settings, listeners)
        self._ownership.connect(self._consumer, self._control.known_up_to, self._control.ask)
        self._rules_loaded = False
        self._refused: dict[str, int] = {}
        self._topics: int | None = None
        self._subscribed_at = 0.0
        self._beside: set[asyncio.Task[None]] = set()
        readiness.add("worker", lambda: None)
        readiness.add("partitions", self._not_taken_over)
        readiness.add("rules", lambda: None if self._rules_loaded else "the rules are not read yet")
        readiness.add_detail("parked", self._ownership.parking.problem)
        readiness.add_detail("topics", lambda: discovery.problem(self._refused, settings.partitions))

    @classmethod
    async def run(cls, settings: Settings, duty: Duty, readiness: Readiness) -> None:
        """Work until a signal comes."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        with ThreadPoolExecutor(min(settings.partitions + 4, _THREADS), "state") as pool:
            await loop.run_in_executor(pool, check, settings, duty)
            worker = cls(settings, duty, readiness, pool)
            await worker.until(stop)
            await worker.end()

    async def start(self) -> None:
        """Read the control topics, then join the group."""
        self._ownership.outputs.start()
        await self._control.load()
        self._rules_loaded = True
        await self._app.start()
        self._run_beside(self._every(TICK, self._ownership.tick))
        self._run_beside(self._every(PARKED_LOOK, self._ownership.try_parked))
        self._run_beside(self._discover())
        if self._duty.rebuild:
            self._run_beside(self._tell_progress())
        _log.info("worker started", app=self._settings.stream_app)

    async def until(self, stop: asyncio.Event) -> None:
        """Start, and wait for the signal; a crash of Faust ends the process."""
        stopping = asyncio.ensure_future(stop.wait())
        starting = asyncio.ensure_future(self.start())
        await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        await starting
        if await self._app.wait_for_stopped(stopping) and not stop.is_set():
            end_process(StreamError(f"Faust ended: {self._app.crash_reason!r}"))

    async def end(self) -> None:
        """Write the last checkpoint and leave the group."""
        _log.info("worker stops")
        for task in list(self._beside):
            task.cancel()
        await self._ownership.give_up(DRAIN_TIMEOUT)
        try:
            await asyncio.wait_for(self._app.stop(), STOP_TIMEOUT)
        except TimeoutError:  # everything is on the broker; the group finds out by the session timeout
            _log.warning("the group was not left in time", seconds=STOP_TIMEOUT)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._ownership.outputs.close, DRAIN_TIMEOUT)
        await self._control.close()
        _log.info("worker stopped")

    # ---- beside ----

    def _on_subscriptions(self, changes: list[Change[Subscription]]) -> None:
        self._subscribed_at = time.monotonic()
        self._ownership.learn_bases(changes)

    def _on_tenants(self, changes: list[Change[Tenant]]) -> None:
        self._ownership.learn_tenants(changes)
        if self._tenancy.learn(changes):
            self._subscribed_at = time.monotonic()  # topics come or go: looked for at the shortest pause

    async def _tell_progress(self) -> None:
        """Say how far computing state again has come, until everything that the topics held is folded."""
        while not self._ownership.restored:  # noqa: ASYNC110 - readiness looks at it too
            await asyncio.sleep(TICK)
        begun_at, total = time.monotonic(), self._ownership.remaining()
        _log.info("state emptied: computing it again from the topics, outputs leave again", records=total)
        progress, told_at = Progress(begun_at, total), begun_at
        while remaining := self._ownership.remaining():
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if now - told_at > PROGRESS_EVERY:
                told_at = now
                _log.info("computing state again", **progress.told(now, remaining))
        _log.info("state computed again", records=total, seconds=round(time.monotonic() - begun_at, 1))

    def _not_taken_over(self) -> str | None:
        """Return what is missing; before the first tenant's topic there is nothing to take over, and no rebalance."""
        return None if self._ownership.restored or self._topics == 0 else "partitions are not taken over yet"

    async def _discover(self) -> None:
        """Look for new topics, and for those that cannot be read."""
        while True:
            await self._consumer.refresh_metadata()
            counts = self._consumer.partition_counts()
            self._note_refused(discovery.refused(counts, self._settings.partitions))
            self._topics = len(counts)
            await asyncio.sleep(discovery.pause(self._topics, time.monotonic() - self._subscribed_at))

    def _note_refused(self, refused: dict[str, int]) -> None:
        for topic in refused.keys() - self._refused.keys():
            _log.error("topic refused", topic=topic, partitions=refused[topic], needed=self._settings.partitions)
        self._refused = refused
        STREAM_REFUSED_TOPICS.set(len(refused))

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await act()

    def _run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            end_process(error)
