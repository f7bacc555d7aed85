"""What of a benchmark runs, for those that can run in part."""

from collections.abc import Collection
from dataclasses import dataclass

Figures = dict[str, float | str | None]
"""By name; None could not be measured, and says why not beside it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Parts by name (none: all of them), how many rounds of each (None: as planned), and how long a turn of a race.

    `scale` is of the planned seconds of warm-up and measurement.
    """

    only: Collection[str] = ()
    repetitions: int | None = None
    scale: float = 1.0
