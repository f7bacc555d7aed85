"""When a message that did not arrive is sent again. Pure.

The schedule is Svix's ("Retry Schedule", docs.svix.com): at once, then 5 s, 5 min, 30 min, 2 h, 5 h, 10 h and 10 h
after the attempt before, 28 hours in all. Each wait is up to a tenth shorter or longer, so that messages that failed
together do not come back together.
"""

import random
from typing import Final

from pulsestream.core.errors import SettingsError

DEFAULT: Final = "5, 300, 1800, 7200, 18000, 36000, 36000"
SPREAD: Final = 0.1
LONGEST_WISH: Final = 3600.0
"""Seconds of a Retry-After that are waited for at most."""
MOST: Final = 20

Schedule = tuple[float, ...]
"""Seconds before each further attempt."""


def schedule(text: str) -> Schedule:
    """Return the waits that a setting lists; raises SettingsError."""
    try:
        waits = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"PULSESTREAM_NOTIFY_RETRIES={text!r}: {error}; write seconds such as 5, 300") from error
    if len(waits) > MOST or not all(0 <= wait <= 7 * 86_400 for wait in waits):
        raise SettingsError(f"PULSESTREAM_NOTIFY_RETRIES={text!r}: at most {MOST} waits of 0 to 604800 seconds")
    return waits


def wait(waits: Schedule, step: int, wish: float | None = None) -> float | None:
    """Return the seconds to wait behind the failure of attempt `step` (the first is 0); None: give up.

    `wish` is what the receiver asked for: it is waited for at least, up to a bound.
    """
    if step >= len(waits):
        return None
    spread = random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - spreads load, no secret
    return max(waits[step] * spread, min(wish or 0.0, LONGEST_WISH))
