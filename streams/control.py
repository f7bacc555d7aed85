"""Follows the control topics that the streams need: rules, feeds and subscriptions, in a thread of its own.

`load` returns when all three were read to their ends; then changes reach the event loop as they come, within a
fraction of a second, and rules and subscriptions at once when asked (`known_up_to`). A broker error ends the worker.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from pulsestream.core.errors import PulseStreamError
from pulsestream.core.kafka import ADMIN_TIMEOUT, BrokerError, client_config, reason
from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEEDS, RULES, SUBSCRIPTIONS
from schemas.control import C, Change, ControlTable
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
    subscriptions: Callable[[list[Change[Subscription]]], None]
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
        rules, subscriptions = await self._loop.run_in_executor(None, self._load)
        self._listeners.rules(rules)
        self._listeners.subscriptions(subscriptions)
        self._listeners.feeds(dict(self._feeds.records))
        self._thread.start()

    async def known_up_to(self, moment: float) -> None:
        """Return once every change of rules and subscriptions appended before `moment` (monotonic seconds) was told.

        A record may be folded only with those appended before it: else folding it again could give other outputs.
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

    def _load(self) -> tuple[list[Change[Rule]], list[Change[Subscription]]]:
        rules = self._rules.load()
        self._feeds.load()
        return rules, self._subscriptions.load()

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
        rules, subscriptions = self._ends()
        while self._rules.position() < rules and not self._closing.is_set():
            self._tell(self._listeners.rules, self._rules.refresh(CATCH_UP_WAIT))
        while self._subscriptions.position() < subscriptions and not self._closing.is_set():
            self._tell(self._listeners.subscriptions, self._subscriptions.refresh(CATCH_UP_WAIT))
        self._loop.call_soon_threadsafe(self._answered, moment)

    def _ends(self) -> tuple[int, int]:
        """Return where the topics of rules and of subscriptions end; one question to the broker that leads both."""
        asked = [TopicPartition(topic, 0, OFFSET_END) for topic in (RULES, SUBSCRIPTIONS)]
        try:
            rules, subscriptions = self._asker.offsets_for_times(asked, timeout=ADMIN_TIMEOUT)
        except KafkaException as error:
            raise BrokerError(f"cannot read the ends of {RULES} and {SUBSCRIPTIONS}: {reason(error)}") from error
        for answer in (rules, subscriptions):
            if answer.error is not None:
                raise BrokerError(f"cannot read the end of topic {answer.topic}: {answer.error.str()}")
        return rules.offset, subscriptions.offset

    def _answered(self, moment: float) -> None:
        self._known_up_to = moment
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.set_result(None)

    def _look(self) -> None:
        self._tell(self._listeners.rules, self._rules.refresh())
        self._tell(self._listeners.subscriptions, self._subscriptions.refresh())
        if self._feeds.refresh():
            self._loop.call_soon_threadsafe(self._listeners.feeds, dict(self._feeds.records))

    def _tell(self, listener: Callable[[list[Change[C]]], None], changes: list[Change[C]]) -> None:
        if changes:
            self._loop.call_soon_threadsafe(listener, changes)
