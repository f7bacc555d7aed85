"""How often a test repeats what is heavy by nature: a few times in every run, many times in `make faults`."""

from collections.abc import Callable

Rounds = Callable[[int, int], int]
"""`rounds(few, many)` gives `few`, or with the option `--thorough` `many`."""
