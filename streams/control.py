"""Follows the control topics that the streams need: rules, feeds and subscriptions, in a thread of its own.

`load` returns when all three were read to their ends; then changes reach the event loop as they come, within a
fraction of a second, and the rules at once when asked (`rules_up_to`). A broker error ends the worker.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from pulsestream.core.errors import PulseStreamError
from pulsestream.core.kafka import ADMIN_TIMEOUT, BrokerError, client_config, reason
from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEEDS, RULES, SUBSCRIPTIONS
from schemas.control import Change, ControlTable
from schemas.records import Feed, Rule, Subscription

LOOK_PAUSE: Final = 0.1
"""Seconds between two looks at the topics, when nobody asks for the rules."""
CATCH_UP_WAIT: Final = 0.02
"""Seconds that one read waits for rules that are known to be there."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told, on the event loop."""

    rules: Callable[[list[Change[Rule]]], None]
    feeds: Callable[[Mapping[str, Feed]], None]
    subscriptions: Callable[[], None]
    failed: Callable[[Exception], None]


class Control:
    """The control tables of the streams."""

    def __init__(self, settings: Settings, listeners: Listeners) -> None:
        name = f"{settings.stream_app}-control"
        self._rules = ControlTable(settings, RULES, Rule, name)
        self._feeds = ControlTable(settings, FEEDS, Feed, name)
        self._subscriptions = ControlTable(settings, SUBSCRIPTIONS, Subscription, name)
        # A client of its own: on the reader's connection a question waits behind the fetch that the broker holds back.
        self._asker = Consumer(client_config(settings, name) | {"group.id": f"{name}-unused"})
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self._closing = threading.Event()
        self._asked = threading.Event()
        self._asking: asyncio.Future[None] | None = None
        self._known_up_to = 0.0
        self._thread = threading.Thread(target=self._follow, name="control", daemon=True)

    async def load(self) -> None:
        """Read the tables to their ends, tell the listeners, and follow them; raises BrokerError."""
        rules = await self._loop.run_in_executor(None, self._load)
        self._listeners.rules(rules)
        self._listeners.feeds(dict(self._feeds.records))
        self._thread.start()

    async def rules_up_to(self, moment: float) -> None:
        """Return once every rule change appended before `moment` (monotonic seconds) has been told.

        A record may be folded only with the rules appended before it: else folding it again could give other alerts.
        """
        while self._known_up_to < moment:
            if self._asking is None:
                self._asking = self._loop.create_future()
                self._asked.set()
            await asyncio.shield(self._asking)

    def close(self) -> None:
        """Stop following. Blocks for a moment."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        for client in (self._rules, self._feeds, self._subscriptions, self._asker):
            client.close()

    def _load(self) -> list[Change[Rule]]:
        rules = self._rules.load()
        self._feeds.load()
        self._subscriptions.load()
        return rules

    def _follow(self) -> None:
        try:
            while not self._closing.is_set():
                if self._asked.wait(LOOK_PAUSE):
                    self._asked.clear()
                    self._answer(time.monotonic())
                self._look()
        except PulseStreamError as error:
            self._loop.call_soon_threadsafe(self._listeners.failed, error)

    def _answer(self, moment: float) -> None:
        end = self._end_of_rules()
        while self._rules.position() < end and not self._closing.is_set():
            self._tell_rules(self._rules.refresh(CATCH_UP_WAIT))
        self._loop.call_soon_threadsafe(self._answered, moment)

    def _end_of_rules(self) -> int:
        try:
            _, end = self._asker.get_watermark_offsets(TopicPartition(RULES, 0), timeout=ADMIN_TIMEOUT)
        except KafkaException as error:
            raise BrokerError(f"cannot read the end of topic {RULES}: {reason(error)}") from error
        return int(end)

    def _answered(self, moment: float) -> None:
        self._known_up_to = moment
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.set_result(None)

    def _look(self) -> None:
        self._tell_rules(self._rules.refresh())
        if self._feeds.refresh():
            self._loop.call_soon_threadsafe(self._listeners.feeds, dict(self._feeds.records))
        if self._subscriptions.refresh():
            self._loop.call_soon_threadsafe(self._listeners.subscriptions)

    def _tell_rules(self, changes: list[Change[Rule]]) -> None:
        if changes:
            self._loop.call_soon_threadsafe(self._listeners.rules, changes)
