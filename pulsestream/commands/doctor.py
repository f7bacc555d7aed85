"""Examine an installation: broker, topics, database, migrations, feeds, outbox and lag, with advice for each finding.

Reads only. Each check is independent, so that one outage does not hide another; checks that need something which is
away say so instead of failing again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition

from pulsestream.core.errors import PulseStreamError
from pulsestream.core.kafka import ADMIN_TIMEOUT, QUIET, Admin, BrokerError, client_config, reason
from pulsestream.core.layout import platform_topic_specs
from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEED_SHARDS, parse_tenant_topic
from schemas.migrate import missing

LAG_LIMIT: Final = 50_000
"""Records behind which a reader counts as too slow rather than busy."""
_FOLDED: Final = frozenset({"ticks", "own-ticks"})
_SAME_COUNT: Final = _FOLDED | {"trades"}
_STORED: Final = _SAME_COUNT | {"events", "stats", "bars", "alerts", "dlq"}
_BUDGET_WARNING: Final = 0.9
SILENCE: Final = 10.0
"""Seconds after which a connection counts as stale: a producer that lives speaks of each every 2 s."""
LETTERS_COUNTED: Final = 10_001
"""Dead letters that are counted at most: counting all of very many takes long."""
FILLING: Final = 60.0
"""Seconds that a gap may be open before it is a finding: filling it takes a while."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw: its subject, whether it is well, the facts, and what to do where it is not."""

    subject: str
    ok: bool
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class _Position:
    topic: str
    partition: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class _Check:
    """A check, and which parts have to answer before it makes sense."""

    subject: str
    look: Callable[[Settings], list[Finding]]
    needs: frozenset[str] = frozenset()


def examine(settings: Settings) -> list[Finding]:
    """Return the findings of every check, in the order that a person would look."""
    broker, database = frozenset({"broker"}), frozenset({"database"})
    checks = [
        _Check("broker", _broker),
        _Check("database", _database),
        _Check("platform topics", _platform_topics, broker),
        _Check("feed connections", _feed_connections, database),
        _Check("feed gaps", _feed_gaps, database),
        _Check("tenant topics", _tenant_topics, broker | database),
        _Check("sink lag", _sink_lag, broker | database),
        _Check("stream lag", _stream_lag, broker),
        _Check("dead letters", _dead_letters, database),
    ]
    findings: list[Finding] = []
    away: set[str] = set()
    for check in checks:
        missing_parts = check.needs & away
        if missing_parts:
            why = f"not looked at, because the {' and the '.join(sorted(missing_parts))} cannot be used"
            findings.append(Finding(check.subject, ok=False, detail=why, advice="mend that first"))
            continue
        found, outage = _run(check, settings)
        findings += found
        away |= {check.subject} if outage else set()
    return findings


def report(findings: list[Finding]) -> str:
    """Return the findings as lines: ok or NOT OK, the subject, the facts, and the advice below."""
    lines = []
    for finding in findings:
        lines.append(f"{'ok    ' if finding.ok else 'NOT OK'}  {finding.subject}: {finding.detail}")
        if not finding.ok:
            lines.append(f"        -> {finding.advice}")
    return "\n".join(lines)


def _run(check: _Check, settings: Settings) -> tuple[list[Finding], bool]:
    """Return a check's findings, and whether it could not be made at all."""
    try:
        return check.look(settings), False
    except (PulseStreamError, psycopg.Error, KafkaException) as error:
        said = " ".join(str(error).split())
        return [Finding(check.subject, ok=False, detail=said, advice=_OUTAGE_ADVICE)], True


_OUTAGE_ADVICE: Final = "start it (`make up` for the local stack), or check the address and password in PULSESTREAM_*"


def _broker(settings: Settings) -> list[Finding]:
    topics = Admin(settings, "doctor").topics()
    tenant_topics = {name: count for name, count in topics.items() if parse_tenant_topic(name)}
    partitions = sum(tenant_topics.values())
    full = partitions > _BUDGET_WARNING * settings.partition_budget
    return [
        Finding("broker", ok=True, detail=f"{settings.kafka_bootstrap} answers"),
        Finding(
            "partition budget",
            ok=not full,
            detail=f"{partitions} of {settings.partition_budget} partitions in {len(tenant_topics)} tenant topics",
            advice="raise PULSESTREAM_PARTITION_BUDGET if the brokers can hold more; beyond it new tenants are refused",
        ),
    ]


