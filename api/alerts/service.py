"""Alerts as they stand, acknowledged and snoozed: each mark under the tenant's lock, audited in one transaction.

A mark decides whether people are told, and never what is evaluated.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from api import errors
from api.alerts import repository
from api.alerts.repository import START, CurrentAlert, Machine, Mark, Wanted
from api.audit.entry import Action, Actor, append_change
from api.auth import Caller
from api.cursor import CursorError, CursorSeal, Position
from api.database import Connection, Database
from api.outbox import lock_tenant
from pulsestream.core.clock import Clock, format_rfc3339, to_datetime, to_micros

OPEN: Final = ("pending", "firing")
EVERY: Final = (*OPEN, "resolved", "inactive")
LONGEST: Final = timedelta(days=30)
"""The longest snooze."""
_WALK: Final = "alerts now"
_PARTS: Final = 6
"""Parts of an alert's id: rule, version, exchange, product, state, time; and a number where a state came twice."""


@dataclass(frozen=True, slots=True)
class Page:
    """Alerts as they stand; `next_cursor` is None after the last one."""

    alerts: list[CurrentAlert]
    next_cursor: str | None


class Alerts:
    """What can be done with alerts."""

    def __init__(self, database: Database, seal: CursorSeal, clock: Clock) -> None:
        self._database = database
        self._seal = seal
        self._clock = clock

    async def current(self, tenant: str, wanted: Wanted, limit: int, cursor: str | None) -> Page:
        """Return a page of the newest alerts of each rule and product; raises Problem 400."""
        search = [_WALK, *wanted.states, wanted.rule_id, wanted.exchange, wanted.product]
        behind = START if cursor is None else self._behind(tenant, search, cursor)
        async with self._database.tenant(tenant) as connection:
            rows = await repository.current_alerts(
                connection, tenant, wanted, self._now(), behind=behind, limit=limit + 1
            )
        if len(rows) <= limit:
            return Page(rows, None)
        position = Position(0, _WALK, "\0".join(rows[limit - 1].machine))
        return Page(rows[:limit], self._seal.seal(position, tenant, search))

    async def acknowledge(self, caller: Caller, alert_id: str, comment: str | None) -> CurrentAlert:
        """Take note of what is pending or firing; raises Problem 404, or 409 where it has gone on or is over."""
        async with self._turn(caller, alert_id) as (connection, held):
            if held.alert_id != alert_id or held.state not in OPEN:
                raise _moved_on(alert_id, held)
            # What is pending now fires with the next number.
            through = held.seq + (held.state == "pending")
            if held.mark.covers(held.rule_version, held.seq) and held.mark.acknowledged_comment == comment:
                return held
            mark = replace(
                held.mark,
                acknowledged_version=held.rule_version,
                acknowledged_seq=through,
                acknowledged_at=self._now(),
                acknowledged_by=caller.key_id,
                acknowledged_comment=comment,
            )
            return await self._put(connection, caller, Action.ALERT_ACKNOWLEDGE, held, mark)

    async def unacknowledge(self, caller: Caller, alert_id: str) -> CurrentAlert:
        """Take an acknowledgement back; raises Problem 404."""
        async with self._turn(caller, alert_id) as (connection, held):
            if held.mark.acknowledged_at is None:
                return held
            mark = replace(
                held.mark,
                **dict.fromkeys(("acknowledged_version", "acknowledged_seq", "acknowledged_at", "acknowledged_by")),
                acknowledged_comment=None,
            )
            return await self._put(connection, caller, Action.ALERT_UNACKNOWLEDGE, held, mark)

    async def snooze(self, caller: Caller, alert_id: str, until: datetime, comment: str | None) -> CurrentAlert:
        """Tell of a rule for one product again from `until` on; raises Problem 404, or 422 for a wrong time."""
        now = self._now()
        if not now < until <= now + LONGEST:
            fault = f"lies in the past, or more than {LONGEST.days} days ahead: it is {format_rfc3339(to_micros(now))}"
            raise errors.invalid_body([errors.FieldError("/until", fault)])
        async with self._turn(caller, alert_id) as (connection, held):
            if (held.mark.snoozed_until, held.mark.snoozed_comment) == (until, comment):
                return held
            mark = replace(
                held.mark, snoozed_until=until, snoozed_at=now, snoozed_by=caller.key_id, snoozed_comment=comment
            )
            return await self._put(connection, caller, Action.ALERT_SNOOZE, held, mark)

    async def unsnooze(self, caller: Caller, alert_id: str) -> CurrentAlert:
        """End a snooze; raises Problem 404."""
        async with self._turn(caller, alert_id) as (connection, held):
            if held.mark.snoozed_until is None:
                return held
            mark = replace(held.mark, snoozed_until=None, snoozed_at=None, snoozed_by=None, snoozed_comment=None)
            return await self._put(connection, caller, Action.ALERT_UNSNOOZE, held, mark)

    @asynccontextmanager
    async def _turn(self, caller: Caller, alert_id: str) -> AsyncIterator[tuple[Connection, CurrentAlert]]:
        """Take the tenant's turn, with how the rule and product of an alert stand."""
        machine = machine_of(alert_id)
        if machine is None:
            raise _no_alert(alert_id)
        async with self._database.tenant(caller.tenant) as connection:
            await lock_tenant(connection, caller.tenant)
            yield connection, await self._found(connection, caller.tenant, machine, lambda: _no_alert(alert_id))

    async def _found(
        self, connection: Connection, tenant: str, machine: Machine, missing: Callable[[], errors.Problem]
    ) -> CurrentAlert:
        rule_id, exchange, product = machine
        wanted = Wanted(EVERY, rule_id, exchange, product)
        found = await repository.current_alerts(connection, tenant, wanted, self._now(), behind=START, limit=1)
        if not found:
            raise missing()
        return found[0]

    async def _put(
        self, connection: Connection, caller: Caller, action: Action, held: CurrentAlert, mark: Mark
    ) -> CurrentAlert:
        await repository.put_mark(connection, caller.tenant, held.machine, mark)
        shown = await self._found(connection, caller.tenant, held.machine, lambda: _no_alert(held.alert_id))
        target = f"alert:{':'.join(held.machine)}"
        before, after = _audited(held.mark), _audited(mark)
        await append_change(connection, Actor.of(caller), action, target, before=before, after=after)
        return shown

    def _now(self) -> datetime:
        return to_datetime(self._clock())

    def _behind(self, tenant: str, search: object, cursor: str) -> Machine:
        try:
            rule_id, exchange, product = self._seal.open(cursor, tenant, search).event_id.split("\0")
        except (CursorError, ValueError) as error:
            raise errors.invalid_cursor(
                f"{error}. Use next_cursor of an answer to this very request, unchanged."
            ) from error
        return rule_id, exchange, product


def machine_of(alert_id: str) -> Machine | None:
    """Return the rule, exchange and product that an alert's id names, None where it is no such id."""
    parts = alert_id.split(":")
    return (parts[0], parts[2], parts[3]) if len(parts) in {_PARTS, _PARTS + 1} else None


def _audited(mark: Mark) -> dict[str, Any] | None:
    said = {
        "acknowledged": (mark.acknowledged_version, mark.acknowledged_seq, mark.acknowledged_comment),
        "snoozed": (_text(mark.snoozed_until), mark.snoozed_comment),
    }
    return {name: values for name, values in said.items() if values[0] is not None} or None


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else format_rfc3339(to_micros(moment))


def _no_alert(alert_id: str) -> errors.Problem:
    return errors.not_found(f"There is no alert {alert_id[:120]!r}: GET /api/v1/alerts lists the tenant's.")


def _moved_on(alert_id: str, held: CurrentAlert) -> errors.Problem:
    return errors.conflict(
        "alert-moved-on",
        "Alert has moved on",
        f"Alert {alert_id[:120]!r} is not how things stand: the newest one of this rule and product is {held.state}. "
        "Acknowledge that one, if it is pending or firing; what is over needs nobody.",
        alert_id=held.alert_id,
        state=held.state,
    )
