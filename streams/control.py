"""Follows the control topics that the streams need: rules, feeds, subscriptions, tenants, in a thread of its own.

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
        self._ends = Ends(settings, f"{name}-ends", (RULES, SUBSCRIPTIONS))
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self._closing = threading.Event()
        #: Up to where changes were told, and up to where somebody waits for them.
        self._reached = _Offsets(0, 0)
        self._wanted = _Offsets(0, 0)
        self._asked = threading.Event()
        self._moved = asyncio.Event()
        self._questions: deque[_Question] = deque()
        self._known_up_to = 0.0
        self._thread = threading.Thread(target=self._follow, name="control", daemon=True)

    async def load(self) -> None:
        """Read the tables to their ends, tell the listeners, and follow them; raises BrokerError."""
        await self._ends.start()
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
        while self._known_up_to < moment:
            question = next((one for one in self._questions if one.asked_at >= moment), None)
            if question is None and len(self._questions) < QUESTIONS:
                question = self._ask()
            await asyncio.shield((question or self._questions[0]).answer)

    def ask(self) -> None:
        """Begin to ask, for a fetch that has just arrived: by the time it is folded the answer may be there."""
        if len(self._questions) < QUESTIONS:
            self._ask()

    async def close(self) -> None:
        """Stop following."""
        self._closing.set()
        for question in self._questions:
            question.answer.cancel()
        await self._ends.close()
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

    def _ask(self) -> "_Question":
        moment = time.monotonic()
        question = _Question(moment, self._loop.create_task(self._answer(moment)))
        self._questions.append(question)
        question.answer.add_done_callback(lambda answer: self._answered(question, answer))
        return question

    async def _answer(self, moment: float) -> None:
        ends = await self._ends.ask()
        wanted = _Offsets(ends[RULES], ends[SUBSCRIPTIONS])
        while not self._reached.covers(wanted):
            self._wanted = self._wanted.joined(wanted)
            self._moved.clear()
            self._asked.set()
            await self._moved.wait()
        self._known_up_to = max(self._known_up_to, moment)

    def _answered(self, question: "_Question", answer: "asyncio.Task[None]") -> None:
        self._questions.remove(question)
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, Exception):
            self._listeners.failed(error)

    # ---- in the thread ----

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


class _Question(NamedTuple):
    """A question for the ends under way: what was appended before `asked_at` is told once it is answered."""

    asked_at: float
    answer: "asyncio.Task[None]"
