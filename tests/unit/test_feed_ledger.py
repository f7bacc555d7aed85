"""The ledger's rules: when an interval opens and closes, over restarts and kills too."""

from typing import Any

from producers.ledger import ALIVE_EVERY, BUFFER, CONNECTION, Ledger, Scope, Shard, ShardLedger
from producers.outbox import Outbox
from schemas.records import Feed, Gap

SHARDS = 8
BTC, ETH = "BTC-USD", "ETH-USD"
OF_BTC, OF_ETH = 1, 4
"""Their shards."""
CONN = f"conn:coinbase:{OF_BTC}"


class World:
    """A topic that keeps the newest record of each key, a clock that is set by hand, and the producer that runs now."""

    def __init__(self) -> None:
        self.now = 1_000
        self.topic: dict[str, Feed] = {}
        self.log: list[str] = []
        self.start_process()

    def start_process(self) -> None:
        self.outbox = Outbox()
        self.ledger = Ledger(lambda: self.now, self.outbox)

    def take(self, number: int = OF_BTC) -> ShardLedger:
        """Let the producer take a shard over."""
        shard = Shard("coinbase", number, SHARDS)
        made = ShardLedger(shard, lambda: self.now, self.outbox, shard.records(self.topic))
        made.start()
        self.ledger.add(made)
        return made

    def after_a_kill(self, number: int = OF_BTC) -> ShardLedger:
        self.start_process()
        return self.take(number)

    def write(self) -> None:
        for key, record in self.outbox.unsent():
            held = self.topic.get(key)
            if record is None:
                del self.topic[key]
            else:
                assert held is None or held.version < record.version
                self.topic[key] = record
            self.log.append(key)
            self.outbox.written(key, record)

    def gaps(self) -> list[Gap]:
        return [feed.gap for feed in self.topic.values() if feed.gap is not None]


def running(world: World, *, since: int = 2_000, number: int = OF_BTC) -> ShardLedger:
    ledger = world.take(number)
    world.now = since
    ledger.delivering(since)
    ledger.complete(since)
    world.write()
    return ledger


def gap(opened: int, closed: int | None, cause: str) -> Gap:
    return Gap(kind="time", opened=opened, closed=closed, cause=cause)


def test_the_first_start_opens_nothing() -> None:
    world = World()

    running(world)

    assert world.gaps() == []
    assert world.topic[CONN].state == "connected"


def test_a_lost_connection_opens_an_interval_that_the_next_complete_one_closes() -> None:
    world = World()
    ledger = running(world)

    ledger.lost(3_000, "disconnected")
    world.write()
    assert world.gaps() == [gap(3_000, None, "disconnected")]
    assert world.topic[CONN].state == "disconnected"
    ledger.delivering(5_000)
    world.write()
    assert world.gaps() == [gap(3_000, None, "disconnected")]
    ledger.complete(5_500)
    world.write()

    assert world.gaps() == [gap(3_000, 5_500, "disconnected")]
    assert world.topic[CONN].state == "connected"


def test_failed_attempts_neither_open_nor_move_anything() -> None:
    world = World()
    ledger = running(world)
    ledger.lost(3_000, "disconnected")
    world.write()
    before = dict(world.topic)

    ledger.lost(None, "disconnected")
    world.write()

    assert world.topic == before


def test_a_stale_connection_says_so() -> None:
    world = World()
    ledger = running(world)

    ledger.lost(3_000, "stale")
    world.write()

    assert world.topic[CONN].state == "stale"
    assert world.gaps() == [gap(3_000, None, "stale")]


def test_an_interval_is_written_before_the_state_that_follows_from_it() -> None:
    world = World()
    ledger = running(world)
    ledger.refresh(2_500)
    world.log.clear()

    ledger.lost(3_000, "disconnected")
    world.write()

    assert world.log == ["gap:coinbase:*1:3000", CONN]


