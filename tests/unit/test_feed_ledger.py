"""The ledger's rules: when an interval opens and closes, over restarts and kills too."""

from collections.abc import Mapping

from producers.ledger import ALIVE_EVERY, BUFFER, CONNECTION, Ledger, Scope
from schemas.records import Feed, Gap

CONN = "conn:coinbase:0"


class World:
    """A topic that keeps the newest record of each key, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000
        self.topic: dict[str, Feed] = {}
        self.log: list[str] = []

    def ledger(self) -> Ledger:
        return Ledger("coinbase", lambda: self.now, self.topic)

    def write(self, ledger: Ledger) -> None:
        for key, record in ledger.unsent():
            held = self.topic.get(key)
            assert held is None or held.version < record.version
            self.topic[key] = record
            self.log.append(key)
            ledger.written(key, record)

    def gaps(self) -> list[Gap]:
        return [feed.gap for feed in self.topic.values() if feed.gap is not None]


def running(world: World, *, since: int = 2_000) -> Ledger:
    ledger = world.ledger()
    ledger.start()
    world.now = since
    ledger.delivering(since)
    ledger.complete(since)
    world.write(ledger)
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
    world.write(ledger)
    assert world.gaps() == [gap(3_000, None, "disconnected")]
    assert world.topic[CONN].state == "disconnected"
    ledger.delivering(5_000)
    world.write(ledger)
    assert world.gaps() == [gap(3_000, None, "disconnected")]
    ledger.complete(5_500)
    world.write(ledger)

    assert world.gaps() == [gap(3_000, 5_500, "disconnected")]
    assert world.topic[CONN].state == "connected"


def test_failed_attempts_neither_open_nor_move_anything() -> None:
    world = World()
    ledger = running(world)
    ledger.lost(3_000, "disconnected")
    world.write(ledger)
    before = dict(world.topic)

    ledger.lost(None, "disconnected")
    world.write(ledger)

    assert world.topic == before


def test_a_stale_connection_says_so() -> None:
    world = World()
    ledger = running(world)

    ledger.lost(3_000, "stale")
    world.write(ledger)

    assert world.topic[CONN].state == "stale"
    assert world.gaps() == [gap(3_000, None, "stale")]


def test_an_interval_is_written_before_the_state_that_follows_from_it() -> None:
    world = World()
    ledger = running(world)
    ledger.refresh(2_500)
    world.log.clear()

    ledger.lost(3_000, "disconnected")
    world.write(ledger)

    assert world.log == ["gap:coinbase:*:3000", CONN]


def test_the_state_is_written_before_the_interval_that_it_closes() -> None:
    world = World()
    ledger = running(world)
    ledger.lost(3_000, "disconnected")
    world.write(ledger)
    world.log.clear()

    ledger.delivering(5_000)
    ledger.complete(5_000)
    world.write(ledger)

    assert world.log == [CONN, "gap:coinbase:*:3000"]


def test_a_kill_opens_its_interval_at_the_next_start() -> None:
    world = World()
    killed = running(world)
    killed.refresh(7_000)
    world.write(killed)

    world.now = 9_000
    ledger = world.ledger()
    ledger.start()
    world.write(ledger)
    assert world.gaps() == [gap(7_000, None, "killed")]
    assert world.topic[CONN].state == "disconnected"
    ledger.delivering(9_500)
    ledger.complete(9_500)
    world.write(ledger)

    assert world.gaps() == [gap(7_000, 9_500, "killed")]


def test_a_kill_before_the_first_refresh_opens_before_the_first_frame() -> None:
    world = World()
    running(world, since=2_000)

    ledger = world.ledger()
    ledger.start()
    world.write(ledger)

    assert world.gaps() == [gap(1_999, None, "killed")]


def test_a_kill_while_disconnected_goes_on_with_the_open_interval() -> None:
    world = World()
    killed = running(world)
    killed.lost(3_000, "disconnected")
    world.write(killed)

    ledger = world.ledger()
    ledger.start()
    ledger.delivering(8_000)
    ledger.complete(8_000)
    world.write(ledger)

    assert world.gaps() == [gap(3_000, 8_000, "disconnected")]


def test_a_kill_between_state_and_closing_keeps_the_interval_open() -> None:
    world = World()
    killed = running(world)
    killed.lost(3_000, "disconnected")
    killed.delivering(5_000)
    killed.complete(5_000)
    for key, record in list(killed.unsent())[:1]:
        world.topic[key] = record
    world.topic["gap:coinbase:*:3000"] = Feed(
        exchange="coinbase", state="connected", at=3_000, gap=gap(3_000, None, "disconnected"), version=1
    )

    ledger = world.ledger()
    ledger.start()
    ledger.complete(9_000)
    world.write(ledger)

    assert world.gaps() == [gap(3_000, 9_000, "disconnected")]


def test_nobodys_wish_is_no_loss() -> None:
    world = World()
    ledger = running(world)

    ledger.lost(3_000, "idle")
    world.write(ledger)
    after = world.ledger()
    after.start()
    world.write(after)

    assert world.gaps() == []
    assert world.topic[CONN].state == "disconnected"


def test_a_refresh_waits_while_anything_else_is_unwritten() -> None:
    world = World()
    ledger = running(world)
    ledger.open(BUFFER, 2_100, "buffer_full")

    ledger.refresh(2_500)

    assert CONN not in ledger.outbox


def test_a_refresh_never_goes_back() -> None:
    world = World()
    ledger = running(world)
    ledger.refresh(2_500)
    world.write(ledger)

    ledger.refresh(2_400)

    assert ledger.outbox == {}


def test_a_connection_in_a_quiet_market_goes_on_saying_that_it_lives() -> None:
    world = World()
    ledger = running(world)
    said = world.topic[CONN]

    world.now += ALIVE_EVERY - 1
    ledger.refresh(None)
    assert ledger.outbox == {}
    world.now += 1
    ledger.refresh(None)
    world.write(ledger)

    assert world.topic[CONN].version == said.version + 1
    assert world.topic[CONN].complete_until == said.complete_until


def test_a_lost_connection_says_nothing_more() -> None:
    world = World()
    ledger = running(world)
    ledger.lost(2_300, "disconnected")
    world.write(ledger)

    world.now += 10 * ALIVE_EVERY
    ledger.refresh(2_500)

    assert ledger.outbox == {}


def test_intervals_of_tenants_are_kept_apart() -> None:
    world = World()
    ledger = running(world)

    ledger.open(Scope("acme"), 3_000, "topic_missing")
    ledger.open(Scope("acme", "BTC-USD"), 3_000, "timed_out")
    ledger.open(Scope("other"), 3_000, "topic_missing")
    ledger.close(Scope("acme"), 4_000)
    world.write(ledger)

    assert sorted((g.cause, g.closed) for g in world.gaps()) == [
        ("timed_out:acme", None),
        ("topic_missing:acme", 4_000),
        ("topic_missing:other", None),
    ]
    assert {key for key in world.topic if key != CONN} == {
        "gap:coinbase:*:3000",
        "gap:coinbase:*:2999",
        "gap:coinbase:BTC-USD:3000",
    }


def test_a_tenants_interval_is_inherited_with_its_scope() -> None:
    world = World()
    killed = running(world)
    killed.open(Scope("acme", "BTC-USD"), 3_000, "timed_out")
    killed.open(BUFFER, 3_000, "buffer_full")
    world.write(killed)

    ledger = world.ledger()

    assert set(ledger.open_scopes()) == {Scope("acme", "BTC-USD"), CONNECTION}


def test_another_exchanges_records_are_not_touched() -> None:
    records: Mapping[str, Feed] = {"conn:kraken:0": Feed(exchange="kraken", state="connected", at=5, version=3)}

    ledger = Ledger("coinbase", lambda: 10, records)
    ledger.start()

    assert ledger.outbox == {}


def test_an_acknowledged_record_leaves_the_outbox_unless_a_newer_one_waits() -> None:
    world = World()
    ledger = running(world)
    ledger.refresh(2_500)
    sent = ledger.outbox[CONN]
    ledger.lost(None, "disconnected")

    ledger.written(CONN, sent)

    assert ledger.outbox[CONN].state == "disconnected"
