"""What keeps an alert from being told, as the database decides it for the notifier: marks, silences and windows."""

import json
import random
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.errors import CheckViolation, InsufficientPrivilege, InvalidParameterValue

from tests.support.databases import BOTH_KINDS, NamedDatabase, execute

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
RULE, EXCHANGE, PRODUCT = "rule-1", "coinbase", "BTC-USD"
LABELS = {"desk": "spot"}
ASK = "SELECT notification_muted(%s, %s, %s, %s, %s, %s::text::jsonb, %s, %s, %s)"
BERLIN = ZoneInfo("Europe/Berlin")


class Roles:
    """A connection for each role, made at its first use."""

    def __init__(self, database: NamedDatabase) -> None:
        self.database = database
        self._open: dict[str, psycopg.Connection] = {}

    def of(self, role: str) -> psycopg.Connection:
        if role not in self._open:
            self._open[role] = psycopg.connect(self.database.url(role), autocommit=True)
        return self._open[role]

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()


@pytest.fixture(scope="module")
def shared(database_server: str, migrated_template: str) -> Iterator[Roles]:
    """One database for most of these tests: each has a tenant of its own."""
    name = f"ps_muted_{secrets.token_hex(6)}"
    execute(database_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    roles = Roles(NamedDatabase(database_server, name))
    yield roles
    roles.close()
    execute(database_server, f"DROP DATABASE {name} WITH (FORCE)")


class Desk:
    """A tenant's marks and silences, written as the API writes, and asked for as the notifier asks."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self.tenant = f"desk-{secrets.token_hex(4)}"
        roles.of("postgres").execute("INSERT INTO tenants (tenant, name) VALUES (%s, 'Desk')", (self.tenant,))

    def write(self, statement: str, row: dict[str, Any]) -> None:
        connection = self.roles.of("ps_api")
        with connection.transaction():
            connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", (self.tenant,))
            connection.execute(statement, {"tenant": self.tenant, **row})  # type: ignore[arg-type]  # of this test

    def named(self, name: str, version: int = 1) -> None:
        self.write(
            "INSERT INTO rules (tenant, rule_id, version, name, definition, created_by)"
            " VALUES (%(tenant)s, %(rule)s, %(version)s, %(name)s, '{}', 'k')",
            {"rule": RULE, "version": version, "name": name},
        )

    def acknowledge(self, version: int, seq: int) -> None:
        self.write(
            "INSERT INTO alert_marks (tenant, rule_id, exchange, product, acknowledged_version, acknowledged_seq,"
            " acknowledged_at, acknowledged_by) VALUES (%(tenant)s, %(rule)s, %(exchange)s, %(product)s, %(version)s,"
            " %(seq)s, now(), 'k')",
            {"rule": RULE, "exchange": EXCHANGE, "product": PRODUCT, "version": version, "seq": seq},
        )

    def snooze(self, until: datetime) -> None:
        self.write(
            "INSERT INTO alert_marks (tenant, rule_id, exchange, product, snoozed_until, snoozed_at, snoozed_by)"
            " VALUES (%(tenant)s, %(rule)s, %(exchange)s, %(product)s, %(until)s, now(), 'k')",
            {"rule": RULE, "exchange": EXCHANGE, "product": PRODUCT, "until": until},
        )

    def silence(self, *matchers: tuple[str, str, str], name: str = "s", **row: Any) -> None:
        given = {"id": name, "starts": NOW, "ends": NOW + timedelta(hours=1)}
        listed = json.dumps([dict(zip(("name", "op", "value"), matcher, strict=True)) for matcher in matchers])
        weekly = dict.fromkeys(("weekdays", "from_time", "minutes", "time_zone"))
        self.write(
            "INSERT INTO silences (tenant, silence_id, matchers, starts_at, ends_at, weekdays, from_time, minutes,"
            " time_zone, comment, created_by) VALUES (%(tenant)s, %(id)s, %(matchers)s::text::jsonb, %(starts)s,"
            " %(ends)s, %(weekdays)s, %(from_time)s, %(minutes)s, %(time_zone)s, 'c', 'k')",
            {**given, **weekly, "matchers": listed, **row},
        )

    def store_alert(self, state: str, version: int, seq: int) -> None:
        self.roles.of("ps_sink").execute(
            "INSERT INTO alerts (tenant, alert_id, seq, rule_id, rule_name, rule_version, exchange, product, state,"
            " at, reason, severity, labels, last_prices, appended_at) VALUES (%s, %s, %s, %s, 'r', %s, %s, %s, %s,"
            " %s, '', 'info', '{}', '[]', now())",
            (self.tenant, f"{version}:{seq}", seq, RULE, version, EXCHANGE, PRODUCT, state, NOW),
        )

    def muted(self, at: datetime = NOW, version: int | None = None, seq: int | None = None, **other: Any) -> str | None:
        asked = {
            "rule": RULE,
            "exchange": EXCHANGE,
            "product": PRODUCT,
            "severity": "warning",
            "labels": LABELS,
            **other,
        }
        values = (
            *(asked.get("tenant", self.tenant), asked["rule"], asked["exchange"], asked["product"]),
            *(asked["severity"], json.dumps(asked["labels"]), at, version, seq),
        )
        [reason] = self.roles.of("ps_notifier").execute(ASK, values).fetchone() or [None]
        return None if reason is None else str(reason)


@pytest.fixture
def desk(shared: Roles) -> Desk:
    return Desk(shared)


def test_an_alert_that_nobody_marked_is_told(desk: Desk) -> None:
    assert desk.muted() is None


def test_an_acknowledgement_covers_its_firing_and_neither_its_end_nor_the_next(desk: Desk) -> None:
    desk.acknowledge(version=3, seq=7)

    told = {(v, s): desk.muted(version=v, seq=s) for v, s in ((3, 6), (3, 7), (3, 8), (3, 9), (4, 1), (2, 7))}

    assert told == {(3, 6): "acknowledged", (3, 7): "acknowledged"} | dict.fromkeys([(3, 8), (3, 9), (4, 1), (2, 7)])


def test_without_a_number_an_acknowledgement_holds_until_the_end_is_stored(desk: Desk) -> None:
    desk.store_alert("firing", 3, 7)
    desk.acknowledge(version=3, seq=7)
    before = desk.muted()

    desk.store_alert("resolved", 3, 8)

    assert (before, desk.muted()) == ("acknowledged", None)


def test_a_snooze_is_for_one_product_of_one_rule_and_ends_by_itself(desk: Desk) -> None:
    desk.snooze(NOW + timedelta(hours=1))

    assert desk.muted() == "snoozed until 2026-03-04T13:00:00Z"
    assert desk.muted(NOW + timedelta(minutes=59, seconds=59)) is not None
    assert desk.muted(NOW + timedelta(hours=1)) is None
    assert desk.muted(product="ETH-USD") is None
    assert desk.muted(exchange="kraken") is None
    assert desk.muted(rule="rule-2") is None


MATCHES: list[tuple[list[tuple[str, str, str]], bool]] = [
    ([("product", "=", "BTC-USD")], True),
    ([("product", "=", "BTC")], False),
    ([("product", "!=", "ETH-USD"), ("exchange", "=", "coinbase")], True),
    ([("product", "=", "BTC-USD"), ("exchange", "=", "kraken")], False),
    ([("product", "=~", "BTC-*|ETH-*")], True),
    ([("product", "=~", "ETH-*|SOL-*")], False),
    ([("product", "!~", "ETH-*")], True),
    ([("product", "=~", "B?C-USD")], True),
    ([("product", "=~", "BTC")], False),
    ([("product", "=~", "BTC_USD")], False),
    ([("product", "=~", "%")], False),
    ([("product", "=~", "*\\*")], False),
    ([("rule_id", "=", RULE), ("rule_name", "=~", "drop*"), ("severity", "=", "warning")], True),
    ([("labels.desk", "=", "spot")], True),
    ([("labels.desk", "!=", "spot")], False),
    ([("labels.team", "=", "")], True),
    ([("labels.team", "!=", "ops")], True),
    ([("labels.team", "=~", "")], True),
    ([("labels.team", "!~", "")], False),
]
"""Matchers of a silence, and whether all of them hold for the alert that is asked about."""


def test_every_matcher_of_a_silence_has_to_hold(desk: Desk) -> None:
    desk.named("an older name")
    desk.named("drop of 2 %", version=2)

    for number, (matchers, matches) in enumerate(MATCHES):
        at = NOW + timedelta(hours=number)
        desk.silence(*matchers, name=str(number), starts=at, ends=at + timedelta(hours=1))
        assert desk.muted(at) == (f"silence {number}" if matches else None), matchers


def test_globs_match_as_the_standard_library_says(shared: Roles) -> None:
    chance = random.Random(4)
    cases = [
        (
            "".join(chance.choices("ab%_\\", k=chance.randint(0, 8))),
            "".join(chance.choices("ab*?%_\\", k=chance.randint(1, 6))),
        )
        for _ in range(2_000)
    ]

    ask = "SELECT glob_matches(value, glob) FROM unnest(%s::text[], %s::text[]) AS t (value, glob)"
    values, globs = [value for value, _ in cases], [glob for _, glob in cases]
    found = shared.of("ps_api").execute(ask, (values, globs)).fetchall()

    assert [matched for (matched,) in found] == [fnmatchcase(value, glob) for value, glob in cases]
    assert any(matched for (matched,) in found)


def test_a_silence_holds_from_its_start_until_before_its_end_or_its_expiry(desk: Desk) -> None:
    desk.silence(("product", "=", PRODUCT))

    times = [timedelta(microseconds=-1), timedelta(), timedelta(minutes=59, seconds=59), timedelta(hours=1)]
    assert [desk.muted(NOW + after) for after in times] == [None, "silence s", "silence s", None]

    desk.write(
        "UPDATE silences SET expired_at = %(at)s, expired_by = 'k' WHERE tenant = %(tenant)s",
        {"at": NOW + timedelta(minutes=30)},
    )
    assert desk.muted(NOW + timedelta(minutes=29)) == "silence s"
    assert desk.muted(NOW + timedelta(minutes=30)) is None


@pytest.mark.parametrize(("from_time", "begin_minute"), [("22:30", 22 * 60 + 30), ("00:15", 15)])
def test_a_maintenance_window_comes_back_by_the_clock_of_its_zone(
    desk: Desk, from_time: str, begin_minute: int
) -> None:
    """Sundays and Mondays, for three hours in Berlin, over the days on which the clocks there change."""
    desk.silence(
        ("product", "=", PRODUCT),
        starts=NOW,
        ends=None,
        weekdays=[1, 7],
        from_time=from_time,
        minutes=180,
        time_zone="Europe/Berlin",
    )
    begin = datetime(2026, 3, 27, tzinfo=UTC)

    times = [begin + timedelta(minutes=15 * step) for step in range(5 * 24 * 4)]

    ask = "SELECT notification_muted(%s, 'r', '', %s, '', '{}', at) IS NOT NULL FROM unnest(%s::timestamptz[]) AS at"
    found = desk.roles.of("ps_notifier").execute(ask, (desk.tenant, PRODUCT, times)).fetchall()

    held = [at for at, (muted,) in zip(times, found, strict=True) if muted]
    assert held == [at for at in times if in_window(at, {1, 7}, begin_minute, 180)]
    assert len(held) == 2 * 3 * 4


def in_window(at: datetime, weekdays: set[int], minute: int, minutes: int) -> bool:
    """The plain way: look at the beginnings of the last days."""
    today = at.astimezone(BERLIN).date()
    begins = (
        datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=BERLIN).astimezone(UTC)
        for day in (today - timedelta(days=back) for back in range(3))
        if day.isoweekday() in weekdays
    )
    return any(begin <= at < begin + timedelta(minutes=minutes) for begin in begins)


def test_another_tenants_marks_and_silences_mute_nothing(desk: Desk, shared: Roles) -> None:
    desk.silence(("product", "=~", "*"))
    desk.snooze(NOW + timedelta(hours=1))

    other = Desk(shared)

    assert desk.muted() is not None
    assert other.muted() is None
    assert desk.muted(tenant=other.tenant) is None


@pytest.mark.parametrize(
    "matchers",
    [
        *("[]", "{}", "null", '"x"', "[1]", '[{"name": "product", "op": "="}]'),
        '[{"name": "product", "op": "=", "value": 1}]',
        '[{"name": "venue", "op": "=", "value": ""}]',
        '[{"name": "product", "op": "~", "value": ""}]',
    ],
)
def test_matchers_that_cannot_be_read_cannot_be_stored(desk: Desk, matchers: str) -> None:
    with pytest.raises(CheckViolation):
        desk.silence(("product", "=", "x"), matchers=matchers)


def test_a_zone_that_is_not_known_cannot_be_stored(desk: Desk) -> None:
    with pytest.raises(InvalidParameterValue):
        desk.silence(("product", "=", "x"), weekdays=[1], from_time="22:30", minutes=60, time_zone="Mars/Olympus_Mons")


def test_only_the_notifier_asks_about_every_tenant_and_it_reads_no_mark(shared: Roles) -> None:
    ask = "SELECT notification_muted('a', 'b', 'c', 'd', 'e', '{}', now())"
    for role, statement in (
        ("ps_api", ask),
        ("ps_sink", ask),
        ("ps_relay", ask),
        ("ps_notifier", "SELECT * FROM silences"),
        ("ps_notifier", "SELECT * FROM alert_marks"),
        ("ps_notifier", "SELECT mute_reason('a', 'b', 'c', 'd', 'e', '{}', now(), 1, 1)"),
        ("ps_api", "UPDATE silences SET ends_at = now()"),
        ("ps_api", "UPDATE silences SET matchers = '[]'"),
    ):
        with pytest.raises(InsufficientPrivilege):
            shared.of(role).execute(statement)


def test_five_hundred_silences_are_asked_in_milliseconds(desk: Desk) -> None:
    worst = [("rule_name", "=~", "|".join(["*a*a*a*b"] * 25)), *[("labels.desk", "=~", "*s*p*x")] * 19]
    desk.named("a" * 100)
    for number in range(5):
        desk.silence(*worst, name=f"s{number}")
    desk.write(
        "INSERT INTO silences (tenant, silence_id, matchers, starts_at, ends_at, comment, created_by)"
        " SELECT tenant, silence_id || n, matchers, starts_at, ends_at, comment, created_by"
        " FROM silences, generate_series(1, 99) AS n WHERE tenant = %(tenant)s",
        {},
    )
    desk.muted()

    begun = time.perf_counter()
    assert desk.muted() is None

    assert time.perf_counter() - begun < 1


@BOTH_KINDS
def test_both_kinds_of_databases_decide_alike(database: NamedDatabase) -> None:
    desk = Desk(Roles(database))
    desk.store_alert("firing", 1, 1)
    desk.acknowledge(version=1, seq=1)
    desk.silence(("product", "=", PRODUCT))

    assert desk.muted() == "acknowledged"
    assert desk.muted(version=1, seq=2) == "silence s"
    desk.roles.close()