def test_the_state_is_written_before_the_interval_that_it_closes() -> None:
    world = World()
    ledger = running(world)
    ledger.lost(3_000, "disconnected")
    world.write()
    world.log.clear()

    ledger.delivering(5_000)
    ledger.complete(5_000)
    world.write()

    assert world.log == [CONN, "gap:coinbase:*1:3000"]


def test_a_kill_opens_its_interval_at_the_next_start() -> None:
    world = World()
    killed = running(world)
    killed.refresh(7_000)
    world.write()

    world.now = 9_000
    ledger = world.after_a_kill()
    world.write()
    assert world.gaps() == [gap(7_000, None, "killed")]
    assert world.topic[CONN].state == "disconnected"
    ledger.delivering(9_500)
    ledger.complete(9_500)
    world.write()

    assert world.gaps() == [gap(7_000, 9_500, "killed")]


def test_a_kill_before_the_first_refresh_opens_before_the_first_frame() -> None:
    world = World()
    running(world, since=2_000)

    world.after_a_kill()
    world.write()

    assert world.gaps() == [gap(1_999, None, "killed")]


def test_a_kill_while_disconnected_goes_on_with_the_open_interval() -> None:
    world = World()
    killed = running(world)
    killed.lost(3_000, "disconnected")
    world.write()

    ledger = world.after_a_kill()
    ledger.delivering(8_000)
    ledger.complete(8_000)
    world.write()

    assert world.gaps() == [gap(3_000, 8_000, "disconnected")]


def test_a_kill_between_state_and_closing_keeps_the_interval_open() -> None:
    world = World()
    killed = running(world)
    killed.lost(3_000, "disconnected")
    killed.delivering(5_000)
    killed.complete(5_000)
    for key, record in world.outbox.unsent()[:1]:
        assert record is not None
        world.topic[key] = record
    world.topic["gap:coinbase:*1:3000"] = Feed(
        exchange="coinbase", state="connected", at=3_000, gap=gap(3_000, None, "disconnected"), version=1
    )

    ledger = world.after_a_kill()
    ledger.complete(9_000)
    world.write()

    assert world.gaps() == [gap(3_000, 9_000, "disconnected")]


def test_nobodys_wish_is_no_loss() -> None:
    world = World()
    ledger = running(world)

    ledger.idle()
    world.write()
    world.after_a_kill()
    world.write()

    assert world.topic == {}


def test_what_is_missing_ends_when_nobody_wishes_for_it_any_more() -> None:
    world = World()
    ledger = running(world)
    ledger.lost(3_000, "disconnected")
    world.now = 4_000

    ledger.idle()
    world.write()

    assert world.gaps() == [gap(3_000, 4_000, "disconnected")]
    assert CONN not in world.topic


def test_a_shard_that_is_wanted_again_begins_anew() -> None:
    world = World()
    ledger = running(world)
    ledger.idle()
    world.write()

    ledger.delivering(5_000)
    world.write()

    assert (world.topic[CONN].state, world.topic[CONN].version) == ("connected", 1)


def test_a_refresh_waits_while_anything_else_is_unwritten() -> None:
    world = World()
    ledger = running(world)
    ledger.open(BUFFER, 2_100, "buffer_full")

    ledger.refresh(2_500)

    assert CONN not in world.outbox.waiting


def test_a_refresh_does_not_wait_for_gaps_in_trade_ids() -> None:
    world = World()
    ledger = running(world)
    missing = Feed(**FED, gap=Gap(kind="trade_id", from_id=8, to_id=9, opened=1, cause="sequence"))
    world.outbox.write("gap:coinbase:BTC-USD:t8", missing)

    ledger.refresh(2_500)
    world.write()

    assert world.topic[CONN].complete_until == 2_500


def test_a_refresh_never_goes_back() -> None:
    world = World()
    ledger = running(world)
    ledger.refresh(2_500)
    world.write()

    ledger.refresh(2_400)

    assert world.outbox.waiting == {}