def _platform_topics(settings: Settings) -> list[Finding]:
    existing = Admin(settings, "doctor").topics()
    specs = platform_topic_specs(settings)
    absent = [spec.name for spec in specs if spec.name not in existing]
    odd = [spec.name for spec in specs if existing.get(spec.name, spec.partitions) != spec.partitions]
    shards = existing.get(FEED_SHARDS, settings.feed_shards)
    if FEED_SHARDS in odd:
        odd.remove(FEED_SHARDS)
    return [
        Finding(
            "platform topics",
            ok=not absent and not odd,
            detail=f"{len(specs) - len(absent)} of {len(specs)} there"
            + (f", missing: {', '.join(absent)}" if absent else "")
            + (f", other partition count than the settings say: {', '.join(odd)}" if odd else ""),
            advice="run `pulsestream migrate`" if absent else "set PULSESTREAM_PARTITIONS to what the topics have",
        ),
        Finding(
            "feed shards",
            ok=shards == settings.feed_shards,
            detail=f"{shards} partitions of {FEED_SHARDS}, the setting says {settings.feed_shards}",
            advice=f"set PULSESTREAM_FEED_SHARDS={shards} for every process, or change the topic's partitions",
        ),
    ]


def _database(settings: Settings) -> list[Finding]:
    with psycopg.connect(settings.database_url.get_secret_value(), connect_timeout=5) as connection:
        lacking = missing(connection)
        extension = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
        version = connection.info.server_version // 10000
        kind = f"TimescaleDB {extension[0]}" if extension else "without TimescaleDB: plain tables"
        found = [
            Finding("database", ok=True, detail=f"PostgreSQL {version}, {kind}"),
            Finding(
                "migrations",
                ok=not lacking,
                detail=f"missing: {', '.join(lacking)}" if lacking else "all applied",
                advice="run `pulsestream migrate`",
            ),
        ]
        return found if lacking else [*found, _outbox(connection)]


def _outbox(connection: psycopg.Connection) -> Finding:
    row = connection.execute(
        "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM outbox"
        " WHERE published_at IS NULL"
    ).fetchone()
    waiting, age = row or (0, 0)
    return Finding(
        "outbox",
        ok=age < 30,  # noqa: PLR2004 - a relay that works publishes within a second
        detail=f"{waiting} control records wait, the oldest for {float(age):.0f} s" if waiting else "nothing waits",
        advice="see that `pulsestream relay` runs and what it logs",
    )


def _feed_connections(settings: Settings) -> list[Finding]:
    with psycopg.connect(settings.database_url.get_secret_value(), connect_timeout=5) as connection:
        rows = connection.execute(
            "SELECT substr(key, 6), exchange, state, coalesce(extract(epoch FROM now() - appended_at), 0)::float"
            " FROM feeds WHERE key LIKE 'conn:%' ORDER BY key"
        ).fetchall()
        wanted = {name for (name,) in connection.execute("SELECT DISTINCT exchange FROM subscriptions").fetchall()}
    faults = [
        f"{exchange} is subscribed to, and nobody feeds it" for exchange in sorted(wanted - {row[1] for row in rows})
    ]
    for name, _, state, silent in rows:
        if state != "connected":
            faults.append(f"{name} is {state}")
        elif silent > SILENCE:
            faults.append(f"{name} has said nothing for {silent:.0f} s")
    detail = "; ".join(faults) if faults else f"{len(rows)} connected"
    advice = "see that `pulsestream producer` runs for this exchange and what it logs; it reconnects by itself"
    return [Finding("feed connections", ok=not faults, detail=detail, advice=advice)]


def _feed_gaps(settings: Settings) -> list[Finding]:
    with psycopg.connect(settings.database_url.get_secret_value(), connect_timeout=5) as connection:
        row = connection.execute(
            "SELECT count(*) FILTER (WHERE gap_closed IS NULL),"
            " coalesce(sum(gap_missing) FILTER (WHERE gap_closed IS NULL), 0),"
            " coalesce(sum(gap_missing) FILTER (WHERE gap_closed > now() - interval '1 day'), 0),"
            " coalesce(extract(epoch FROM now() - min(gap_opened) FILTER (WHERE gap_closed IS NULL)), 0)::float"
            " FROM feeds WHERE gap_kind IN ('time', 'trade_id')"
        ).fetchone()
    opened, missing_ids, lost, age = row or (0, 0, 0, 0.0)
    now = f"{opened} open, the oldest for {age:.0f} s, with {missing_ids} trade ids missing" if opened else "none open"
    return [
        Finding(
            "feed gaps",
            ok=age <= FILLING,
            detail=f"{now}; {lost} trade ids of gaps closed in the last day cannot be recovered",
            advice="GET /api/v1/feeds names them; see what `pulsestream producer` logs of filling them",
        )
    ]


def _tenant_topics(settings: Settings) -> list[Finding]:
    existing = Admin(settings, "doctor").topics()
    with psycopg.connect(settings.database_url.get_secret_value(), connect_timeout=5) as connection:
        rows = connection.execute("SELECT tenant, dataset, status, coalesce(detail, '') FROM tenant_topics").fetchall()
    faults = list(_topic_faults(rows, existing, settings.partitions))
    detail = "; ".join(faults) if faults else f"{len(rows)} as they should be"
    advice = "see what `pulsestream relay` logs; it makes missing topics and refuses odd ones"
    return [Finding("tenant topics", ok=not faults, detail=detail, advice=advice)]


