"""What transitions come to: how often and how long a rule fired, and how transitions are told."""

from dataclasses import dataclass, field
from typing import Any

from pulsestream.core.clock import format_rfc3339
from schemas.records import Alert


@dataclass(slots=True)
class Firings:
    """How often and how long (micros) a rule fired, transition by transition as they come for each product.

    Would notify as often as it fired: `for` and `cooldown` are behind a firing transition; acknowledging, snoozing and
    silencing exist only in a running installation.
    """

    fired: int = 0
    lasting: int = 0
    longest: int = 0
    still: int = 0
    """How many fire still at the end of the source."""
    _begun: dict[tuple[str, str], int] = field(default_factory=dict)

    def take(self, transition: Alert) -> None:
        """Count one."""
        key = transition.exchange, transition.product
        if transition.state == "firing":
            self.fired += 1
            self._begun[key] = transition.at
        elif transition.state == "resolved":
            self._add(transition.at - self._begun.pop(key))

    def finish(self, end: int) -> None:
        """End the source at `end`, micros: what fires still counts until then."""
        for since in self._begun.values():
            self.still += 1
            self._add(max(end - since, 0))
        self._begun.clear()

    def _add(self, lasting: int) -> None:
        self.lasting += lasting
        self.longest = max(self.longest, lasting)


def told_order(transition: Alert) -> tuple[int, int, str, str, int]:
    """Return what transitions are sorted by: time, the rule's number, exchange, product."""
    return transition.at, int(transition.rule_id), transition.exchange, transition.product, transition.seq


def told(transition: Alert) -> dict[str, Any]:
    """Return a transition as JSON tells it."""
    return {
        "rule": transition.rule_name,
        "product": transition.product,
        "state": transition.state,
        "at": format_rfc3339(transition.at),
        "value": transition.value,
        "reason": transition.reason,
        "exchange": transition.exchange,
        "threshold": transition.threshold,
        "window": transition.window,
        "severity": transition.severity,
        "labels": transition.labels,
    }
