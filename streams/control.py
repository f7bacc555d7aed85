"""Follows the control topics that the streams need: rules, feeds, subscriptions, tenants, in threads of its own.

`load` returns when all four were read to their ends; then changes reach the event loop as they come, within a
fraction of a second, and rules and subscriptions at once when asked (`known_up_to`). A broker error ends the worker.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from pulsestream.core.errors import PulseStreamError
from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEEDS, RULES, SUBSCRIPTIONS, TENANTS
from schemas.control import C, Change, ControlTable
from schemas.records import Feed, Rule, Subscription, Tenant
from streams.ends import Ends
from streams.questions import Questions

LOOK_PAUSE: Final = 0.1
"""Seconds between two looks at the topics, when nobody asks for the rules."""
QUESTIONS: Final = 2
"""Questions for the ends of topics that may be under way: a fetch need not wait for the answer to an earlier one."""
CATCH_UP_WAIT: Final = 0.02
"""Seconds that one read waits for rules that are known to be there."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told, on the event loop."""

    rules: Callable[[list[Change[Rule]]], None]
    feeds: Callable[[Mapping[str, Feed]], None]
    subscriptions: Callable[[list[Change[Subscription]]], None]
    tenants: Callable[[list[Change[Tenant]]], None]
    failed: Callable[[Exception], None]


class Control:
    """The control tables of the streams."""

    def __init__(self, settings: Settings, listeners: Listeners) -> None:
        name = f"{settings.stream_app}-control"
        self._rules = ControlTable(settings, RULES, Rule, name)
        self._feeds = ControlTable(settings, FEEDS, Feed, name)
        self._subscriptions = ControlTable(settings, SUBSCRIPTIONS, Subscription, name)
        self._tenants = ControlTable(settings, TENANTS, Tenant, name)
        self._questions = Questions(
            lambda: Ends(settings, f"{name}-ends", (RULES, SUBSCRIPTIONS)), self._on_answer, self._on_failure
        )
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self._closing = threading.Event()
        #: Up to where changes were told, and up to where somebody waits for them.
        self._reached = _Offsets(0, 0)
        self._wanted = _Offsets(0, 0)
        self._asked = threading.Event()
        #: Answers that came in the questions' thread, and those that wait for changes to be told, as (asked at, ends).
        self._answers: deque[tuple[float, _Offsets]] = deque()
        self._open: list[tuple[float, _Offsets]] = []
        self._under_way = 0
        self._asked_at = 0.0
        self._known_up_to = 0.0
        self._failure: Exception | None = None
        self._moved = asyncio.Event()
        self._thread = threading.Thread(target=self._follow, name="control", daemon=True)

    async def load(self) -> None:
        """Read the tables to their ends, tell the listeners, and follow them; raises BrokerError."""
        await self._questions.start()
        rules, subscriptions, tenants = await self._loop.run_in_executor(None, self._load)
        self._listeners.tenants(tenants)
        self._listeners.rules(rules)
        self._listeners.subscriptions(subscriptions)
        self._listeners.feeds(dict(self._feeds.records))
        self._thread.start()

    async def known_up_to(self, moment: float) -> None:
        """Return once every change of rules and subscriptions appended before `moment` (monotonic seconds) was told.

        A record may be folded only with those appended before it: else folding it again could give other outputs.
        """
        self._settle()
        while self._known_up_to < moment:
            if self._failure is not None:
                raise self._failure
            if self._asked_at < moment:
                self.ask()
            self._moved.clear()
            await self._moved.wait()
            self._settle()

    def ask(self) -> None:
        """Begin to ask, for a fetch that has just arrived: by the time it is folded the answer may be there."""
        if self._under_way < QUESTIONS:
            self._under_way += 1
            self._asked_at = time.monotonic()
            self._questions.ask(self._asked_at)

    async def close(self) -> None:
        """Stop following."""
        self._closing.set()
        await self._questions.close()
        await self._loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        if self._thread.is_alive():
            self._thread.join()
        for client in (self._rules, self._feeds, self._subscriptions, self._tenants):
            client.close()

    def _load(self) -> tuple[list[Change[Rule]], list[Change[Subscription]], list[Change[Tenant]]]:
        rules = self._rules.load()
        self._feeds.load()
        return rules, self._subscriptions.load(), self._tenants.load()

    # ---- questions ----

    def _on_answer(self, asked_at: float, ends: Mapping[str, int]) -> None:
        self._answers.append((asked_at, _Offsets(ends[RULES], ends[SUBSCRIPTIONS])))
        self._loop.call_soon_threadsafe(self._moved.set)

    def _on_failure(self, error: Exception) -> None:
        self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._moved.set()
        self._listeners.failed(error)

    def _settle(self) -> None:
        """Take answers in: what was appended before they were asked for is known once changes are told that far."""
        while self._answers:
            self._open.append(self._answers.popleft())
            self._under_way -= 1
        told = [asked_at for asked_at, ends in self._open if self._reached.covers(ends)]
        self._known_up_to = max([self._known_up_to, *told])
        self._open = [(asked_at, ends) for asked_at, ends in self._open if not self._reached.covers(ends)]
        for _, ends in self._open:
            self._wanted = self._wanted.joined(ends)
            self._asked.set()

    # ---- in the thread of the tables ----

    def _follow(self) -> None:
        try:
            while not self._closing.is_set():
                if self._asked.wait(LOOK_PAUSE):
                    self._asked.clear()
                    self._catch_up()
                self._look()
        except PulseStreamError as error:
            self._loop.call_soon_threadsafe(self._listeners.failed, error)

    def _catch_up(self) -> None:
        while self._rules.position() < self._wanted.rules and not self._closing.is_set():
            self._tell(self._listeners.rules, self._rules.refresh(CATCH_UP_WAIT))
        while self._subscriptions.position() < self._wanted.subscriptions and not self._closing.is_set():
            self._tell(self._listeners.subscriptions, self._subscriptions.refresh(CATCH_UP_WAIT))

    def _look(self) -> None:
        self._tell(self._listeners.rules, self._rules.refresh())
        self._tell(self._listeners.subscriptions, self._subscriptions.refresh())
        self._tell(self._listeners.tenants, self._tenants.refresh())
        reached = _Offsets(self._rules.position(), self._subscriptions.position())
        if reached != self._reached:
            self._loop.call_soon_threadsafe(self._reach, reached)
        if self._feeds.refresh():
            self._loop.call_soon_threadsafe(self._listeners.feeds, dict(self._feeds.records))

    def _tell(self, listener: Callable[[list[Change[C]]], None], changes: list[Change[C]]) -> None:
        if changes:
            self._loop.call_soon_threadsafe(listener, changes)

    def _reach(self, reached: "_Offsets") -> None:
        """Note, on the event loop and after what came before it was told, how far the topics are told."""
        self._reached = reached
        self._moved.set()


class _Offsets(NamedTuple):
    """Places in the topics of rules and of subscriptions."""

    rules: int
    subscriptions: int

    def covers(self, other: "_Offsets") -> bool:
        return self.rules >= other.rules and self.subscriptions >= other.subscriptions

    def joined(self, other: "_Offsets") -> "_Offsets":
        return _Offsets(max(self.rules, other.rules), max(self.subscriptions, other.subscriptions))
