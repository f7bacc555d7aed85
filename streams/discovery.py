"""When to ask the broker for new topics, and which of them cannot be read. Pure.

Asking costs the more the more topics there are (decoding 6,000 takes a third of a second), so the pause grows with
their number and the cost stays under one per cent of a core; a change of subscriptions brings the pause down for a
while, because a topic is about to appear. Either way a rebalance starts at most once a pause.
"""

from collections.abc import Mapping
from typing import Final

SHORTEST: Final = 4.0
"""Seconds between two looks: a new topic is read within about 5 s, at most one rebalance in that time."""
LONGEST: Final = 60.0
EXPECTING: Final = 30.0
"""Seconds after a change of subscriptions in which a new topic is looked for at the shortest pause."""
_PER_TOPIC: Final = 0.01
_SHOWN: Final = 5


def pause(topics: int, since_change: float) -> float:
    """Return the seconds until the next look, given the number of topics and the seconds since the last change."""
    return SHORTEST if since_change < EXPECTING else min(max(topics * _PER_TOPIC, SHORTEST), LONGEST)


def refused(counts: Mapping[str, int], partitions: int) -> dict[str, int]:
    """Return the topics, with their partitions, that do not have as many as the installation's setting says."""
    return {topic: count for topic, count in counts.items() if count != partitions}


def problem(topics: Mapping[str, int], partitions: int) -> str | None:
    """Return a sentence about refused topics, or None."""
    if not topics:
        return None
    shown = [f"{topic} has {count}" for topic, count in sorted(topics.items())[:_SHOWN]]
    return f"{len(topics)} topics refused, they need {partitions} partitions: {', '.join(shown)}"
