"""The live view of one process: which tenants have clients, what is read for them, and who is told what.

A tenant's topics are read while it has a client, from the sink's positions on, each record once for all its clients. A
topic that is not there yet is looked for every few seconds; so is a broker that is away, and clients are told of that.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from confluent_kafka import KafkaError, Message

from api.auth import Authenticator, Permission
from api.database import Database
from api.errors import Problem
from api.keys import Peppers
from api.limits.tiers import Tiers
from api.live.alert_log import AlertLane, AlertLog, Read
from api.live.broker import LiveBroker, Part
from api.live.client import Client
from api.live.latest import Lane
from api.live.messages import BrokerState, Close, CloseError, snapshot_message
from api.live.repeats import Verdict
from api.live.rows import alert_key, row_text
from api.live.session import Session
from api.live.snapshot import Placed, Snapshot, Snapshots
from api.live.token import Positions, ResumeSeal, TokenError
from api.live.view import TenantView, is_repeat
from pulsestream.core.kafka import BrokerError
from pulsestream.core.log import logger
from pulsestream.core.metrics import LIVE_CLIENTS, LIVE_CLOSED, LIVE_RECORDS, LIVE_SKIPPED
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from schemas.codec import DATASET_RECORDS, codec
from schemas.errors import DecodeError
from schemas.records import Alert, Record, Stat, Tick
from schemas.validate import check

MAX_CLIENTS: Final = 2_500
"""Of a process; the next one is told to try again, which may lead it to another process."""
FLUSH: Final = 0.025
"""Seconds in which ticks and statistics are gathered to a batch."""
PAUSE: Final = 0.003
"""Seconds between two polls of the broker while anybody is there."""
LOOK: Final = 2.0
"""Seconds between two looks for topics, for the broker, and at the clients' keys."""
TELL: Final = 15.0
"""Seconds after which a client is told a resume token that has moved without an alert for it."""
STUCK: Final = 60.0
"""Seconds that one message may take to be taken from us."""
WARM: Final = 100
"""Records of each partition of alerts before the sink's position that are read, too: for who comes back soon."""
SHOWN: Final = 50
"""Alerts of a snapshot."""
_DATABASE_PAUSE: Final = 5.0
_REPEATS_WITHIN: Final = 0.5
_AGAIN: Final = 1.0
_REFUSED: Final = {401: Close.UNAUTHORIZED, 403: Close.FORBIDDEN}
_CHECKED: Final = 200
"""Topics under way that are looked at each time, whether they are still the same."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Followed:
    """A topic that is being read."""

    view: TenantView
    dataset: str
    topic_id: str
    partitions: int


class Hub:
    """Made in the running event loop. `tiers` bound the clients of a tenant; `on_fatal` is told what ends it all."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        authenticator: Authenticator,
        peppers: Peppers,
        *,
        tiers: Tiers | None,
        on_fatal: Callable[[BrokerError], None],
    ) -> None:
        self._broker = LiveBroker(settings)
        self._snapshots = Snapshots(database, time.monotonic)
        self._authenticator = authenticator
        self._seal = ResumeSeal(peppers)
        self._tiers = tiers
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._views: dict[str, TenantView] = {}
        self._followed: dict[str, Followed] = {}
        self._count = 0
        self._status: BrokerState = "live"
        self._database_from = 0.0
        self._tell_at = self._loop.time() + TELL
        self._readers = asyncio.Semaphore(4)
        works = self._read_on, self._look_after, self._look_for_topics
        self._tasks = [self._loop.create_task(self._run(work)) for work in works]

    async def join(self, client: Client, resume: str | None) -> Session:
        """Let a client see its tenant's data from now on, or from its token; raises CloseError and Problem 503."""
        tenant = client.caller.tenant
        self._check_room(client)
        seen = None if resume is None else self._opened(resume, tenant)
        self._count += 1
        LIVE_CLIENTS.set(self._count)
        view = self._views.setdefault(tenant, TenantView(tenant))
        view.clients.add(client)
        try:
            snapshot = await self._snapshots.get(tenant)
            async with view.lock:
                await self._begin(view, client, snapshot)
            client.session = session = self._session(view, client, snapshot, seen)
        except BaseException:
            self.leave(client)
            raise
        return session

    def leave(self, client: Client) -> None:
        """Forget a client; what nobody else wants is read no more."""
        view = self._views.get(client.caller.tenant)
        if view is None or client not in view.clients:
            return
        if client.reading is not None:
            client.reading.cancel()
        view.clients.remove(client)
        self._count -= 1
        LIVE_CLIENTS.set(self._count)
        unwanted = client.interest.datasets - view.datasets()
        view.drop(set(unwanted))
        for topic, followed in list(self._followed.items()):
            if followed.view is view and topic not in view.topics():
                self._unfollow(topic, followed)
        if not view.clients:
            del self._views[view.tenant]

    def read_missing(self, client: Client) -> None:
        """Read the next part of what a client lacks, unless that is under way; it is woken with it."""
        session, view = client.session, self._views.get(client.caller.tenant)
        if session is None or view is None or client.reading is not None:
            return
        lacks = session.lacking()
        if lacks:
            client.reading = self._loop.create_task(self._read_part(client, session, view, lacks))

    def end_all(self, reason: CloseError) -> None:
        """Ask every connection to end."""
        for view in self._views.values():
            for client in view.clients:
                client.close(reason)

    async def close(self) -> None:
        """Read no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._broker.close()

    # ---- joining ----

    def _check_room(self, client: Client) -> None:
        if self._count >= MAX_CLIENTS:
            raise CloseError(Close.TRY_AGAIN, f"this process has {MAX_CLIENTS} clients: try again")
        tier, view = client.caller.tier, self._views.get(client.caller.tenant)
        if self._tiers is not None and view is not None and len(view.clients) >= self._tiers[tier].live:
            raise CloseError(
                Close.TOO_MANY, f"tier {tier} has {self._tiers[tier].live} live connections at once: close another"
            )

    def _opened(self, resume: str, tenant: str) -> Positions:
        try:
            return self._seal.open(resume, tenant)
        except TokenError as error:
            raise CloseError(Close.BAD_TOKEN, f"{error}: leave it out to begin with a snapshot") from error

    async def _begin(self, view: TenantView, client: Client, snapshot: Snapshot) -> None:
        """Read what this client wants and nobody before it wanted, from the snapshot's positions on."""
        wanted = client.interest.datasets
        if wanted <= view.begun and all(topic in self._followed for topic in view.topics()):
            return
        view.begin(wanted, snapshot.next_offsets())
        view.restore("ticks", snapshot.ticks)
        view.restore("stats", snapshot.stats)
        missing = [topic for topic in view.topics() if topic not in self._followed]
        if self._status == "away":
            return  # `_look_around` follows them once it answers
        try:
            await self._follow_found(missing)
        except BrokerError as error:
            self._tell("away", str(error))

    def _session(self, view: TenantView, client: Client, snapshot: Snapshot, seen: Positions | None) -> Session:
        wanted, interest = client.interest.datasets, client.interest
        lanes = [Lane(view.latest[dataset], interest) for dataset in ("ticks", "stats") if dataset in wanted]
        alerts, first = None, []
        if "alerts" in wanted:
            offsets = snapshot.next_offsets() if seen is None else {seen.topic_id: seen.next_offsets}
            alerts = AlertLane(interest, lambda topic_id, own: self._seal.seal(view.tenant, topic_id, own), offsets)
            if view.log is not None:
                alerts.attach(view.log)
            if seen is None:
                shown = [text for key, text in snapshot.alerts if interest.wants(key)]
                first.append(snapshot_message("alerts", shown[-SHOWN:]))
        session = Session(lanes, alerts, first)
        session.tell_status(self._status)
        return session

    # ---- topics ----

    async def _follow_found(self, topics: Sequence[str]) -> None:
        """Read those of these topics that exist, if they are still wanted; raises BrokerError."""
        found = await self._broker.look(topics)
        for view in self._views.values():
            for topic, dataset in view.topics().items():
                if topic in found and topic not in self._followed:
                    self._follow(view, topic, dataset, found[topic].topic_id, found[topic].begins)

    def _follow(self, view: TenantView, topic: str, dataset: str, topic_id: str, begins: Sequence[int]) -> None:
        known = view.starts.get(topic_id, ())
        back = WARM if dataset == "alerts" else 0
        starts = [max(begin, place - back) for begin, place in zip(begins, _padded(known, len(begins)), strict=True)]
        self._followed[topic] = Followed(view, dataset, topic_id, len(begins))
        self._broker.follow(topic, starts)
        if dataset == "alerts":
            view.log = AlertLog(topic_id, starts)
            for client in view.clients:
                if client.session is not None and client.session.alerts is not None:
                    client.session.alerts.attach(view.log)
                    client.session.remind()
            view.wake_all()

    def _unfollow(self, topic: str, followed: Followed) -> None:
        del self._followed[topic]
        self._broker.leave(topic, followed.partitions)

    async def _look_around(self) -> None:
        """Find topics that have come, or have come anew, and tell whether the broker answers."""
        topics = [topic for view in self._views.values() for topic in view.topics() if topic not in self._followed]
        checked = list(islice(self._followed, _CHECKED))
        if not topics and not checked:
            return
        try:
            found = await self._broker.look([*topics, *checked])
            for topic in checked:
                followed = self._followed.get(topic)
                if followed is not None and (topic not in found or found[topic].topic_id != followed.topic_id):
                    self._unfollow(topic, followed)
            if topics:
                await self._follow_found(topics)
        except BrokerError as error:
            self._tell("away", str(error))
        else:
            self._tell("live", "")
        for topic in checked:  # the next time others come first
            if topic in self._followed:
                self._followed[topic] = self._followed.pop(topic)

    def _tell(self, status: BrokerState, why: str) -> None:
        if status == self._status:
            return
        self._status = status
        _log.warning("the live view's broker", status=status, reason=why)
        for view in self._views.values():
            for client in view.clients:
                if client.session is not None:
                    client.session.tell_status(status)
            view.wake_all()

    # ---- records ----

    async def _read_on(self) -> None:
        flush_at = 0.0
        while True:
            messages = self._broker.poll() if self._views else []
            if messages:
                await self._take(messages)
            now = self._loop.time()
            if now >= flush_at:
                flush_at = now + FLUSH
                for view in self._views.values():
                    view.flush()
            await asyncio.sleep(PAUSE if self._views else FLUSH)

    async def _take(self, messages: Sequence[Message]) -> None:
        alerts: dict[AlertLog, tuple[TenantView, list[Placed]]] = {}
        for message in messages:
            failure = message.error()
            if failure is not None:
                self._note_failure(failure)
                continue
            followed = self._followed.get(message.topic() or "")
            if followed is None:
                continue
            record = _decoded(message, followed.dataset)
            if isinstance(record, Tick | Stat):
                followed.view.fold(record)
            elif isinstance(record, Alert) and followed.view.log is not None:
                alerts.setdefault(followed.view.log, (followed.view, []))[1].append(_placed(record, message))
        for log, (view, placed) in alerts.items():
            repeats = await self._repeats(view, placed)
            if view.log is log:  # else the view was left meanwhile, and begun anew
                LIVE_SKIPPED.labels("repeat").inc(len(placed) - view.append(placed, repeats))

    def _note_failure(self, failure: KafkaError) -> None:
        if failure.fatal():
            raise BrokerError(f"the live view's consumer cannot go on: {failure.str()} ({failure.name()})")
        _log.warning("the live view cannot read", code=failure.name(), reason=failure.str())

    async def _repeats(self, view: TenantView, placed: Sequence[Placed]) -> set[int]:
        """Return what the database says of alerts whose rules are new here; without it, that all of them are new."""
        unknown = [place for place, each in enumerate(placed) if view.seen.judge(each.alert) is Verdict.UNKNOWN]
        if not unknown or self._loop.time() < self._database_from:
            return set()
        asked = [placed[place] for place in unknown]
        try:
            async with asyncio.timeout(_REPEATS_WITHIN):
                return {unknown[place] for place in await self._snapshots.repeats(view.tenant, asked)}
        except (Problem, TimeoutError) as error:
            self._database_from = self._loop.time() + _DATABASE_PAUSE
            _log.warning("the live view shows alerts that it cannot look up", alerts=len(asked), reason=str(error))
            return set()

    async def _read_part(
        self, client: Client, session: Session, view: TenantView, lacks: Mapping[int, tuple[int, int]]
    ) -> None:
        try:
            async with self._readers:
                part = await self._broker.read(_alerts_topic(view), lacks)
            read = await self._read_anew(client, view, part)
            if session.alerts is not None:
                session.alerts.give(read, part.behind)
            if part.gone:
                session.tell_gap(part.gone)
        except (BrokerError, Problem) as error:
            _log.warning("alerts cannot be read again", tenant=view.tenant, reason=str(error))
            await asyncio.sleep(_AGAIN)
        finally:
            client.reading = None
            client.wake.set()

    async def _read_anew(self, client: Client, view: TenantView, part: Part) -> list[Read]:
        """Return the alerts of a part; raises Problem without the database, which knows the repeats."""
        placed = [
            _placed(record, message)
            for message in part.records
            if isinstance(record := _decoded(message, "alerts"), Alert)
        ]
        repeats = await self._snapshots.repeats(view.tenant, placed) if placed else set()
        return [
            Read(each.partition, each.offset, alert_key(each.alert), row_text(each.alert))
            for place, each in enumerate(placed)
            if not is_repeat(client.seen, each.alert, is_stored=place in repeats)
        ]

    # ---- clients ----

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self._check_keys()
            self._end_stuck()
            if self._loop.time() >= self._tell_at:
                self._tell_at = self._loop.time() + TELL
                self._remind()

    async def _look_for_topics(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self._look_around()

    async def _check_keys(self) -> None:
        for key_id, clients in self._by_key().items():
            try:
                caller = await self._authenticator.still(key_id)
                caller.require(Permission.DATA_READ)
            except Problem as problem:
                code = _REFUSED.get(problem.status)
                if code is None:
                    return  # the database is away: the next time
                for client in clients:
                    client.close(CloseError(code, problem.detail))

    def _remind(self) -> None:
        for view in self._views.values():
            for client in view.clients:
                if client.session is not None:
                    client.session.remind()
            view.wake_all()

    def _by_key(self) -> dict[str, list[Client]]:
        found: dict[str, list[Client]] = {}
        for view in self._views.values():
            for client in view.clients:
                found.setdefault(client.caller.key_id, []).append(client)
        return found

    def _end_stuck(self) -> None:
        now = self._loop.time()
        for view in self._views.values():
            for client in view.clients:
                if client.sending_since is not None and now - client.sending_since > STUCK:
                    LIVE_CLOSED.labels("stuck").inc()
                    client.abort()

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is: the process ends, the next one begins from its positions
            _log.exception("the live view failed")
            self._on_fatal(BrokerError(f"the live view cannot go on: {error}"))


def _decoded(message: Message, dataset: str) -> Record | None:
    """Return a sound record, else None: the sink makes a dead letter of the others."""
    LIVE_RECORDS.labels(dataset).inc()
    with suppress(DecodeError):
        record: Record = codec(DATASET_RECORDS[dataset]).decode(message.value())
        if check(record, dataset) is None:
            return record
        LIVE_SKIPPED.labels("unsound").inc()
        return None
    LIVE_SKIPPED.labels("undecodable").inc()
    return None


def _placed(alert: Alert, message: Message) -> Placed:
    return Placed(alert, message.partition() or 0, message.offset() or 0, message.timestamp()[1] * 1000)


def _alerts_topic(view: TenantView) -> str:
    return tenant_topic(view.tenant, "alerts")


def _padded(offsets: Sequence[int], count: int) -> list[int]:
    return [*offsets[:count], *[0] * (count - len(offsets))]
