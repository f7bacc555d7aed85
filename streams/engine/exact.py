"""Sums without rounding: a double as an integer multiple of 2**-180, so that sums do not depend on their order.

A sum over a window is then the difference of two running totals, exactly, and is rounded once, where it is divided.
Every double of at least 2**-128 (3e-39) is such a multiple; a smaller one is cut at 2**-180.
"""

from typing import Final

SHIFT: Final = 180
SCALE: Final = 2.0**SHIFT
"""`int(x * SCALE)` is the exact form of x (a product with a power of two rounds nothing)."""


def exact(x: float) -> int:
    """Return x as a multiple of 2**-180; |x| at most 1e200."""
    return int(x * SCALE)


def rounded(total: int) -> float:
    """Return the double nearest to a total of exact forms."""
    return total / (1 << SHIFT)


def mean(total: int, count: int) -> float:
    """Return the double nearest to a total of exact forms divided by `count`."""
    return total / (count << SHIFT)
