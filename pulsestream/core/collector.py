"""Python's cyclic garbage collector, kept out of the way of processes that answer within milliseconds.

By default a full collection comes whenever the objects have grown by a quarter, and looks at each of them while all
threads stand still: 50 to 200 ms for the state of a few hundred products. What is no longer used is freed at once by
its reference count anyway; only cycles (exceptions with their frames, mostly) need the collector. So young objects are
looked through in small portions, and the old ones seldom, by a thread (https://docs.python.org/3/library/gc.html).
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG: Final = 5_000
"""Objects made, and not freed, until the youngest are looked through: less than a millisecond."""
EVERY: Final = 3600.0
_PORTIONS: Final = 5
"""Portions of young objects until those that outlived one are looked through again."""
_NEVER: Final = 2**31 - 1


@contextmanager
def calm_collector(young: int = YOUNG, every: float = EVERY) -> Iterator[None]:
    """Within the block, collect cycles of young objects often, and all only each `every` seconds."""
    before, ending = gc.get_threshold(), threading.Event()
    gc.set_threshold(young, _PORTIONS, _NEVER)
    thread = threading.Thread(target=_collect, args=(ending, every), name="collector", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        gc.set_threshold(*before)


def _collect(ending: threading.Event, every: float) -> None:
    while not ending.wait(every):
        gc.collect()
