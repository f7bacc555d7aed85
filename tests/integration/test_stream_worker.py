"""The streams worker as a process on a real broker: ticks in, the engine's statistics and alerts out."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pulsestream.core.headers import cloud_event
from pulsestream.core.kafka import Admin, TopicSpec
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Alert, Stat, Tick, Trade
from streams.eventclock import SILENCE
from tests.support.e2e import Service, eventually, read_topic
from tests.support.oracle import Sourced
from tests.support.streaming import (
    Feeding,
    Streams,
    assert_alerts_are,
    assert_stats_are,
    engine_run,
    make_tick,
    market,
    streams_on,
)

LEVEL = {"name": "level", "product": "*", "condition": {"type": "price", "above": 102, "clear": 101}, "for": "2s"}
SECOND = 1_000_000


@pytest.fixture
def streams(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> Iterator[Streams]:
    with streams_on(broker, tmp_path, tenant) as made:
        yield made


@pytest.fixture
def still(streams: Streams) -> Streams:
    """A tenant with topics whose exchange is disconnected, so that records alone decide."""
    streams.prepare()
    streams.put_feed(streams.exchange, "disconnected")
    return streams


def now() -> int:
    return time.time_ns() // 1000


def test_statistics_and_alerts_are_those_of_the_engine_with_keys_and_headers(still: Streams) -> None:
    still.put_rule(f"{still.tenant}-level", LEVEL)
    still.start()

    still.send(market(1, 5_000, exchange=still.exchange))

    expected = engine_run(still.ticks(), still.rules())
    assert len(expected.alerts) > 20

    def complete() -> None:
        assert_stats_are(still.stats(), expected)
        assert_alerts_are(still.alerts(), expected.alerts)

    eventually(complete)
    stat = read_topic(still.admin, tenant_topic(still.tenant, "stats"))[0]
    alert = read_topic(still.admin, tenant_topic(still.tenant, "alerts"))[0]
    said, sent = codec(Stat).decode(stat.value), codec(Alert).decode(alert.value)
    source = f"/{still.exchange}"
    assert (stat.key, alert.key) == (said.product.encode(), sent.product.encode())
    assert stat.headers == dict(cloud_event(said.event_id, "pulsestream.stat.v1", source, said.at))
    assert alert.headers == dict(cloud_event(sent.alert_id, "pulsestream.alert.v1", source, sent.at))


def test_bad_records_are_skipped_and_counted_and_the_ones_beside_them_folded(still: Streams) -> None:
    good = market(2, 50, exchange=still.exchange, products=1)
    unfit = make_tick(still.exchange, "P0-USD", 9_000, float("nan"), at=now())
    owned = make_tick("x-mine", "P0-USD", 9_001, 5.0, at=now())
    past = make_tick(still.exchange, "P0-USD", 9_002, 1_000.0, at=now())
    trade = Trade(
        event_id=f"{still.exchange}:P0-USD:t1",
        exchange=still.exchange,
        product="P0-USD",
        trade_id=1,
        price=1.0,
        size=1.0,
        side="buy",
        exchange_time=now(),
        received_time=now(),
    )
    bad: list[tuple[str, bytes | None, dict[str, bytes]]] = [
        ("P0-USD", None, {}),
        ("P0-USD", b"not a record", {}),
        ("P0-USD", codec(Tick).encode(good[0])[:-3], {}),
        ("P0-USD", codec(Trade).encode(trade), {}),
        ("P0-USD", codec(Tick).encode(unfit), {}),
        ("P0-USD", codec(Tick).encode(owned), {}),
        ("P0-USD", codec(Tick).encode(past), {"ps-backfill": b"1"}),
    ]
    mixed = [(tick.product, codec(Tick).encode(tick), {}) for tick in good]
    worker = still.start()

    still.send_bytes(tenant_topic(still.tenant, "ticks"), [*bad, *mixed[:25], *bad, *mixed[25:]])

    places = read_topic(still.admin, tenant_topic(still.tenant, "ticks"))
    sound = [place for place in places if place.value in {value for _, value, _ in mixed}]
    expected = engine_run([Sourced(codec(Tick).decode(p.value), p.as_of, p.appended_at) for p in sound])
    eventually(lambda: assert_stats_are(still.stats(), expected))
    skipped = {
        reason: worker.metric("pulsestream_stream_skipped_total", reason=reason)
        for reason in ("undecodable", "wrong_schema", "invalid_price", "wrong_exchange", "backfill")
    }
    assert skipped == {"undecodable": 6, "wrong_schema": 2, "invalid_price": 2, "wrong_exchange": 2, "backfill": 2}


def test_a_new_tenants_topic_is_read_while_the_worker_runs(still: Streams) -> None:
    still.start()
    newcomer = f"{still.tenant}n"
    still.prepare("stats", "bars", "alerts", "own-ticks", tenant=newcomer)
    still.send(
        [make_tick("x-desk", "BTC-USD", number, 100.0, at=number * SECOND) for number in range(1, 5)],
        tenant=newcomer,
        dataset="own-ticks",
    )

    def told() -> None:
        assert {stat.exchange for stat in still.stats(newcomer)} == {"x-desk"}

    eventually(told)


@pytest.mark.heavy
def test_topics_that_come_one_after_the_other_under_load_disturb_nobody(still: Streams) -> None:
    worker = still.start()

    with Feeding(still, market(21, 60_000, exchange=still.exchange), per_second=600) as feeding:
        for number in range(4):
            still.prepare(tenant=f"{still.tenant}n{number}")
            eventually(lambda sources=6 * (number + 2): assert_reads(worker, sources), every=0.1)  # type: ignore[misc]
        worker.assert_alive()
        feeding.enough()

    expected = engine_run(still.ticks())
    eventually(lambda: assert_stats_are(still.stats(), expected))
    worker.assert_alive()


def assert_reads(worker: Service, sources: int) -> None:
    """The worker has taken its partitions over with this many partitions of tick topics."""
    worker.assert_alive()
    taken = [line for line in worker.log.read_text().splitlines() if "partitions taken over" in line]
    assert any(f'"sources": {sources}' in line or f'"sources":{sources}' in line for line in taken[-1:]), taken[-1:]


def test_a_pending_alert_fires_by_the_clock_once_the_feed_is_connected(still: Streams) -> None:
    rule = f"{still.tenant}-level"
    still.put_rule(rule, LEVEL)
    still.start()
    at = now()
    still.send([make_tick(still.exchange, "P0-USD", 1, 105.0, at=at)])

    eventually(lambda: assert_states(still, ["pending"]))
    time.sleep(3)  # longer than `for`: time that must not count
    assert_states(still, ["pending"])

    still.put_feed(still.exchange, "connected")

    eventually(lambda: assert_states(still, ["pending", "firing"]))
    assert [alert.at for alert in still.alerts()] == [at, at + 2 * SECOND]


@pytest.mark.heavy
def test_no_alert_fires_by_the_clock_of_a_feed_that_fell_silent(still: Streams) -> None:
    still.put_rule(f"{still.tenant}-level", LEVEL)
    still.put_feed(still.exchange, "connected")
    still.start()
    time.sleep(SILENCE / SECOND + 1)  # a producer that was killed says nothing more
    at = now()
    still.send([make_tick(still.exchange, "P0-USD", 1, 105.0, at=at)])

    eventually(lambda: assert_states(still, ["pending"]))
    time.sleep(3)  # longer than `for`: time that must not count
    assert_states(still, ["pending"])

    still.put_feed(still.exchange, "connected")

    eventually(lambda: assert_states(still, ["pending", "firing"]))
    assert [alert.at for alert in still.alerts()] == [at, at + 2 * SECOND]


def test_missing_records_are_told_of_a_product_that_never_had_one_and_of_one_that_fell_silent(still: Streams) -> None:
    quiet = {"name": "quiet", "product": ["P0-USD", "P1-USD"], "condition": {"type": "no_data", "after": "5s"}}
    still.put_rule(f"{still.tenant}-quiet", quiet)
    at = now()
    still.send([make_tick(still.exchange, "P0-USD", 1, 105.0, at=at)])
    still.start()  # later than the tick: it may take longer than the products have been silent then

    def told() -> None:
        fired = {alert.product: alert for alert in still.alerts()}
        assert fired.keys() == {"P0-USD", "P1-USD"}
        assert {(alert.state, alert.reason) for alert in fired.values()} == {("firing", "feed_down")}
        assert fired["P0-USD"].at == at + 5 * SECOND

    eventually(told)
    again = now()
    still.send([make_tick(still.exchange, "P0-USD", 2, 105.0, at=again)])

    eventually(lambda: assert_last(still, "P0-USD", "resolved", again))


def assert_last(streams: Streams, product: str, state: str, at: int) -> None:
    own = [alert for alert in streams.alerts() if alert.product == product]
    assert [(alert.state, alert.at) for alert in own][-1:] == [(state, at)]


def assert_states(streams: Streams, states: list[str]) -> None:
    assert [alert.state for alert in sorted(streams.alerts(), key=lambda alert: alert.seq)] == states


def test_a_rule_takes_effect_while_the_worker_runs_and_its_end_closes_what_is_open(still: Streams) -> None:
    rule = f"{still.tenant}-rule"
    worker = still.start()
    above = {**LEVEL, "for": "0s"}

    still.put_rule(rule, above)
    eventually(lambda: assert_in_force(worker, still, 1), every=0.05)
    still.send([make_tick(still.exchange, "P0-USD", 1, 105.0, at=now())])
    eventually(lambda: assert_states(still, ["firing"]))
    still.put_rule(rule, {**above, "name": "renamed"}, version=2)
    eventually(lambda: assert_versions(still, [(1, "firing"), (1, "resolved")]))
    still.send([make_tick(still.exchange, "P0-USD", 2, 106.0, at=now())])
    eventually(lambda: assert_versions(still, [(1, "firing"), (1, "resolved"), (2, "firing")]))
    still.put_rule(rule, {**above, "enabled": False}, version=3, enabled=False)
    paused = [(1, "firing"), (1, "resolved"), (2, "firing"), (2, "resolved")]
    eventually(lambda: assert_versions(still, paused))
    still.send([make_tick(still.exchange, "P0-USD", 3, 107.0, at=now())])
    still.put_rule(rule, above, version=4)
    eventually(lambda: assert_in_force(worker, still, 1), every=0.05)
    still.send([make_tick(still.exchange, "P0-USD", 4, 108.0, at=now())])
    eventually(lambda: assert_versions(still, [*paused, (4, "firing")]))
    still.put_rule(rule, above, version=5, deleted=True)

    eventually(lambda: assert_versions(still, [*paused, (4, "firing"), (4, "resolved")]))
    assert {alert.reason for alert in still.alerts() if alert.state == "resolved"} == {"rule_changed"}


def assert_in_force(worker: Service, streams: Streams, least: int) -> None:
    assert worker.metric("pulsestream_stream_rules") >= least
    assert streams.rules()


def assert_versions(streams: Streams, versions: list[tuple[int, str]]) -> None:
    assert [(alert.rule_version, alert.state) for alert in streams.alerts()] == versions


def test_a_tenant_whose_output_topic_is_missing_waits_and_loses_nothing_while_others_go_on(still: Streams) -> None:
    broken = f"{still.tenant}b"
    still.prepare("bars", "alerts", "ticks", tenant=broken)
    worker = still.start_parked()

    still.send(market(3, 500, exchange=still.exchange))
    still.send(market(4, 500, exchange=still.exchange), tenant=broken)
    expected, of_broken = engine_run(still.ticks()), engine_run(still.ticks(broken))

    eventually(lambda: assert_stats_are(still.stats(), expected))
    assert worker.metric("pulsestream_stream_parked_tenants") == 1
    still.prepare("stats", tenant=broken)
    eventually(lambda: assert_stats_are(still.stats(broken), of_broken))
    worker.wait_ready()


def test_a_topic_deleted_under_load_parks_its_tenant_alone(still: Streams) -> None:
    broken = f"{still.tenant}b"
    still.prepare("stats", "bars", "alerts", "ticks", tenant=broken)
    worker = still.start()
    first, second = market(5, 3_000, exchange=still.exchange), market(6, 3_000, exchange=still.exchange)
    still.send(first, tenant=broken)
    before = engine_run(still.ticks(broken))
    eventually(lambda: assert_stats_are(still.stats(broken), before))

    Admin(still.admin).delete([tenant_topic(broken, "stats")])
    still.send(second, tenant=broken)
    still.send(first)
    of_other = engine_run(still.ticks())

    eventually(lambda: assert_stats_are(still.stats(), of_other))
    eventually(lambda: assert_parked(worker, 1))
    still.prepare("stats", tenant=broken)
    expected = engine_run(still.ticks(broken))
    later = {name: stat for name, stat in expected.stats.items() if stat.as_of.offset > 2_000}
    eventually(lambda: assert_holds(still.stats(broken), later), timeout=60)
    worker.assert_alive()


def assert_parked(worker: Service, tenants: int) -> None:
    assert worker.metric("pulsestream_stream_parked_tenants") == tenants


def assert_holds(actual: list[Stat], expected: dict[str, Stat]) -> None:
    missing = expected.keys() - {stat.event_id for stat in actual}
    assert not missing, f"{len(missing)} of {len(expected)} are missing"


def test_a_topic_with_other_partitions_is_refused_and_the_others_are_read(still: Streams) -> None:
    odd = f"{still.tenant}odd"
    Admin(still.admin).create([TopicSpec(tenant_topic(odd, "ticks"), 2)])
    worker = still.launch()

    still.send(market(7, 300, exchange=still.exchange))
    expected = engine_run(still.ticks())

    eventually(lambda: assert_stats_are(still.stats(), expected))
    eventually(lambda: assert_refused(worker, 1))
    Admin(still.admin).delete([tenant_topic(odd, "ticks")])
    worker.wait_ready()


def assert_refused(worker: Service, topics: int) -> None:
    assert worker.metric("pulsestream_stream_refused_topics") == topics


def test_two_workers_share_the_partitions_and_no_key_is_torn(still: Streams) -> None:
    other = f"{still.tenant}o"
    still.prepare(tenant=other)
    still.put_rule(f"{still.tenant}-level", LEVEL)
    ticks = market(8, 6_000, exchange=still.exchange, products=9)
    first = still.start()
    still.send(ticks[:2_000])
    second = still.launch()

    eventually(lambda: assert_shared(first, second))
    still.send(ticks[2_000:])
    still.send(ticks, tenant=other)
    expected, of_other = engine_run(still.ticks(), still.rules()), engine_run(still.ticks(other))

    def complete() -> None:
        assert_stats_are(still.stats(), expected)
        assert_alerts_are(still.alerts(), expected.alerts)
        assert_stats_are(still.stats(other), of_other)

    eventually(complete)
    for worker in (first, second):
        assert worker.metric("pulsestream_stream_records_total") > 0


def assert_shared(first: Service, second: Service) -> None:
    try:
        owned = [worker.metric("pulsestream_stream_partitions") for worker in (first, second)]
    except httpx.TransportError as error:
        raise AssertionError(repr(error)) from error
    assert sorted(owned) == [1, 2]


def test_a_clean_stop_leaves_a_checkpoint_from_which_the_next_worker_goes_on(still: Streams) -> None:
    still.put_rule(f"{still.tenant}-level", LEVEL)
    ticks = market(9, 4_000, exchange=still.exchange)
    worker = still.start()
    still.send(ticks[:2_000])
    before = engine_run(still.ticks())
    eventually(lambda: assert_stats_are(still.stats(), before))

    assert worker.stop() == 0
    still.send(ticks[2_000:])
    expected = engine_run(still.ticks(), still.rules())
    worker = still.start()

    def complete() -> None:
        assert_stats_are(still.stats(), expected)
        assert_alerts_are(still.alerts(), expected.alerts)

    eventually(complete)
    sent = [(stat.event_id, stat.as_of, stat.revision) for stat in still.stats()]
    assert len(sent) == len(set(sent))  # nothing was folded and sent a second time


def test_a_missing_state_topic_is_one_clear_message(streams: Streams) -> None:
    worker = streams.launch()

    assert worker.running is not None
    assert worker.running.wait(30) == 2
    assert "create the platform's topics first" in worker.log.read_text()


def test_sigint_ends_it_like_sigterm(still: Streams) -> None:
    worker = still.start()
    assert worker.running is not None

    worker.running.send_signal(signal.SIGINT)

    assert worker.running.wait(20) == 0


def test_a_signal_while_it_starts_ends_it_cleanly(still: Streams) -> None:
    worker = still.launch()
    assert worker.running is not None
    eventually(lambda: assert_answers(worker), every=0.01)

    worker.running.send_signal(signal.SIGTERM)

    assert worker.running.wait(20) == 0


def assert_answers(worker: Service) -> None:
    try:
        answer = httpx.get(f"http://127.0.0.1:{worker.ops_port}/readyz", timeout=5, trust_env=False)
    except httpx.TransportError as error:
        raise AssertionError(repr(error)) from error
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert answer.json()["problems"].keys() != {"worker"}