def test_a_connection_in_a_quiet_market_goes_on_saying_that_it_lives() -> None:
    world = World()
    ledger = running(world)
    said = world.topic[CONN]

    world.now += ALIVE_EVERY - 1
    ledger.refresh(None)
    assert world.outbox.waiting == {}
    world.now += 1
    ledger.refresh(None)
    world.write()

    assert world.topic[CONN].version == said.version + 1
    assert world.topic[CONN].complete_until == said.complete_until


def test_a_lost_connection_says_nothing_more() -> None:
    world = World()
    ledger = running(world)
    ledger.lost(2_300, "disconnected")
    world.write()

    world.now += 10 * ALIVE_EVERY
    ledger.refresh(2_500)

    assert world.outbox.waiting == {}


def test_intervals_of_tenants_are_kept_apart() -> None:
    world = World()
    running(world)
    world.ledger.serve(OF_BTC, ["acme", "other"])

    world.ledger.open(Scope("acme"), 3_000, "topic_missing")
    world.ledger.open(Scope("acme", BTC), 3_000, "timed_out")
    world.ledger.open(Scope("other"), 3_000, "topic_missing")
    world.ledger.close(Scope("acme"), 4_000)
    world.write()

    assert sorted((g.cause, g.closed) for g in world.gaps()) == [
        ("timed_out:acme", None),
        ("topic_missing:acme", 4_000),
        ("topic_missing:other", None),
    ]
    assert {key for key in world.topic if key != CONN} == {
        "gap:coinbase:*1:3000",
        "gap:coinbase:*1:2999",
        "gap:coinbase:BTC-USD:3000",
    }


def test_a_tenants_interval_is_inherited_with_its_scope() -> None:
    world = World()
    killed = running(world)
    killed.open(Scope("acme", BTC), 3_000, "timed_out")
    killed.open(BUFFER, 3_000, "buffer_full")
    world.write()

    ledger = world.after_a_kill()

    assert set(ledger.open_scopes()) == {Scope("acme", BTC), CONNECTION}


def test_a_shard_knows_only_its_own_records() -> None:
    world = World()
    running(world)
    running(world, number=OF_ETH).lost(3_000, "disconnected")
    other = Feed(exchange="kraken", state="connected", at=5, version=3)
    world.write()
    world.topic |= {"conn:kraken:1": other, "trades:coinbase:BTC-USD": Feed(**FED, last_trade_id=7)}
    world.topic["gap:coinbase:BTC-USD:t8"] = Feed(**FED, gap=Gap(kind="trade_id", opened=1, cause="sequence"))
    before = dict(world.topic)

    ledger = world.after_a_kill()
    ledger.delivering(9_000)
    ledger.complete(9_000)
    world.write()

    changed = {key for key in world.topic if world.topic[key] != before.get(key)}
    assert changed == {CONN, "gap:coinbase:*1:1999"}


FED: dict[str, Any] = {"exchange": "coinbase", "product": BTC, "state": "connected", "at": 1, "version": 1}


def test_a_shards_open_trade_gaps_and_positions_are_found() -> None:
    open_gap = Feed(**FED, gap=Gap(kind="trade_id", opened=1, cause="sequence"))
    closed = Feed(**FED, gap=Gap(kind="trade_id", opened=1, closed=2, cause="sequence"))
    backfill = Feed(**FED, gap=Gap(kind="backfill", opened=1, cause="backfill"))
    position = Feed(**FED, last_trade_id=7)
    topic = {"a": open_gap, "b": closed, "c": backfill, "trades:coinbase:BTC-USD": position, "d": Feed(**FED)}

    assert Shard("coinbase", OF_BTC, SHARDS).trades(topic).keys() == {"a", "trades:coinbase:BTC-USD"}
    assert Shard("coinbase", OF_ETH, SHARDS).trades(topic) == {}


