"""Erases a deleted tenant, step by step. Each step can be repeated and is noted when it is done; a crash loses none.

control   subscriptions and rules end on their control topics
topics    the tenant's topics are deleted
access    users, access rules and consumer groups at the broker go
rows      the database's rows go: positions first, which stops a sink that still has some in hand
farewell  the tenant ends on its control topic
outbox    what the relay has published for the tenant goes
check     everything is looked for again; then the tenant is `deleted`, audited and reported
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from api.audit.entry import Action, Actor, change_row
from api.erasure.broker import Belongings, told
from api.erasure.tables import BATCH, Table, tables
from api.outbox import OutboxRow, of_no_rule, of_no_subscription, of_no_tenant
from api.relay_database import Connection, execute, fetch_all, fetch_one
from pulsestream.core.log import logger

STEPS: Final = ("control", "topics", "access", "rows", "farewell", "outbox", "check")
DELETED: Final = "deleted"
RELAY: Final = Actor(None, "relay", "")
_log = logger(__name__)

Moment = Callable[[str], None]
"""Called where a crash is survived, with what has just been done."""


def due(connection: Connection) -> list[str]:
    """Return the tenants whose grace period is over, the longest first."""
    return [row["tenant"] for row in fetch_all(connection, "erasures_due")]


class Erasure:
    """The erasure of one tenant. Used by one thread."""

    def __init__(
        self,
        connection: Connection,
        belongings: Belongings,
        tenant: str,
        *,
        stopping: Callable[[], bool] = lambda: False,
        moment: Moment = lambda _: None,
        batch: int = BATCH,
    ) -> None:
        self._connection = connection
        self._belongings = belongings
        self._tenant = tenant
        self._stopping = stopping
        self._moment = moment
        self._batch = batch
        self._actions: Mapping[str, Callable[[], str | None]] = {
            "control": self._end_control,
            "topics": self._delete_topics,
            "access": self._remove_access,
            "rows": self._remove_rows,
            "farewell": self._say_farewell,
            "outbox": self._empty_outbox,
            "check": self._check,
        }

    def run(self) -> bool:
        """Go on from where it stands; return whether it is finished. Raises BrokerError, ErasureError.

        It is not where something has to be waited for, or the process is to stop: call it again.
        """
        step = self._begin()
        while step is not None and not self._stopping():
            following = self._actions[step]()
            if following is not None:
                _log.info("erasure goes on", tenant=self._tenant, done=step, next=following)
            step = following
        return self._is_finished()

    def _begin(self) -> str | None:
        """Return the step to do next, None where there is none; from now on nothing brings the tenant back."""
        with self._turn():
            execute(self._connection, "begin_erasure", tenant=self._tenant)
            row = fetch_all(self._connection, "erasure_step", tenant=self._tenant)
        return row[0]["step"] if row else None

    def _end_control(self) -> str:
        with self._turn():
            for row in fetch_all(self._connection, "list_subscriptions", tenant=self._tenant):
                self._queue(of_no_subscription(self._tenant, row["exchange"], row["product"]))
            for row in fetch_all(self._connection, "erasure_rules", tenant=self._tenant):
                self._queue(of_no_rule(self._tenant, row["rule_id"]))
            self._moment("before topics")
            self._write("topics")
        return self._noted("topics")

    def _delete_topics(self) -> str | None:
        while names := self._belongings.topics(self._tenant):
            execute(self._connection, "erasure_found", tenant=self._tenant, **_found(topics=names))
            self._moment("topics found")
            self._belongings.delete_topics(names)
            self._moment("topics deleted")
            if self._stopping():
                return None
        return self._note("access")

    def _remove_access(self) -> str:
        while access := self._belongings.access(self._tenant):
            rules = [told(rule) for rule in access.rules]
            found = _found(users=access.users, rules=rules, groups=access.groups)
            execute(self._connection, "erasure_found", tenant=self._tenant, **found)
            self._belongings.remove(access)
            self._moment("access removed")
        return self._note("rows")

    def _remove_rows(self) -> str | None:
        for table in tables(self._connection):
            while self._remove_batch(table):
                self._moment(f"rows of {table.name}")
                if self._stopping():
                    return None
        return self._note("farewell")

    def _remove_batch(self, table: Table) -> int:
        with self._connection.transaction():
            removed = table.remove(self._connection, self._tenant, self._batch)
            if removed:
                execute(self._connection, "erasure_removed", tenant=self._tenant, table=table.name, rows=removed)
        return removed

    def _say_farewell(self) -> str:
        with self._turn():
            self._queue(of_no_tenant(self._tenant))
            self._moment("before outbox")
            self._write("outbox")
        return self._noted("outbox")

    def _empty_outbox(self) -> str | None:
        execute(self._connection, "erasure_outbox", tenant=self._tenant)
        left = fetch_one(self._connection, "erasure_outbox_left", tenant=self._tenant)["rows"]
        return None if left else self._note("check")

    def _check(self) -> str | None:
        """Finish where nothing is left; where something came late, go back to it."""
        if self._belongings.topics(self._tenant):
            return self._note("topics")
        if self._belongings.access(self._tenant):
            return self._note("access")
        if any(table.count(self._connection, self._tenant) for table in tables(self._connection)):
            return self._note("rows")
        self._finish()
        self._moment("finished")
        return None

    def _finish(self) -> None:
        with self._turn():
            report = fetch_one(self._connection, "finish_erasure", tenant=self._tenant)
            execute(self._connection, "mark_deleted", tenant=self._tenant)
            after = {"status": DELETED, **_counts(report)}
            before = {"status": "deleting"}
            row = change_row(RELAY, Action.TENANT_ERASE, f"tenant:{self._tenant}", before, after)
            execute(self._connection, "append_audit", **row)
        _log.info("tenant erased", tenant=self._tenant, **_counts(report))

    def _is_finished(self) -> bool:
        return bool(fetch_one(self._connection, "erasure_is_finished", tenant=self._tenant)["finished"])

    def _note(self, step: str) -> str:
        self._moment(f"before {step}")
        self._write(step)
        return self._noted(step)

    def _write(self, step: str) -> None:
        execute(self._connection, "note_erasure", tenant=self._tenant, step=step)

    def _noted(self, step: str) -> str:
        self._moment(f"noted {step}")
        return step

    def _queue(self, row: OutboxRow) -> None:
        execute(self._connection, "insert_outbox", **row)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Open a transaction bound to the tenant that holds its lock."""
        with self._connection.transaction():
            execute(self._connection, "bind_tenant", tenant=self._tenant, timeout="60s")
            fetch_all(self._connection, "hold_tenant", tenant=self._tenant)
            yield


def _found(**names: Any) -> dict[str, list[str]]:
    return {kind: sorted(names.get(kind, ())) for kind in ("topics", "users", "rules", "groups")}


def _counts(report: Mapping[str, Any]) -> dict[str, Any]:
    named = {kind: len(report[kind]) for kind in ("topics", "users", "rules", "groups")}
    return {**named, "rows": dict(sorted(report["removed"].items()))}


def preview(connection: Connection, belongings: Belongings, tenant: str) -> dict[str, Any]:
    """Return what an erasure would remove now: names at the broker, rows by table."""
    access = belongings.access(tenant)
    counts = {table.name: table.count(connection, tenant) for table in tables(connection)}
    rules = [told(rule) for rule in access.rules]
    found = _found(topics=belongings.topics(tenant), users=access.users, rules=rules, groups=access.groups)
    return {"tenant": tenant, **found, "rows": {name: rows for name, rows in counts.items() if rows}}
