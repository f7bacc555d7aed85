"""Asks where topics end from a thread with an event loop of its own: work on the caller's loop delays no answer.

Folding keeps the worker's loop for some milliseconds at a time, and each answer would wait for several such turns.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from streams.ends import Ends

Answered = Callable[[float, Mapping[str, int]], None]
"""Called in the thread: when it was asked, and the offsets after the last records at some moment after that."""
Failed = Callable[[Exception], None]
"""Called in the thread: a question can have no answer."""


class Questions:
    """An `Ends` in a thread of its own. `start` first, `close` last."""

    def __init__(self, ends: Callable[[], Ends], answered: Answered, failed: Failed) -> None:
        self._make = ends
        self._answered = answered
        self._failed = failed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="questions", daemon=True)
        self._under_way: set[asyncio.Task[None]] = set()
        self._ends: Ends | None = None

    async def start(self) -> None:
        """Connect; raises BrokerError."""
        self._thread.start()
        await self._in_thread(self._connect())

    def ask(self, moment: float) -> None:
        """Ask; `moment` comes back with the answer. From any thread."""
        self._loop.call_soon_threadsafe(self._begin, moment)

    async def close(self) -> None:
        """Disconnect, and leave questions under way without an answer; also while it starts, or before."""
        if not self._thread.is_alive():
            self._loop.close()
            return
        await self._in_thread(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._loop.close()

    async def _in_thread(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    # ---- in the thread ----

    async def _connect(self) -> None:
        self._ends = self._make()
        await self._ends.start()

    async def _disconnect(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._ends is not None:
            await self._ends.close()

    def _begin(self, moment: float) -> None:
        if self._ends is None:
            self._failed(RuntimeError("a question came before the start"))
            return
        task = self._loop.create_task(self._ask(self._ends, moment))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _ask(self, asked: Ends, moment: float) -> None:
        try:
            ends = await asked.ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits for the answer would wait for ever
            self._failed(error)
        else:
            self._answered(moment, ends)
