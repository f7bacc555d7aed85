"""A bounded cache of answers from the database: fresh for seconds, asked once at a time, and kept through an outage.

An answer older than `fresh` seconds is asked for again; when the source then fails with a Problem of 5xx, the old
answer holds until it is `stale` seconds old, so that a database restart does not stop ingestion. An answer is as old as
the question: what changes while the source is asked is seen within `fresh` seconds of the change.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from api.errors import Problem

V = TypeVar("V")
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class _Answer(Generic[V]):
    value: V
    at: float


class AnswerCache(Generic[V]):
    """Answers by key. `load` is called for a missing or old one; `monotonic` gives seconds."""

    def __init__(
        self,
        load: Callable[[str], Awaitable[V]],
        monotonic: Callable[[], float],
        *,
        fresh: float,
        stale: float = 0.0,
        size: int = 10_000,
    ) -> None:
        self._load = load
        self._monotonic = monotonic
        self._fresh = fresh
        self._stale = stale
        self._size = size
        self._answers: OrderedDict[str, _Answer[V]] = OrderedDict()
        self._loading: dict[str, asyncio.Task[V]] = {}

    def fresh(self, key: str) -> tuple[V] | None:
        """Return the answer for `key` in a tuple where there is a fresh one; asks nobody."""
        held = self._answers.get(key)
        if held is None or self._monotonic() - held.at > self._fresh:
            return None
        self._answers.move_to_end(key)
        return (held.value,)

    def holds(self, key: str, value: V) -> bool:
        """Return whether the fresh answer for `key` is this very object; asks nobody, and counts as no use of it."""
        held = self._answers.get(key)
        return held is not None and held.value is value and self._monotonic() - held.at <= self._fresh

    async def get(self, key: str) -> V:
        """Return the answer for `key`; raises what `load` raises when no answer can stand in for it."""
        fresh = self.fresh(key)
        if fresh is not None:
            return fresh[0]
        held = self._answers.get(key)
        try:
            return await self._loaded(key)
        except Problem as problem:
            if held is None or problem.status < _SERVER_ERROR or self._monotonic() - held.at > self._stale:
                raise
            return held.value

    def forget(self, key: str) -> None:
        """Ask again next time; an answer that is on its way goes to those who wait for it, and is not held."""
        self._answers.pop(key, None)
        self._loading.pop(key, None)

    async def _loaded(self, key: str) -> V:
        task = self._loading.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(key))
            self._loading[key] = task
            task.add_done_callback(lambda done: self._forget_task(key, done))
        return await asyncio.shield(task)

    async def _ask(self, key: str) -> V:
        asked_at = self._monotonic()
        value = await self._load(key)
        if self._loading.get(key) is asyncio.current_task():
            self._answers[key] = _Answer(value, asked_at)
            self._answers.move_to_end(key)
            while len(self._answers) > self._size:
                self._answers.popitem(last=False)
        return value

    def _forget_task(self, key: str, task: asyncio.Task[V]) -> None:
        if self._loading.get(key) is task:
            del self._loading[key]


class RecentKeys:
    """What was added within the last `fresh` seconds; of that the newest `size`."""

    def __init__(self, monotonic: Callable[[], float], *, fresh: float, size: int) -> None:
        self._monotonic = monotonic
        self._fresh = fresh
        self._size = size
        self._added: OrderedDict[str, float] = OrderedDict()

    def add(self, key: str) -> None:
        """Remember a key as of now."""
        self._added[key] = self._monotonic()
        self._added.move_to_end(key)
        while len(self._added) > self._size:
            self._added.popitem(last=False)

    def __contains__(self, key: str) -> bool:
        at = self._added.get(key)
        return at is not None and self._monotonic() - at <= self._fresh
