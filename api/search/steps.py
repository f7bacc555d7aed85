"""How far to look for what rows contain, guessed from the rows that were looked at. Pure.

A page's rows lie at some distance behind each other in the order of time. The nearest rows show it, roughly; a guess
that is wrong costs time, and changes no answer.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from api.search.plan import Condition, Plan

NEAR: Final = 200
"""Rows at the beginning of a walk that are looked at one by one for what their data contains."""
SCANNED: Final = 1_000
"""Rows among which the rest of a page may be expected for them to be looked at one by one, too: the index would find
too many others in the same chunk."""
WALKED: Final = 20_000
"""Rows about which the index is asked first, in few chunks, and then about all. So neither what nearly every row
contains nor what hardly one does costs more than it must."""
_ENOUGH: Final = 2.5
"""Times as many rows are looked at as should be enough."""
_NOTHING: Final = 0.5
"""What finding nothing counts as."""
_LEAST: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Span:
    """So many rows of a walk, side by side: the times of the first and of the last one; `last_id` breaks ties."""

    rows: int
    begin: datetime
    end: datetime
    last_id: str

    def within(self, plan: Plan) -> Plan:
        """Return the part of a plan up to the last row."""
        return plan.having(Condition("where_up_to", plan.keys, self._last(plan)))

    def behind(self, plan: Plan) -> Plan:
        """Return the part of a plan behind it. A condition on the time alone leaves out chunks, one on a key none."""
        at = Condition("where_at_or_behind", plan.keys[:1], {f"at_{_name(plan)}_time": self.end})
        return plan.having(Condition("where_behind", plan.keys, self._last(plan)), at)

    def _last(self, plan: Plan) -> dict[str, datetime | str]:
        return {f"{_name(plan)}_time": self.end, f"{_name(plan)}_id": self.last_id}


@dataclass(frozen=True, slots=True)
class Step:
    """About `rows` more rows to look at, up to a time."""

    rows: int
    end: datetime

    @property
    def is_by_index(self) -> bool:
        """Whether the index of contents is asked. Else exactly `rows` rows are looked at, however far they reach."""
        return self.rows > SCANNED

    def within(self, plan: Plan) -> Plan:
        """Return the step's part of a plan."""
        return plan.having(Condition("where_up_to", plan.keys[:1], {f"{_name(plan)}_time": self.end}))

    def behind(self, plan: Plan) -> Plan:
        """Return the part of a plan that lies behind the step."""
        return plan.having(Condition("where_behind", plan.keys[:1], {f"{_name(plan)}_time": self.end}))


def next_step(near: Span, at: datetime, found: int, seen: int, limit: int, *, ascending: bool) -> Step | None:
    """Return how far to look next, from a time on; None: at all the rest, by the index.

    `found` rows of `limit` were found among about `seen`, of which `near` are the first.
    """
    rows = max(seen, int(_ENOUGH * (limit - found) * seen / (found or _NOTHING)))
    if seen > near.rows and rows > WALKED:
        return None
    rows = min(rows, WALKED)
    reach = max(abs(near.end - near.begin), _LEAST) * (rows / near.rows)
    try:
        return Step(rows, at + reach if ascending else at - reach)
    except OverflowError:
        return None


def _name(plan: Plan) -> str:
    """Return the beginning of a parameter's name that no earlier condition has."""
    return f"step_{len(plan.conditions)}"
