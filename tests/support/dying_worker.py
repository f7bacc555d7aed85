"""A worker that ends as by kill -9 at a moment of its own: `python -m tests.support.dying_worker MOMENT COUNT stream`.

Moments, each at the COUNTth checkpoint of the process:
- `outputs`: the checkpoint's outputs are acknowledged, nothing of the checkpoint is written;
- `entries`: its entries are on the broker, their transaction is not committed;
- `commit`: it is committed, and nobody was told: no batch is acknowledged, no decided alert is sent.

It is the product's own command with two methods wrapped, so that the product needs no switch for its tests.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from pulsestream.cli import app
from streams.checkpoint import StatePartition

MOMENTS: Final = ("outputs", "entries", "commit")
_FLUSH_SECONDS: Final = 10


def arm(moment: str, count: int) -> None:
    """Let this process end at the moment of the `count`th checkpoint."""
    numbers = itertools.count(1)
    commit, call = StatePartition.commit, StatePartition._call
    last = [False]

    def dying_commit(self: StatePartition, entries: Mapping[str, bytes | None]) -> None:
        last[0] = bool(entries) and next(numbers) >= count
        if last[0] and moment == "outputs":
            die()
        commit(self, entries)
        if last[0] and moment == "commit":
            die()

    def dying_call(self: StatePartition, verb: str, work: Callable[[float], Any]) -> Any:
        if verb == "commit" and last[0] and moment == "entries":
            left = self._producer.flush(_FLUSH_SECONDS)
            assert left == 0
            die()
        return call(self, verb, work)

    StatePartition.commit = dying_commit  # type: ignore[method-assign] # the point of it
    StatePartition._call = dying_call  # type: ignore[method-assign]


def die() -> None:
    """End now, as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    app(sys.argv[3:])
