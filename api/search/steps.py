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
class Near:
    """The first and the last of the nearest rows, which are `rows`: their times; `last_id` breaks ties."""

    first: datetime
    last: datetime
    last_id: str
    rows: int

    def within(self, plan: Plan) -> Plan:
        """Return the part of a plan up to the last of the nearest."""
        return plan.having(Condition("where_up_to", plan.keys, {"near_time": self.last, "near_id": self.last_id}))

    def behind(self, plan: Plan) -> Plan:
        """Return the part of a plan behind them. A condition on the time alone leaves out chunks, one on a key none."""
        return plan.having(
            Condition("where_behind", plan.keys, {"near_time": self.last, "near_id": self.last_id}),
            Condition("where_at_or_behind", plan.keys[:1], {"bound_near_time": self.last}),
        )


@dataclass(frozen=True, slots=True)
class Step:
    """About `rows` more rows to look at, up to a time; None: all."""

    rows: int
    until: datetime | None

    @property
    def is_by_index(self) -> bool:
        """Whether the index of contents is asked."""
        return self.until is None or self.rows > SCANNED

    def within(self, plan: Plan) -> Plan:
        """Return the step's part of a plan."""
        if self.until is None:
            return plan
        return plan.having(Condition("where_up_to", plan.keys[:1], {_name(plan): self.until}))

    def behind(self, plan: Plan) -> Plan:
        """Return the part of a plan that lies behind the step."""
        return plan.having(Condition("where_behind", plan.keys[:1], {_name(plan): self.until}))


def next_step(near: Near, last: Step | None, found: int, seen: int, limit: int, *, ascending: bool) -> Step:
    """Return how far to look next, after `found` rows of `limit` were found among about `seen`."""
    rows = max(seen, int(_ENOUGH * (limit - found) * seen / (found or _NOTHING)))
    if last is not None and rows > WALKED:
        return Step(rows, None)
    rows = min(rows, WALKED)
    begin = near.last if last is None or last.until is None else last.until
    span = max(abs(near.last - near.first), _LEAST) * (rows / near.rows)
    try:
        return Step(rows, begin + span if ascending else begin - span)
    except OverflowError:
        return Step(rows, None)


def _name(plan: Plan) -> str:
    """Return a parameter's name that no earlier step has."""
    return f"step_{len(plan.conditions)}_time"
