"""Measuring: cases take turns, each case's figure is its median, and a ratio is the median of each round's ratio.

So what slows the machine for a while slows every case, and no ratio compares two different moments.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Rounds:
    """CPU seconds of each case in each round, for one item."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, case: str) -> float:
        """Return a case's median CPU seconds for one item."""
        return median(self.seconds[case])

    def ratio(self, case: str, base: str) -> float:
        """Return how many times as much time `case` takes as `base`."""
        return median(one / other for one, other in zip(self.seconds[case], self.seconds[base], strict=True))


def interleaved(cases: Mapping[str, Callable[[], object]], items: int, rounds: int) -> Rounds:
    """Run each case once to warm it up, then all of them in turn, `rounds` times; a run handles `items` items.

    Garbage is collected between runs and not during them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for run in cases.values():
        run()
    for _ in range(rounds):
        for name, run in cases.items():
            seconds[name].append(_cpu_seconds(run) / items)
    return Rounds(seconds)


def _cpu_seconds(run: Callable[[], object]) -> float:
    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        run()
        return time.process_time() - began
    finally:
        gc.enable()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value at or below which `share` of all lie (nearest rank); raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
