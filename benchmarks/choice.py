"""What of a benchmark runs, for those that can run in part."""

from collections.abc import Collection
from dataclasses import dataclass

Figures = dict[str, float | str | None]
"""By name; None could not be measured, and says why not beside it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Parts by name (none: all of them), and how many rounds of each (None: as planned)."""

    only: Collection[str] = ()
    repetitions: int | None = None
