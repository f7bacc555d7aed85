"""Messages out: claims those that are due, sends many at once, and writes down what became of each.

A claim is a lease in the database: a process that is killed leaves its messages to the next one, which sends them again
under the same id. Receivers get a message at least once. A channel that is slow holds up itself alone: it has few
messages on their way at once, and so has a tenant.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pulsestream.core.clock import MICROS_PER_SECOND, Clock, format_rfc3339
from pulsestream.core.errors import OutageError
from pulsestream.core.log import logger
from pulsestream.core.metrics import (
    NOTIFIER_ATTEMPT_SECONDS,
    NOTIFIER_ATTEMPTS,
    NOTIFIER_DISABLED,
    NOTIFIER_OLDEST,
    NOTIFIER_WAITING,
)
from pulsestream.core.settings import Settings
from schemas.notification import DISABLED, TEST, Channel, Data, Notification, encode
from sinks.notifier.ids import message_id
from sinks.notifier.queries import query
from sinks.notifier.retries import schedule, wait
from sinks.notifier.sending import Claimed, Outcome, Send
from sinks.notifier.store import AGAIN, lost

AT_ONCE: Final = 512
PER_TENANT: Final = 64
PER_CHANNEL: Final = 4
"""Messages on their way at once: of this process, of a tenant, of a channel."""
POLL: Final = 0.25
"""Seconds between two looks at what is due."""
MARGIN: Final = 5.0
"""Seconds beyond an attempt's bound that its message is leased for."""
COUNT_EVERY: Final = 5.0
_TRIES: Final = 5
_log = logger(__name__)
Connection = AsyncConnection[DictRow]


