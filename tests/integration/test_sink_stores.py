"""The sink on a real broker and a real database: each record has exactly one effect."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psycopg
import pytest

from pulsestream.core.clock import to_datetime
from pulsestream.core.kafka import Admin, TopicSpec
from pulsestream.core.metrics import REGISTRY
from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEEDS
from schemas.codec import codec
from schemas.records import Feed, Gap, Tick
from sinks import tables
from tests.support.sinking import (
    START,
    Scene,
    alert,
    encoded,
    event,
    running_sink,
    send,
    stat,
    tick,
    wait_until,
)

MINUTE = 60_000_000


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}")
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    yield made
    made.delete_topics()


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"pulsestream_{name}", labels) or 0.0


@pytest.mark.parametrize(
    ("dataset", "table", "records"),
    [
        ("ticks", "ticks", [tick(number) for number in range(300)]),
        ("own-ticks", "ticks", [tick(number, exchange="x-desk") for number in range(300)]),
        ("events", "events", [event(number) for number in range(300)]),
        ("stats", "stats", [stat(number, number) for number in range(300)]),
        ("alerts", "alerts", [alert(number) for number in range(300)]),
    ],
)
def test_every_record_is_one_row(scene: Scene, dataset: str, table: str, records: list[Any]) -> None:
    scene.make("dlq", dataset)
    scene.send(dataset, records)

    with running_sink(scene.settings):
        scene.wait_stored(dataset, 300)

    identity = "alert_id" if table == "alerts" else "event_id"
    stored = [row[0] for row in scene.rows(f"SELECT {identity} FROM {table} WHERE tenant = %s", scene.tenant)]
    assert sorted(stored) == sorted(getattr(record, identity) for record in records)


def test_a_row_holds_the_record_exactly(scene: Scene) -> None:
    sent = tick(1, quote_time=START - 1, trade_id=2**62, best_bid_size=0.1 + 0.2, price=123456.789012345)
    scene.make("dlq", "ticks")
    scene.send("ticks", [sent])

    with running_sink(scene.settings):
        scene.wait_stored("ticks", 1)

    names = [field.name for field in msgspec.structs.fields(Tick)]
    (stored,) = scene.rows(f"SELECT {', '.join(names)} FROM ticks WHERE tenant = %s", scene.tenant)
    times = {"exchange_time", "received_time", "quote_time"}
    expected = {name: getattr(sent, name) for name in names}
    expected |= {name: to_datetime(expected[name]) for name in times}
    assert dict(zip(names, stored, strict=True)) == expected


def test_a_record_stored_before_is_left_out_at_another_offset(scene: Scene) -> None:
    scene.make("dlq", "ticks", "alerts", "events")
    for dataset, record in (("ticks", tick), ("alerts", alert), ("events", event)):
        scene.send(dataset, [record(number) for number in range(50)])

    with running_sink(scene.settings):
        scene.wait_stored("ticks", 50)
        scene.wait_stored("alerts", 50)
        scene.wait_stored("events", 50)
        before = {table: metric("sink_duplicates_total", dataset=table) for table in ("ticks", "alerts", "events")}
        for dataset, record in (("ticks", tick), ("alerts", alert), ("events", event)):
            scene.send(dataset, [record(number) for number in range(40, 90)])
            scene.wait_stored(dataset, 100)
        wait_until(lambda: metric("sink_duplicates_total", dataset="events") >= before["events"] + 10)

    assert {table: scene.count(table) for table in before} == {"ticks": 90, "alerts": 90, "events": 90}
    after = {table: metric("sink_duplicates_total", dataset=table) for table in before}
    assert {table: after[table] - before[table] for table in before} == {"ticks": 10, "alerts": 10, "events": 10}


def test_a_record_repeated_within_a_batch_is_one_row(scene: Scene) -> None:
    scene.make("dlq", "ticks", "alerts", "events", "stats")
    for dataset, record in (("ticks", tick), ("alerts", alert), ("events", event)):
        scene.send(dataset, [record(number // 2) for number in range(40)])
    scene.send("stats", [stat(number // 2, number) for number in range(40)])

    with running_sink(scene.settings):
        for dataset in ("ticks", "alerts", "events", "stats"):
            scene.wait_stored(dataset, 40)

    assert [scene.count(table) for table in ("ticks", "alerts", "events", "stats")] == [20, 20, 20, 20]


def test_a_retried_event_is_one_row_though_the_edge_gave_it_another_time(scene: Scene) -> None:
    first = event(1, time=START, received_time=START)
    retried = event(1, time=START + 7, received_time=START + 7)
    scene.make("dlq", "events")

    with running_sink(scene.settings):
        scene.send("events", [first])
        scene.wait_stored("events", 1)
        scene.send("events", [retried])
        scene.wait_stored("events", 2)

    assert scene.rows("SELECT time FROM events WHERE tenant = %s", scene.tenant) == [(to_datetime(START),)]
    assert scene.dead_letters(1, timeout=1) == []


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two batches"])
def test_another_body_under_a_stored_id_is_a_dead_letter(scene: Scene, *, together: bool) -> None:
    original, other = event(1), event(1, data='{"price": 2.5}')
    scene.make("dlq", "events")

    if together:
        scene.send("events", [original, other, event(2)])
    with running_sink(scene.settings):
        if not together:
            scene.send("events", [original])
            scene.wait_stored("events", 1)
            scene.send("events", [other, event(2)])
        scene.wait_stored("events", 3)

    (letter,) = scene.dead_letters(1)
    assert (letter.reason, letter.value) == ("id_conflict", encoded([other])[0][1])
    assert scene.rows("SELECT event_id, data FROM events WHERE tenant = %s ORDER BY 1", scene.tenant) == [
        ("desk:1", {"price": 1.5}),
        ("desk:2", {"price": 1.5}),
    ]


def test_the_statistic_with_the_greatest_as_of_wins_in_whatever_order_it_comes(scene: Scene) -> None:
    scene.make("dlq", "stats")
    with running_sink(scene.settings):
        for sent, offset in enumerate((5, 3, 9, 7), start=1):
            scene.send("stats", [stat(1, offset)])
            scene.wait_stored("stats", sent)
        scene.send("stats", [stat(2, offset) for offset in (5, 9, 3)])
        scene.wait_stored("stats", 7)
        scene.send("stats", [stat(3, 1, topic_id="b"), stat(3, 9, topic_id="B"), stat(3, 8, topic_id="a")])
        scene.wait_stored("stats", 10)

    held = scene.rows("SELECT as_of_topic, as_of_offset, count FROM stats WHERE tenant = %s ORDER BY at", scene.tenant)
    assert held == [("source", 9, 9), ("source", 9, 9), ("b", 1, 1)]


BAD = {
    "malformed": (b"\x00\x00\x00\x00\x01\xff\xff\xff", "undecodable"),
    "no frame": (b"hello", "undecodable"),
    "null": (None, "undecodable"),
    "trailing bytes": (codec(Tick).encode(tick(7)) + b"x", "undecodable"),
    "unknown schema": (b"\x00\x00\x00\x03\xe7" + codec(Tick).encode(tick(7))[5:], "unknown_schema"),
    "an event": (encoded([event(7)])[0][1], "wrong_schema"),
    "NaN": (codec(Tick).encode(tick(7, price=float("nan"))), "invalid_price"),
    "1e308": (codec(Tick).encode(tick(7, price=1e308)), "invalid_price"),
    "infinite size": (codec(Tick).encode(tick(7, size=float("inf"))), "invalid_size"),
    "zero byte": (codec(Tick).encode(tick(7, product="BTC\x00USD")), "invalid_name"),
    "1 MB name": (codec(Tick).encode(tick(7, product="A" * 500_000)), "invalid_name"),
    "own exchange": (codec(Tick).encode(tick(7, exchange="x-desk")), "wrong_exchange"),
}


def test_bad_records_are_dead_letters_with_their_bytes_and_their_neighbours_are_stored(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    values = [value for value, _ in BAD.values()]
    mixed = [value for pair in zip(values, _good(len(values)), strict=True) for value in pair]

    placed = scene.send_bytes("ticks", *mixed)
    with running_sink(scene.settings):
        scene.wait_stored("ticks", len(mixed))

    letters = {(letter.partition, letter.offset): letter for letter in scene.dead_letters(len(values))}
    assert [letters[where].reason for where in placed[::2]] == [reason for _, reason in BAD.values()]
    assert [letters[where].value for where in placed[::2]] == values
    assert {(letter.topic, letter.key) for letter in letters.values()} == {(scene.topic("ticks"), b"BTC-USD")}
    assert scene.count("ticks") == len(values)


def _good(number: int) -> list[bytes]:
    return [value for _, value in encoded(tick(100 + each) for each in range(number))]  # type: ignore[misc]


def test_what_only_the_database_refuses_is_bisected_to_the_record(scene: Scene) -> None:
    records = [alert(number) for number in range(64)]
    for culprit in (0, 31, 63):
        records[culprit] = alert(culprit, rule_id=secrets.token_hex(8000))  # beyond what an index row holds
    scene.make("dlq", "alerts")
    scene.send("alerts", records)

    with running_sink(scene.settings):
        scene.wait_stored("alerts", 64)

    letters = scene.dead_letters(3)
    assert [letter.reason for letter in letters] == ["refused_by_database"] * 3
    assert "54000" in letters[0].message
    assert [letter.value for letter in letters] == [encoded([records[each]])[0][1] for each in (0, 31, 63)]
    assert scene.count("alerts") == 61


def test_times_more_than_five_minutes_ahead_are_dead_letters(scene: Scene) -> None:
    late, just = START + 5 * MINUTE + 1, START + 5 * MINUTE
    scene.make("dlq", "ticks", "events", "stats", "alerts")
    for at in (late, just):
        scene.send("ticks", [tick(at, price=1.0, exchange_time=at, received_time=at)])
        scene.send("events", [event(at, time=at, received_time=at)])
        scene.send("stats", [stat(at, 1, at=at, event_id=f"s:{at}")])
        scene.send("alerts", [alert(at, at=at)])

    with running_sink(scene.settings, clock=lambda: START):
        for dataset in ("ticks", "events", "stats", "alerts"):
            scene.wait_stored(dataset, 2)

    assert [letter.reason for letter in scene.dead_letters(4)] == ["time_out_of_range"] * 4
    assert [scene.count(table) for table in ("ticks", "events", "stats", "alerts")] == [1, 1, 1, 1]


@pytest.mark.parametrize("missing", [True, False], ids=["its topic is missing", "it is too large"])
def test_a_dead_letter_that_cannot_be_stored_is_counted_and_holds_nobody_up(scene: Scene, *, missing: bool) -> None:
    scene.make("ticks")
    if not missing:
        Admin(scene.admin).create([TopicSpec(scene.topic("dlq"), 1, {"max.message.bytes": "2000"})])
    before = metric("sink_dead_letters_lost_total", reason="undecodable")

    noise = [b"x" + secrets.token_bytes(5000) for _ in range(2)]
    scene.send_bytes("ticks", noise[0], *_good(3), noise[1])
    with running_sink(scene.settings):
        scene.wait_stored("ticks", 5)

    assert metric("sink_dead_letters_lost_total", reason="undecodable") == before + 2
    assert scene.count("ticks") == 3


def test_the_feeds_ledger_holds_the_newest_version_of_each_key(scene: Scene) -> None:
    def feed(version: int, state: str, gap: Gap | None = None) -> bytes:
        record = Feed(exchange="coinbase", state=state, at=START, gap=gap, version=version)
        return codec(Feed).encode(record)

    gap = Gap(kind="time", opened=START, closed=START + 1, cause="killed")
    moved, opened, gone, back = (f"{kind}:{scene.tenant}" for kind in ("conn", "gap", "gone", "back"))
    lost = metric("sink_dead_letters_lost_total", reason="undecodable")
    with running_sink(scene.settings):
        before = scene.stored_of(FEEDS)
        sent = [(moved, feed(5, "connected")), (moved, feed(4, "stale")), (opened, feed(1, "disconnected", gap))]
        sent += [(gone, feed(1, "stale")), (back, feed(1, "stale"))]
        send(scene.admin, FEEDS, sent)
        wait_until(lambda: scene.rows("SELECT FROM feeds WHERE key = %s", back))
        sent = [(moved, feed(3, "stale")), (gone, None), (back, None), (back, feed(2, "connected")), (opened, b"noise")]
        send(scene.admin, FEEDS, sent)
        wait_until(lambda: scene.stored_of(FEEDS) >= before + 10)

    held = scene.rows(
        "SELECT key, state, version, gap_kind, gap_closed, gap_cause FROM feeds WHERE key LIKE %s ORDER BY key",
        f"%:{scene.tenant}",
    )
    assert held == [
        (back, "connected", 2, None, None, None),
        (moved, "connected", 5, None, None, None),
        (opened, "disconnected", 1, "time", to_datetime(START + 1), "killed"),
    ]
    assert metric("sink_dead_letters_lost_total", reason="undecodable") == lost + 1


@pytest.mark.parametrize("table", [tables.TICKS, tables.EVENTS, tables.STATS, tables.ALERTS, tables.FEEDS])
def test_columns_and_types_are_those_of_the_migrations(database: Any, table: tables.Table) -> None:
    with psycopg.connect(database.url()) as connection:
        found = connection.execute(
            "SELECT column_name, replace(data_type, 'timestamp with time zone', 'timestamptz')"
            " FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position",
            (table.name,),
        ).fetchall()

    assert found == list(table.columns.items())


def test_a_name_too_long_for_an_index_is_a_dead_letter_and_not_the_end(scene: Scene) -> None:
    scene.make("dlq", "stats")
    scene.send("stats", [stat(1, 1), stat(2, 1, window=secrets.token_hex(4000)), stat(3, 1)])

    with running_sink(scene.settings):
        scene.wait_stored("stats", 3)

    (letter,) = scene.dead_letters(1)
    assert letter.reason == "refused_by_database"
    assert "54000" in letter.message
    assert scene.count("stats") == 2
