"""Which alerts stand in their topic a second time. Pure.

A worker that takes up after a crash sends again what it may have sent before, with the same ids and the same `seq`,
which counts up for each rule's version, exchange and product. So a seq that is not greater than one seen is a repeat.
Of a state machine that has not been seen yet only the database can tell: whether the row of that id is of an earlier
record.
"""

from collections import OrderedDict
from enum import Enum
from typing import Final

from schemas.records import Alert

MAX_MACHINES: Final = 10_000
"""Remembered of a tenant; the one that was silent longest is forgotten for one more."""

Machine = tuple[str, int, str, str]


class Verdict(Enum):
    """What a record is."""

    NEW = "new"
    REPEAT = "repeat"
    UNKNOWN = "unknown"


class Seen:
    """The last seq of each state machine, in offset order."""

    def __init__(self, most: int = MAX_MACHINES) -> None:
        self._most = most
        self._last: OrderedDict[Machine, int] = OrderedDict()

    def judge(self, alert: Alert) -> Verdict:
        """Return what is known of an alert."""
        last = self._last.get(_machine(alert))
        if last is None:
            return Verdict.UNKNOWN
        return Verdict.NEW if alert.seq > last else Verdict.REPEAT

    def note(self, alert: Alert) -> None:
        """Remember an alert that is new. A repeat must not be noted: what follows it may be one, too."""
        self._last[_machine(alert)] = alert.seq
        self._last.move_to_end(_machine(alert))
        if len(self._last) > self._most:
            self._last.popitem(last=False)


def _machine(alert: Alert) -> Machine:
    return alert.rule_id, alert.rule_version, alert.exchange, alert.product
