"""`pulsestream notifier`: three parts, each with its own session of the database.

A thread reads alerts into the tables, a thread makes the messages of groups that are due, and the event loop delivers
them. Whatever one of them cannot go on with ends the process: started again it goes on from what the database holds.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from importlib.metadata import version
from typing import Final

from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.errors import PulseStreamError, SettingsError
from pulsestream.core.health import Readiness, operations
from pulsestream.core.log import logger
from pulsestream.core.metrics import NOTIFIER_MESSAGES
from pulsestream.core.settings import Settings
from pulsestream.core.targets import parse_networks
from sinks.notifier.chat import Slack, Telegram
from sinks.notifier.delivery import Deliveries
from sinks.notifier.mail import Mail
from sinks.notifier.outbound import Client
from sinks.notifier.reading import Reader
from sinks.notifier.retries import schedule
from sinks.notifier.sending import Send, Webhook
from sinks.notifier.store import Store

FLUSH_EVERY: Final = 0.1
PRUNE_EVERY: Final = 600.0
PRUNE_AT_ONCE: Final = 20_000
STOP_WITHIN: Final = 15.0
_log = logger(__name__)


def run(settings: Settings) -> None:
    """Notify until SIGTERM or SIGINT; raises SettingsError, and OutageError for what only a new start mends."""
    if not settings.database_url.get_secret_value():
        raise SettingsError("PULSESTREAM_DATABASE_URL is empty: set it to postgresql://ps_notifier:…@host/database")
    schedule(settings.notify_retries)
    parse_networks(settings.notify_private, "PULSESTREAM_NOTIFY_PRIVATE")
    asyncio.run(Notifier(settings, wall_clock).run())


class Notifier:
    """One notifier, for one event loop."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.readiness = Readiness()
        self._settings = settings
        self._clock = clock
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Notify until SIGTERM or SIGINT, or until something fails; raises what failed."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        client = Client(
            parse_networks(self._settings.notify_private, "PULSESTREAM_NOTIFY_PRIVATE"), self._settings.notify_timeout
        )
        mail = Mail(self._settings)
        deliveries = Deliveries(self._settings, _senders(client, mail), self._clock)
        with operations(self._settings.ops_port, self.readiness):
            await deliveries.open()
            threads = self._threads(loop, deliveries, stop)
            for thread in threads:
                thread.start()
            _log.info("notifying", group=self._settings.notify_group)
            try:
                await deliveries.run(stop)
            finally:
                self._stop.set()
                await asyncio.to_thread(_join, threads)
                await deliveries.close()
                await client.close()
                mail.close()
        if self._failure is not None:
            raise self._failure
        _log.info("notifier stopped")

    def _threads(
        self, loop: asyncio.AbstractEventLoop, deliveries: Deliveries, stop: asyncio.Event
    ) -> list[threading.Thread]:
        def wake() -> None:
            loop.call_soon_threadsafe(deliveries.wake)

        works: dict[str, Callable[[], None]] = {"reading": self._read, "flushing": partial(self._flush, wake)}

        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                self._failure = error
            finally:
                loop.call_soon_threadsafe(stop.set)

        return [
            threading.Thread(target=partial(copy_context().run, guarded, work), name=name, daemon=True)
            for name, work in works.items()
        ]

    def _read(self) -> None:
        store = self._open("pulsestream-notifier-reading")
        try:
            reader = Reader(self._settings, store, self._clock)
            self.readiness.add("reading", reader.problem)
            reader.run(self._stop)
        finally:
            store.close()

    def _flush(self, wake: Callable[[], None]) -> None:
        store = self._open("pulsestream-notifier-flushing")
        try:
            quiet = PRUNE_EVERY
            while not self._stop.is_set():
                made, more = store.flush_due()
                if made:
                    NOTIFIER_MESSAGES.inc(made)
                    wake()
                if not more:
                    self._stop.wait(FLUSH_EVERY)
                    quiet += FLUSH_EVERY
                if quiet >= PRUNE_EVERY:
                    quiet = 0.0
                    store.prune(self._settings.notify_days, PRUNE_AT_ONCE)
        finally:
            store.close()

    def _open(self, name: str) -> Store:
        return Store(self._settings.database_url.get_secret_value(), name)


def _senders(client: Client, mail: Mail) -> dict[str, Send]:
    return {
        "webhook": Webhook(client, version("pulsestream")),
        "slack": Slack(client),
        "telegram": Telegram(client),
        "email": mail,
    }


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(STOP_WITHIN)
        if thread.is_alive():
            raise PulseStreamError(f"the thread {thread.name} does not stop")