class Deliveries:
    """The messages that this process delivers. Open, run and close it in one event loop."""

    def __init__(self, settings: Settings, senders: Mapping[str, Send], clock: Clock) -> None:
        self._settings = settings
        self._senders = senders
        self._clock = clock
        self._retries = schedule(settings.notify_retries)
        self._under_way: dict[str, tuple[Claimed, asyncio.Task[None]]] = {}
        self._failure: BaseException | None = None
        self._wake = asyncio.Event()
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            settings.database_url.get_secret_value(),
            connection_class=AsyncConnection[DictRow],
            kwargs={"row_factory": dict_row, "autocommit": True, "connect_timeout": 5,
                    "application_name": "pulsestream-notifier"},
            min_size=1,
            max_size=4,
            timeout=10,
            configure=_configure,
            open=False,
            name="notifier",
        )  # fmt: skip

    async def open(self) -> None:
        """Connect; raises OutageError."""
        try:
            await self._pool.open(wait=True, timeout=10)
        except PoolTimeout as error:
            await self._pool.close()
            raise OutageError(f"the database did not take a connection: {error}") from error

    def wake(self) -> None:
        """Look at once at what is due; for the loop's own thread."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set; raises OutageError, and what a fault of ours raises."""
        counting = asyncio.get_running_loop().time()
        while not stop.is_set():
            self._check()
            self._wake.clear()
            claimed = await self._claim()
            for each in claimed:
                task = asyncio.create_task(self._deliver(each), name=each.id)
                self._under_way[each.id] = each, task
            if (now := asyncio.get_running_loop().time()) >= counting:
                counting = now + COUNT_EVERY
                await self._count()
            await self._rest(stop)
        self._check()

    async def close(self) -> None:
        """Let what is on its way arrive, for as long as an attempt may take, and leave the database."""
        tasks = [task for _, task in self._under_way.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._settings.notify_timeout + 2)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._pool.close()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def _rest(self, stop: asyncio.Event) -> None:
        """Wait until there may be something to do: a message made, room, or time that passed."""
        waiting = [asyncio.create_task(self._wake.wait()), asyncio.create_task(stop.wait())]
        try:
            await asyncio.wait(waiting, timeout=POLL, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _claim(self) -> list[Claimed]:
        room = AT_ONCE - len(self._under_way)
        if room <= 0:
            return []
        channels = Counter(each.channel for each, _ in self._under_way.values())
        tenants = Counter(each.tenant for each, _ in self._under_way.values())
        bound = {
            "channels": [*channels], "channels_held": [*channels.values()],
            "tenants": [*tenants], "tenants_held": [*tenants.values()], "under_way": [*self._under_way],
            "per_channel": PER_CHANNEL, "per_tenant": PER_TENANT, "room": room,
            "lease": self._settings.notify_timeout + MARGIN,
        }  # fmt: skip

        async def work(connection: Connection) -> list[DictRow]:
            return await (await connection.execute(query("claim"), bound)).fetchall()

        return [_claimed(row) for row in await self._transaction(work)]

    async def _deliver(self, claimed: Claimed) -> None:
        try:
            loop = asyncio.get_running_loop()
            if await self._is_held_back(claimed):
                return
            began = loop.time()
            outcome = await self._attempt(claimed)
            seconds = loop.time() - began
            await self._record(claimed, outcome, seconds)
            said = "delivered" if outcome.delivered else "failed"
            NOTIFIER_ATTEMPTS.labels(claimed.kind, said).inc()
            NOTIFIER_ATTEMPT_SECONDS.labels(claimed.kind).observe(seconds)
        except Exception as error:  # noqa: BLE001 - raised again by `run`, and ends the process
            self._failure = error
        finally:
            self._under_way.pop(claimed.id, None)
            self._wake.set()

    async def _attempt(self, claimed: Claimed) -> Outcome:
        """Send a message; one that raises has failed, or it would end this process again and again, for everybody."""
        try:
            return await self._senders[claimed.kind](claimed, self._clock() // MICROS_PER_SECOND)
        except Exception:  # noqa: BLE001 - whatever a target or a text leads a sender into
            _log.exception("message cannot be sent", tenant=claimed.tenant, channel=claimed.channel, message=claimed.id)
            return Outcome(delivered=False, error="this message cannot be sent to this target")

    async def _is_held_back(self, claimed: Claimed) -> bool:
        """Settle a message of which nobody is to be told now: its group looks at its alerts again.

        And one that was made while its channel was being disabled or paused.
        """
        if claimed.enabled and claimed.group is None:
            return False

        async def work(connection: Connection) -> bool:
            record = _Record(connection, claimed)
            if not await record.rows("lock_channel"):
                return True
            if not claimed.enabled and claimed.type != TEST:
                await record.run("settle", state="failed", detail="the channel is not enabled", step=0, wait=0)
                return True
            rows = await record.rows("muted", keys=[item[0] for item in claimed.told])
            if not rows:
                return False
            await record.run("settle", state="muted", detail=rows[0]["reason"], step=claimed.step, wait=0)
            await record.run("retry_group", repeat=claimed.group_interval)
            return True

        return bool(await self._transaction(work))

    async def _record(self, claimed: Claimed, outcome: Outcome, seconds: float) -> None:
        async def work(connection: Connection) -> None:
            record = _Record(connection, claimed)
            if not await record.rows("lock_channel"):
                return
            await record.attempt(outcome, seconds)
            if outcome.delivered:
                await record.delivered()
            else:
                await record.failed(outcome, self._wait(claimed, outcome))
            if claimed.type != TEST:
                await self._judge(record, outcome)

        await self._transaction(work)

    def _wait(self, claimed: Claimed, outcome: Outcome) -> float | None:
        return None if claimed.type == TEST else wait(self._retries, claimed.step, outcome.wish)

    async def _judge(self, record: "_Record", outcome: Outcome) -> None:
        """Note how a channel does, and disable one that has failed for long."""
        if outcome.delivered:
            await record.run("note_success")
            return
        rows = await record.rows("note_failure", days=self._settings.notify_disable_days)
        if outcome.gone:
            await record.disable("the receiver answered 410 Gone: it wants no more messages", self._clock())
        elif rows and rows[0]["is_over"]:
            days = f"{self._settings.notify_disable_days:g} days"
            await record.disable(f"every attempt of {days} has failed, the last one: {outcome.error}", self._clock())

    async def _count(self) -> None:
        async def work(connection: Connection) -> list[DictRow]:
            return await (await connection.execute(query("waiting"))).fetchall()

        row = (await self._transaction(work))[0]
        NOTIFIER_WAITING.set(row["waiting"])
        NOTIFIER_OLDEST.set(row["oldest"])

    async def _transaction(self, work: Callable[[Connection], Any]) -> Any:
        """Run `work` in a transaction, again if PostgreSQL ended it; raises OutageError."""
        for left in reversed(range(_TRIES)):
            try:
                async with self._pool.connection() as connection, connection.transaction():
                    return await work(connection)
            except AGAIN as error:
                if not left:
                    raise lost(error) from error
            except psycopg.Error as error:
                raise lost(error) from error
            except PoolTimeout as error:
                raise OutageError(f"the database does not answer: {error}") from error
        raise AssertionError("every try returned or raised")


class _Record:
    """What is written about one attempt, in one transaction."""

    def __init__(self, connection: Connection, claimed: Claimed) -> None:
        self.claimed = claimed
        self._connection = connection
        self._bound = {
            "tenant": claimed.tenant, "id": claimed.id, "channel": claimed.channel, "group": claimed.group,
        }  # fmt: skip

    async def rows(self, name: str, **more: Any) -> list[DictRow]:
        """Run a statement about the message and return its rows."""
        return await (await self._connection.execute(query(name), self._bound | more)).fetchall()

    async def run(self, name: str, **more: Any) -> int:
        """Run a statement about the message and return how many rows it touched."""
        return (await self._connection.execute(query(name), self._bound | more)).rowcount

    async def attempt(self, outcome: Outcome, seconds: float) -> None:
        """Add to the log of attempts."""
        await self.run(
            "record_attempt",
            number=self.claimed.attempt,
            seconds=seconds,
            outcome="delivered" if outcome.delivered else "failed",
            status=outcome.status,
            error=outcome.error,
            response=outcome.response,
        )

    async def delivered(self) -> None:
        """Settle the message, and let its group know what was told if no newer message tells more."""
        await self.run("settle", state="delivered", detail=None, step=self.claimed.step, wait=0)
        if self.claimed.group is None or not await self.rows("is_newest"):
            return
        keys = [item[0] for item in self.claimed.told]
        await self.rows("lock_alerts", keys=keys)
        told = zip(*self.claimed.told, strict=True)
        bound = dict(zip(("keys", "episodes", "states", "firings"), (list(column) for column in told), strict=True))
        await self.run("tell_alerts", **bound)
        await self.run("forget_told", keys=keys, send_resolved=self.claimed.send_resolved)
        await self.run("told_group", repeat=self.claimed.repeat_interval)
        await self.run("drop_empty_group")

    async def disable(self, reason: str, now: int) -> None:
        """Disable the channel, which the audit tells of, and tell the tenant's other channels."""
        if not (await self.rows("disable_channel", reason=reason))[0]["disabled"]:
            return
        NOTIFIER_DISABLED.labels(self.claimed.kind).inc()
        _log.warning("channel disabled", tenant=self.claimed.tenant, channel=self.claimed.channel, reason=reason)
        for row in await self.rows("other_channels"):
            message = _notice(self.claimed, reason, Channel(row["id"], row["name"]), now)
            await self.run(
                "insert_message",
                id=message_id(now),
                channel=row["id"],
                group=None,
                type=message.type,
                document=encode(message),
                told=Jsonb([]),
            )

    async def failed(self, outcome: Outcome, wait_for: float | None) -> None:
        """Have the message wait for its next attempt (None: there is none)."""
        state, step = ("failed", self.claimed.step) if wait_for is None else ("waiting", self.claimed.step + 1)
        await self.run("settle", state=state, detail=outcome.error, step=step, wait=wait_for or 0)
        if wait_for is None and self.claimed.group is not None:
            await self.run("retry_group", repeat=self.claimed.repeat_interval)
        _log.info(
            "message not delivered",
            tenant=self.claimed.tenant,
            channel=self.claimed.channel,
            message=self.claimed.id,
            attempt=self.claimed.attempt,
            status=outcome.status,
            again=wait_for is not None,
        )


def _notice(claimed: Claimed, reason: str, channel: Channel, now: int) -> Notification:
    text = f"Channel {claimed.channel_name} was disabled: {reason}. Mend it, and enable it again."
    return Notification(DISABLED, format_rfc3339(now), Data(tenant=claimed.tenant, channel=channel, text=text))


def _claimed(row: DictRow) -> Claimed:
    return Claimed(
        row["tenant"],
        row["id"],
        row["channel_id"],
        row["channel_name"],
        row["kind"],
        row["target"],
        row["secret"],
        row["group_key"],
        row["type"],
        row["document"],
        tuple((key, episode, state, firings) for key, episode, state, firings in row["told"]),
        row["attempts"],
        row["step"],
        row["send_resolved"],
        row["repeat_interval"],
        row["group_interval"],
        row["enabled"],
    )


async def _configure(connection: Connection) -> None:
    await connection.execute(query("session"))