def test_a_handed_over_interval_goes_on_with_the_next_producer() -> None:
    world = World()
    running(world).lost(3_000, "handed_over")
    world.write()

    ledger = world.after_a_kill()
    assert ledger.cause == "handed_over"
    ledger.delivering(4_000)
    ledger.complete(4_000)
    world.write()

    assert world.gaps() == [gap(3_000, 4_000, "handed_over")]
    assert ledger.cause is None


def test_shards_are_told_apart() -> None:
    world = World()
    running(world)
    other = running(world, number=OF_ETH)

    other.lost(3_000, "disconnected")
    world.write()

    assert (world.topic[CONN].state, world.topic["conn:coinbase:4"].state) == ("connected", "disconnected")
    assert [key for key in world.topic if key.startswith("gap:")] == ["gap:coinbase:*4:3000"]


def test_a_full_buffer_concerns_every_shard_and_a_product_its_own() -> None:
    world = World()
    running(world)
    running(world, number=OF_ETH)
    world.ledger.serve(OF_ETH, ["acme"])

    world.ledger.open(BUFFER, 3_000, "buffer_full")
    world.ledger.open(Scope("acme", ETH), 3_100, "timed_out")
    world.ledger.open(Scope("acme"), 3_200, "topic_missing")
    world.ledger.close(BUFFER, 3_500)
    world.write()

    assert {key: feed.gap.closed for key, feed in world.topic.items() if feed.gap is not None} == {
        "gap:coinbase:*1:3000": 3_500,
        "gap:coinbase:*4:3000": 3_500,
        "gap:coinbase:ETH-USD:3100": None,
        "gap:coinbase:*4:3200": None,
    }


def test_a_shard_taken_over_while_the_buffer_overflows_misses_records_from_then_on() -> None:
    world = World()
    running(world)
    world.ledger.open(BUFFER, 3_000, "buffer_full")

    world.now = 3_300
    world.take(OF_ETH)
    world.write()

    assert world.topic["gap:coinbase:*4:3300"].gap == gap(3_300, None, "buffer_full")


def test_a_tenant_whose_topic_is_missing_misses_products_that_it_wishes_for_now() -> None:
    world = World()
    running(world)
    world.ledger.open(Scope("acme"), 3_000, "topic_missing")
    world.write()
    assert world.gaps() == []

    world.now = 3_300
    world.ledger.serve(OF_BTC, ["acme"])
    world.write()

    assert world.gaps() == [gap(3_300, None, "topic_missing:acme")]


def test_a_dropped_shard_writes_nothing_more() -> None:
    world = World()
    ledger = running(world)
    ledger.lost(3_000, "disconnected")

    world.ledger.drop(OF_BTC)
    world.ledger.open(BUFFER, 3_000, "buffer_full")
    world.ledger.close(BUFFER, 4_000)

    assert world.outbox.unsent() == []
    assert list(world.outbox.keys()) == []


def test_an_acknowledged_record_leaves_the_outbox_unless_a_newer_one_waits() -> None:
    world = World()
    ledger = running(world)
    ledger.refresh(2_500)
    sent = world.outbox.waiting[CONN]
    ledger.lost(None, "disconnected")

    world.outbox.written(CONN, sent)

    waiting = world.outbox.waiting[CONN]
    assert waiting is not None
    assert waiting.state == "disconnected"


def test_a_wall_clock_that_is_set_back_hides_no_interval_of_a_kill() -> None:
    world = World()
    ledger = running(world, since=2_000_000)
    world.write()
    ledger.refresh(2_000_000)
    world.write()

    world.now = 1_000_000
    ledger.refresh(999_000)
    world.write()
    world.now = 1_500_000
    heir = world.after_a_kill()
    heir.delivering(1_600_000)
    heir.complete(1_600_000)
    world.write()

    assert [(gap.opened, gap.closed) for gap in world.gaps() if gap.cause == "killed"] == [(999_000, 1_600_000)]
