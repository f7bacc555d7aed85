"""The notifier's way to the database where it is in no hurry: transitions in, messages out; one session a thread.

A batch of transitions and the positions behind it are one transaction, and so are a message and what its group knows
of it: kill -9 between any two statements loses nothing and makes nothing twice. Positions move only from the value
that is expected, which stops a notifier that lost its partitions. Transactions that PostgreSQL ends because two wait
for each other are tried again; anything else that is wrong with the database ends the process.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec
import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from pulsestream.core.clock import to_micros
from pulsestream.core.errors import OutageError
from schemas.migrate import missing
from schemas.notification import Channel, ShownAlert, encode
from sinks.errors import FencedError
from sinks.notifier.flushing import Flush, Group, Held, flush
from sinks.notifier.ids import message_id
from sinks.notifier.matching import (
    FIRING,
    Head,
    Matchers,
    Route,
    Transition,
    ended,
    fits,
    fresh,
    group_key,
    group_labels,
    labels_of,
    shown,
)
from sinks.notifier.queries import query
from sinks.plan import Move, Place

AT_ONCE: Final = 50
"""Groups that one transaction looks at."""
BUSY: Final = timedelta(seconds=0.5)
"""Until a group is looked at again whose message is under way."""
ASLEEP: Final = timedelta(seconds=60)
"""Likewise of a channel that is disabled."""
_TRIES: Final = 5
AGAIN: Final = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.ForeignKeyViolation,
)
"""What others' changes cause: two that waited for each other, or a channel that was deleted in between."""
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch: episodes that begun for channels, those that ended, and transitions that were too old."""

    fired: int = 0
    ended: int = 0
    too_old: int = 0


@dataclass(frozen=True, slots=True, order=True)
class _Touch:
    tenant: str
    channel: str
    group: str


class Store:
    """One session as the notifier's role; raises OutageError from every method. For one thread."""

    def __init__(self, url: str, name: str) -> None:
        try:
            with psycopg.connect(url, connect_timeout=5, application_name=name) as plain:
                lacking = missing(plain)
            self._connection: psycopg.Connection[DictRow] = psycopg.connect(
                url, autocommit=True, row_factory=dict_row, connect_timeout=5, application_name=name
            )
            self._connection.execute(query("session"))
        except psycopg.Error as error:
            raise lost(error) from error
        if lacking:
            raise OutageError(f"the database lacks {', '.join(lacking)}: run `pulsestream migrate`")

    def close(self) -> None:
        """End the session."""
        with suppress(psycopg.Error):
            self._connection.close()

    def beginning(self) -> datetime:
        """Return since when there is a notifier."""

        def work() -> datetime:
            self._run("begin")
            moment: datetime = self._rows("beginning")[0]["at"]
            return moment

        return self._transaction(work)

    def positions(self, places: Collection[Place]) -> dict[Place, int]:
        """Return the next offset of each place that has one."""
        named = {(place.topic_id, place.partition): place for place in places}
        rows = self._transaction(lambda: self._rows("read_positions", **_places([*places])))
        return {named[row["topic_id"], row["partition"]]: row["next_offset"] for row in rows}

    def begin(self, offsets: Mapping[Place, int]) -> None:
        """Store first positions; one that is there stays."""
        bound = _places([*offsets]) | {"topics": [place.topic for place in offsets]}
        self._transaction(lambda: self._run("put_positions", **bound, next_offsets=[*offsets.values()]))

    def take(self, transitions: Sequence[Transition], moves: Sequence[Move], oldest: int) -> Taken:
        """Take transitions in their order and move the positions, or do neither; raises FencedError.

        Of alerts that began before `oldest` (microseconds) no channel is told.
        """
        return self._transaction(lambda: self._take(transitions, moves, oldest))

    def flush_due(self) -> tuple[int, bool]:
        """Make the messages of groups that are due; returns how many, and whether more groups may be."""
        return self._transaction(self._flush_due)

    def prune(self, days: int, limit: int) -> None:
        """Forget messages that were settled `days` ago, and state machines that were silent as long."""
        for name in ("prune_messages", "prune_heads"):
            self._transaction(lambda name=name: self._run(name, days=days, limit=limit))  # type: ignore[misc] # bound

    def _take(self, transitions: Sequence[Transition], moves: Sequence[Move], oldest: int) -> Taken:
        self._move(moves)
        routes = self._routes({transition.tenant for transition in transitions})
        known = [transition for transition in transitions if transition.tenant in routes]
        new, heads = fresh(known, self._heads(known))
        if heads:
            self._run("move_heads", **_heads(heads), seqs=[*heads.values()])
        return self._apply(new, routes, oldest)

    def _move(self, moves: Sequence[Move]) -> None:
        bound: dict[str, Any] = _places([move.place for move in moves])
        bound |= {"expected": [move.expected for move in moves], "next_offsets": [move.next_offset for move in moves]}
        moved = self._run("move_positions", **bound)
        if moved != len(moves):
            raise FencedError(f"{len(moves) - moved} of {len(moves)} positions were moved by another notifier")

    def _routes(self, tenants: set[str]) -> dict[str, list[Route]]:
        found: dict[str, list[Route]] = {}
        for row in self._rows("lock_routes", tenants=sorted(tenants)):
            matchers = msgspec.convert(row.pop("matchers"), Matchers)
            route = Route(**row | {"matchers": matchers, "group_by": tuple(row["group_by"])})
            found.setdefault(route.tenant, []).append(route)
        return found

    def _heads(self, transitions: Sequence[Transition]) -> dict[Head, int]:
        wanted = dict.fromkeys(transition.head for transition in transitions)
        if not wanted:
            return {}
        rows = self._rows("read_heads", **_heads(wanted))
        return {
            (row["tenant"], row["rule_id"], row["rule_version"], row["exchange"], row["product"]): row["seq"]
            for row in rows
        }

    def _apply(self, new: Sequence[Transition], routes: Mapping[str, list[Route]], oldest: int) -> Taken:
        """Write the transitions, those of one alert in their order, and then touch their groups."""
        touched: dict[_Touch, tuple[dict[str, str], Route]] = {}
        fired = over = too_old = 0
        for transition in sorted(new, key=lambda each: (each.tenant, each.key)):
            if transition.alert.state != FIRING:
                over += self._end(transition, routes[transition.tenant], touched)
            elif transition.alert.at < oldest:
                too_old += 1
            else:
                fired += self._fire(transition, routes[transition.tenant], touched)
        for touch in sorted(touched):
            labels, route = touched[touch]
            self._run(
                "touch_group",
                tenant=touch.tenant,
                channel=touch.channel,
                group=touch.group,
                labels=Jsonb(labels),
                wait=route.group_wait,
                interval=route.group_interval,
            )
        return Taken(fired, over, too_old)

    def _fire(
        self, transition: Transition, routes: Sequence[Route], touched: dict[_Touch, tuple[dict[str, str], Route]]
    ) -> int:
        alert = transition.alert
        wanting = [route for route in routes if route.enabled and fits(route.matchers, alert)]
        for route in wanting:
            labels = group_labels(route.group_by, alert)
            touch = _Touch(transition.tenant, route.id, group_key(labels))
            self._run(
                "fire",
                tenant=transition.tenant,
                channel=route.id,
                key=transition.key,
                group=touch.group,
                episode=alert.alert_id,
                seq=alert.seq,
                shown=Jsonb(msgspec.to_builtins(shown(alert))),
            )
            touched[touch] = labels, route
        return len(wanting)

    def _end(
        self, transition: Transition, routes: Sequence[Route], touched: dict[_Touch, tuple[dict[str, str], Route]]
    ) -> int:
        by_id = {route.id: route for route in routes}
        rows = self._rows(
            "end",
            tenant=transition.tenant,
            channels=[*by_id],
            key=transition.key,
            seq=transition.alert.seq,
            ended=Jsonb(ended(transition.alert)),
        )
        for row in rows:
            touch = _Touch(transition.tenant, row["channel_id"], row["group_key"])
            touched[touch] = labels_of(row["group_key"]), by_id[row["channel_id"]]
        return len(rows)

    def _flush_due(self) -> tuple[int, bool]:
        groups = self._rows("lock_due_groups", limit=AT_ONCE)
        made = sum(self._flush_group(row) for row in groups)
        return made, len(groups) == AT_ONCE

    def _flush_group(self, row: DictRow) -> bool:
        where = {"tenant": row["tenant"], "channel": row["channel_id"], "group": row["group_key"]}
        if not row["enabled"]:
            self._run("postpone", **where, flush_at=row["now"] + ASLEEP)
            return False
        if row["last_message"] is not None and not self._supersede(row["tenant"], row["last_message"]):
            self._run("postpone", **where, flush_at=row["now"] + BUSY)
            return False
        found = flush(_group(row), self._alerts(where), row["now"])
        if found.message is None:
            self._quiet(where, found)
            return False
        made = message_id(to_micros(row["now"]))
        self._run(
            "insert_message",
            **where,
            id=made,
            type=found.message.type,
            document=encode(found.message),
            told=Jsonb(found.told),
        )
        self._run("flushed", **where, message=made, flush_at=found.again)
        return True

    def _quiet(self, where: Mapping[str, Any], found: Flush) -> None:
        """Forget what needs no message, and the group if that was all."""
        self._run("postpone", **where, flush_at=found.again)
        if found.done:
            self._run("forget_alerts", **where, keys=[*found.done])
        self._run("drop_empty_group", **where)

    def _supersede(self, tenant: str, last: str) -> bool:
        """Return whether the group's last message is out of the way."""
        return self._run("supersede", tenant=tenant, id=last) > 0 or not self._rows(
            "is_waiting", tenant=tenant, id=last
        )

    def _alerts(self, where: Mapping[str, Any]) -> list[Held]:
        return [
            Held(
                row["alert_key"],
                row["episode"],
                row["state"],
                msgspec.convert(row["shown"], ShownAlert),
                row["firings"],
                row["told_episode"],
                row["told_state"],
                row["muted"] is not None,
            )
            for row in self._rows("read_alerts", **where)
        ]

    def _rows(self, name: str, **bound: Any) -> list[DictRow]:
        return self._connection.execute(query(name), bound).fetchall()

    def _run(self, name: str, **bound: Any) -> int:
        return self._connection.execute(query(name), bound).rowcount

    def _transaction(self, work: Callable[[], R]) -> R:
        for left in reversed(range(_TRIES)):
            try:
                with self._connection.transaction():
                    return work()
            except AGAIN as error:
                if not left:
                    raise lost(error) from error
            except psycopg.Error as error:
                raise lost(error) from error
        raise AssertionError("every try returned or raised")


def lost(error: psycopg.Error) -> OutageError:
    """Return what ends a process whose database is away or refuses."""
    said = " ".join(str(error).split())
    return OutageError(f"the notifier lost the database, and ends to be started again: {said}")


def _group(row: DictRow) -> Group:
    return Group(
        row["tenant"],
        Channel(row["channel_id"], row["channel_name"]),
        row["group_key"],
        row["labels"],
        row["told_at"],
        row["group_interval"],
        row["repeat_interval"],
        row["send_resolved"],
    )


def _places(places: Sequence[Place]) -> dict[str, Any]:
    return {"topic_ids": [place.topic_id for place in places], "partitions": [place.partition for place in places]}


def _heads(heads: Collection[Head]) -> dict[str, Any]:
    names = ("tenants", "rules", "versions", "exchanges", "products")
    return {name: [head[number] for head in heads] for number, name in enumerate(names)}
