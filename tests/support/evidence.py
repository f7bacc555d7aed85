"""What a finished run is compared with: a tenant's topics and rows against the oracle and against each other."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from pulsestream.core.clock import to_micros
from schemas.records import Alert, AsOf, PricePoint, Record, Stat, Tick
from tests.support.e2e import (
    DatabaseUrl,
    Installation,
    Tenant,
    eventually,
    records_of,
    rows,
    sourced_records,
    sourced_ticks,
)
from tests.support.oracle import (
    Sourced,
    applies,
    assert_alerts_equal,
    assert_one_content_each,
    assert_stats_equal,
    by_key,
    final_stats,
    newest,
    passing_stats,
    transitions,
)

R = TypeVar("R", bound=Record)
_FAR = 3_600 * 1_000_000
"""How far the event clock may have run on after the last record, in microseconds: an hour is longer than any test."""
_BY_SECONDS = ("1m", "5m", "15m")
_BY_MINUTES = ("1h", "24h")


@dataclass(frozen=True, slots=True)
class Watched:
    """A tenant of a run, what it is subscribed to, and its rules (as the API shows them) by definition."""

    tenant: Tenant
    products: tuple[str, ...]
    rules: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = field(default_factory=list)

    @property
    def slug(self) -> str:
        """The tenant's name."""
        return self.tenant.slug

    def add_rule(self, definition: Mapping[str, Any]) -> None:
        """Create a rule over HTTP."""
        self.rules.append((definition, self.tenant.create_rule(definition)))


def assert_ticks_stored(installation: Installation, watched: Watched, expected: Iterable[Tick]) -> None:
    """Assert that these ticks, and no others, stand once each on the tenant's topic and in the database.

    Everything but the time of receipt is compared, and the rows with the topic in every field.
    """
    wanted = {tick.event_id: _unreceived(tick) for tick in expected if tick.product in watched.products}
    on_topic = [record.record for record in sourced_ticks(installation.admin, watched.slug)]

    assert_same_once({tick.event_id: _unreceived(tick) for tick in on_topic}, wanted)
    assert _repeated(tick.event_id for tick in on_topic) == []
    assert_rows_are(installation, watched, on_topic)


def assert_rows_are(installation: Installation, watched: Watched, on_topic: Sequence[Tick]) -> None:
    """Assert that the tenant's tick rows are the topic's ticks, each id once, equal in every field."""
    stored = stored_records(installation.database, watched.slug, "ticks", Tick)

    assert _repeated(tick.event_id for tick in stored) == []
    assert_same_once({tick.event_id: tick for tick in stored}, {tick.event_id: tick for tick in reversed(on_topic)})


def assert_same_once(actual: Mapping[str, R], expected: Mapping[str, R]) -> None:
    """Compare records by id."""
    missing, more = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    other = [
        (actual[name], expected[name]) for name in actual.keys() & expected.keys() if actual[name] != expected[name]
    ]
    assert not missing, f"{len(missing)} of {len(expected)} missing: {missing[:5]} …"
    assert not more, f"{len(more)} too many: {more[:5]} …"
    assert not other, f"{len(other)} differ: {other[:2]}"


def assert_statistics_right(installation: Installation, watched: Watched) -> None:
    """Wait until the tenant's statistics, on the topic and in the database, are those of the oracle over its topics.

    Prices come from trades. Which windows have become empty depends on how far the event clock has run by now, and an
    hour or a day is said at the end of a minute, so those are not required.
    """

    def equal() -> None:
        expected: dict[str, Stat] = {}
        allowed: dict[str, Stat] = {}
        for key in by_key(sourced_records(installation.admin, watched.slug)).values():
            expected |= final_stats(key, _BY_SECONDS, basis="trades")
            allowed |= final_stats(key, _BY_MINUTES, basis="trades")
            allowed |= passing_stats(key, (*_BY_SECONDS, *_BY_MINUTES), basis="trades", until=_latest(key) + _FAR)
        published = records_of(installation.admin, watched.slug, "stats", Stat)
        assert_one_content_each(published)
        assert_stats_equal(published, expected, allowed=allowed)
        stored = stored_stats(installation.database, watched.slug)
        assert _repeated(stat.event_id for stat in stored) == []
        assert_stats_equal(stored, newest(published))

    eventually(equal)


def assert_alerts_right(installation: Installation, watched: Watched) -> list[Alert]:
    """Wait until the tenant's alerts, on the topic and in the database, are those of the oracle; return these.

    Timers after the last record act while the feed stays connected, so they have to be short.
    """
    expected: list[Alert] = []

    def equal() -> None:
        records = sourced_records(installation.admin, watched.slug)
        expected[:] = [alert for definition, shown in watched.rules for alert in _alerts(definition, shown, records)]
        published = records_of(installation.admin, watched.slug, "alerts", Alert)
        assert_alerts_equal(published, expected)
        stored = stored_alerts(installation.database, watched.slug)
        assert _repeated(alert.alert_id for alert in stored) == []
        assert_same_once({a.alert_id: a for a in stored}, {a.alert_id: a for a in published})

    eventually(equal)
    return expected


def _latest(key: Sequence[Sourced]) -> int:
    return max(record.record.exchange_time for record in key)


def _alerts(definition: Mapping[str, Any], shown: Mapping[str, Any], records: Sequence[Sourced]) -> list[Alert]:
    return [
        alert
        for (exchange, product), key in by_key(records).items()
        if applies(definition, exchange, product)
        for alert in transitions(
            definition,
            key,
            rule_id=shown["rule_id"],
            version=shown["version"],
            until=_latest(key) + _FAR,
            basis="trades",
        )
    ]


# ---- rows as records ----


def stored_records(database: DatabaseUrl, tenant: str, table: str, record_type: type[R]) -> list[R]:
    """Return a tenant's rows as records; the names of columns are those of fields."""
    found = rows(database, f"SELECT * FROM {table} WHERE tenant = %(tenant)s", tenant=tenant)
    names = [item.name for item in msgspec.structs.fields(record_type)]
    return [record_type(**{name: _plain(row[name]) for name in names}) for row in found]


def stored_stats(database: DatabaseUrl, tenant: str) -> list[Stat]:
    """Return a tenant's stored statistics."""
    found = rows(database, "SELECT * FROM stats WHERE tenant = %(tenant)s", tenant=tenant)
    return [
        _record(
            Stat,
            row,
            as_of=AsOf(topic_id=row["as_of_topic"], partition=row["as_of_partition"], offset=row["as_of_offset"]),
        )
        for row in found
    ]


def stored_alerts(database: DatabaseUrl, tenant: str) -> list[Alert]:
    """Return a tenant's stored alerts."""
    found = rows(database, "SELECT * FROM alerts WHERE tenant = %(tenant)s", tenant=tenant)
    return [_record(Alert, row, last_prices=[PricePoint(**point) for point in row["last_prices"]]) for row in found]


def _record(record_type: type[R], row: Mapping[str, Any], **others: object) -> R:
    names = [item.name for item in msgspec.structs.fields(record_type) if item.name not in others]
    return record_type(**{name: _plain(row[name]) for name in names}, **others)


def _plain(value: Any) -> Any:
    return to_micros(value) if isinstance(value, datetime) else value


def _unreceived(tick: Tick) -> Tick:
    return msgspec.structs.replace(tick, received_time=0)


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
