"""One thread that does one thing after the other, so that what lives in it is never used from two.

It is a daemon's: a process that ends by an error does not wait for a database that never answers.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

R = TypeVar("R")


class Thread:
    """Works from construction to `close`. Its methods are for one other thread."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._newest: Future[object] | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def start(self, task: Callable[[], R]) -> Future[R]:
        """Have this done after what was started before."""
        future: Future[R] = Future()
        self._newest = future  # type: ignore[assignment]  # of any result
        self._tasks.put(partial(_settle, future, task))
        return future

    def run(self, task: Callable[[], R]) -> R:
        """Have this done after what was started before, and return what it gives; raises what it raises."""
        return self.start(task).result()

    def is_idle(self) -> bool:
        """Say whether nothing is left to do."""
        return self._newest is None or self._newest.done()

    def finish(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do, however it ended, or for so many seconds; return whether nothing is."""
        return self._newest is None or bool(wait([self._newest], timeout).done)

    def close(self) -> None:
        """Do what was started, and end."""
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # what it holds on to is done with


def _settle(future: Future[R], task: Callable[[], R]) -> None:
    try:
        future.set_result(task())
    except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
        future.set_exception(error)