def _topic_faults(rows: list[tuple[str, str, str, str]], existing: dict[str, int], partitions: int) -> Iterator[str]:
    for tenant, dataset, status, detail in rows:
        name = f"ps.{tenant}.{dataset}.v1"
        if status != "active":
            yield f"{name} is {status} {detail}".rstrip()
        elif name not in existing:
            yield f"{name} has vanished from the broker"
        elif dataset in _SAME_COUNT and existing[name] != partitions:
            yield f"{name} has {existing[name]} partitions, the streams need {partitions}"


def _sink_lag(settings: Settings) -> list[Finding]:
    with psycopg.connect(settings.database_url.get_secret_value(), connect_timeout=5) as connection:
        rows = connection.execute("SELECT topic, partition, next_offset, topic_id FROM sink_offsets").fetchall()
    infos = Admin(settings, "doctor").describe({row[0] for row in rows})
    living = [_Position(*row[:3]) for row in rows if row[0] in infos and infos[row[0]].topic_id == row[3]]
    read = {(position.topic, position.partition) for position in living}
    unread = [
        _Position(name, partition, 0)
        for name, count in Admin(settings, "doctor").topics().items()
        if (topic := parse_tenant_topic(name)) and topic.dataset in _STORED
        for partition in range(count)
        if (name, partition) not in read
    ]
    return [_lag("sink lag", settings, living + unread, "see that `pulsestream sink` runs and what it logs")]


def _stream_lag(settings: Settings) -> list[Finding]:
    admin = Admin(settings, "doctor")
    wanted = [
        TopicPartition(name, partition)
        for name, count in admin.topics().items()
        if (topic := parse_tenant_topic(name)) and topic.dataset in _FOLDED
        for partition in range(count)
    ]
    if not wanted:
        return [Finding("stream lag", ok=True, detail="no tick topic yet")]
    request = [ConsumerGroupTopicPartitions(settings.stream_app, wanted)]
    future = admin.client.list_consumer_group_offsets(request, request_timeout=ADMIN_TIMEOUT)[settings.stream_app]
    committed = [_Position(tp.topic, tp.partition, max(tp.offset, 0)) for tp in future.result().topic_partitions]
    return [_lag("stream lag", settings, committed, "see that `pulsestream stream` runs and what it logs")]


def _dead_letters(settings: Settings) -> list[Finding]:
    """Tell how many there are; they are a tenant's affair, and no fault of the installation."""
    with psycopg.connect(settings.database_url.get_secret_value(), connect_timeout=5) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM (SELECT FROM dead_letters WHERE settled IS NULL LIMIT %(most)s) AS held),"
            " count(*), mode() WITHIN GROUP (ORDER BY reason || ' on ' || topic)"
            " FROM (SELECT reason, topic FROM dead_letters"
            "       WHERE appended_at > now() - interval '1 hour' LIMIT %(most)s) AS recent",
            {"most": LETTERS_COUNTED},
        ).fetchone()
    held, recent, frequent = row or (0, 0, None)
    most = f", most of them {frequent}: `pulsestream dlq list` with the tenant's key" if recent else ""
    return [Finding("dead letters", ok=True, detail=f"{_up_to(held)} open, {_up_to(recent)} in the last hour{most}")]


def _up_to(counted: int) -> str:
    return f"{LETTERS_COUNTED - 1} or more" if counted == LETTERS_COUNTED else str(counted)


def _lag(subject: str, settings: Settings, positions: list[_Position], advice: str) -> Finding:
    consumer = Consumer(
        client_config(settings, "doctor") | QUIET | {"group.id": "doctor-unused", "enable.auto.commit": False}
    )
    try:
        lags = {(p.topic, p.partition): _behind(consumer, p) for p in positions}
    finally:
        consumer.close()
    total = sum(lags.values())
    worst = max(lags, key=lambda position: lags[position], default=None)
    where = f", most on {worst[0]}[{worst[1]}] ({lags[worst]})" if worst and total else ""
    return Finding(subject, total <= LAG_LIMIT, f"{total} records on {len(lags)} partitions{where}", advice)


def _behind(consumer: Consumer, position: _Position) -> int:
    partition = TopicPartition(position.topic, position.partition)
    try:
        low, end = consumer.get_watermark_offsets(partition, timeout=ADMIN_TIMEOUT)
    except KafkaException as error:
        raise BrokerError(f"cannot read the end of {position.topic}: {reason(error)}") from error
    return max(0, int(end) - max(int(low), position.next_offset))
