"""Token buckets. Pure: time is a parameter, in whole nanoseconds of a clock that never goes back.

A bucket holds one number, the time at which it is full again (the generic cell rate algorithm of ITU-T I.371), so
nothing has to fill it, and one that is full is worth nothing to remember. In any w nanoseconds at most
`burst + w / cost` tokens pass, exactly, since all is whole numbers.
"""

from dataclasses import dataclass, field
from typing import Final

SECOND: Final = 1_000_000_000
"""Nanoseconds."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many tokens a bucket holds, and how many nanoseconds one takes to come back."""

    burst: int
    cost: int
    window: int = field(init=False)
    """Nanoseconds from empty to full."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", self.burst * self.cost)

    @classmethod
    def of(cls, rate: int, seconds: int, *, share: int = 1, at_least: int = 1) -> "Shape":
        """Return the shape that takes a `share`-th of `rate` tokens a second and, at once, what comes in `seconds`.

        It holds `at_least` so many tokens, or a request that costs as many could never pass.
        """
        return cls(max(rate * seconds // share, at_least), -(-share * SECOND // rate))


class Bucket:
    """One bucket; full at first, and whenever `full_at` has passed."""

    __slots__ = ("full_at",)

    def __init__(self) -> None:
        self.full_at = 0

    def wait(self, shape: Shape, tokens: int, now: int) -> int:
        """Return the nanoseconds until it holds so many tokens, 0 when it does; more than its burst it never holds."""
        return max(0, max(self.full_at, now) + tokens * shape.cost - now - shape.window)

    def take(self, shape: Shape, tokens: int, now: int) -> None:
        """Take tokens that `wait` has found."""
        self.full_at = max(self.full_at, now) + tokens * shape.cost

    def left(self, shape: Shape, now: int) -> int:
        """Return how many whole tokens it holds."""
        return max(0, (shape.window - max(0, self.full_at - now)) // shape.cost)


class Twice:
    """Two buckets that are drawn from together, from both or from neither; on the hot path, so written out."""

    __slots__ = (
        "_cost", "_second_cost", "_second_window", "_window", "first", "first_shape", "second", "second_shape",
    )  # fmt: skip

    def __init__(self, first: Bucket, first_shape: Shape, second: Bucket, second_shape: Shape) -> None:
        self.first = first
        self.first_shape = first_shape
        self.second = second
        self.second_shape = second_shape
        self._cost, self._window = first_shape.cost, first_shape.window
        self._second_cost, self._second_window = second_shape.cost, second_shape.window

    def take(self, tokens: int, now: int) -> bool:
        """Take tokens from both buckets and return True, or from none and return False."""
        first, second = self.first, self.second
        full_at, second_full_at = first.full_at, second.full_at
        full_at = (full_at if full_at > now else now) + tokens * self._cost  # noqa: FURB136 - max() takes as long as all
        second_full_at = (second_full_at if second_full_at > now else now) + tokens * self._second_cost  # noqa: FURB136
        if full_at - now > self._window or second_full_at - now > self._second_window:
            return False
        first.full_at, second.full_at = full_at, second_full_at
        return True

    def settle(self, now: int) -> None:
        """Let buckets that came from other shapes be empty at worst, not in debt."""
        self.first.full_at = min(self.first.full_at, now + self.first_shape.window)
        self.second.full_at = min(self.second.full_at, now + self.second_shape.window)

    def left(self, now: int) -> tuple[int, int]:
        """Return how many whole tokens each holds."""
        full_in, second_full_in = self.first.full_at - now, self.second.full_at - now
        return (
            (self._window - full_in) // self._cost if full_in > 0 else self.first_shape.burst,
            (self._second_window - second_full_in) // self._second_cost
            if second_full_in > 0
            else self.second_shape.burst,
        )

    def waits(self, tokens: int, now: int) -> tuple[int, int]:
        """Return the nanoseconds until each holds so many tokens."""
        return self.first.wait(self.first_shape, tokens, now), self.second.wait(self.second_shape, tokens, now)
