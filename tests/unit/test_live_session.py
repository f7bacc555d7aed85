"""What a client of the live view is told, whatever is sent, lost, read slowly, or begun anew in between."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.live.alert_log import AlertLane, AlertLog, Read
from api.live.latest import MAX_ROWS, Batch, Lane, Latest
from api.live.messages import Interest
from api.live.rows import Key, Row
from api.live.session import Session
from api.live.token import ResumeSeal, TokenError

SEAL = ResumeSeal({1: b"pepper of the tests"})
TENANT = "acme"
PARTITIONS = 3
HELD = 4
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
EVERYTHING = Interest()


def row(product: str, time: int, number: int = 0) -> Row:
    return Row(Key("coinbase", product), (time,), json.dumps({"product": product, "time": time, "number": number}))


class World:
    """A tenant's topic of alerts and its ticks, the process that serves them, and a client that comes and goes."""

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        self.topic: list[list[Read | None]] = [[] for _ in range(PARTITIONS)]  # None: a record that nobody is to see
        self.latest = Latest("ticks")
        self.log = AlertLog("life-1", [0] * PARTITIONS, HELD)
        self.fresh: list[Row] = []
        self.newest: dict[str, int] = {}
        self.token: str | None = None
        self.sent: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []
        self.shown: dict[str, dict[str, Any]] = {}
        self.session = self.joined({})

    def joined(self, wanted: dict[str, Sequence[int]]) -> Session:
        alerts = AlertLane(self.interest, lambda topic, own: SEAL.seal(TENANT, topic, own), wanted)
        alerts.attach(self.log)
        return Session([Lane(self.latest, self.interest)], alerts)

    def alert(self, partition: int, product: int, *, is_repeat: bool) -> None:
        offset = len(self.topic[partition])
        key, text = Key("coinbase", PRODUCTS[product]), json.dumps([partition, offset])
        self.topic[partition].append(None if is_repeat else Read(partition, offset, key, text))
        if is_repeat:
            self.log.skip(partition, offset + 1)
        else:
            self.log.append(partition, offset, key, text)

    def tick(self, product: int, time: int) -> None:
        name = PRODUCTS[product]
        made = row(name, time, len(self.received))
        self.newest[name] = max(time, self.newest.get(name, 0))
        if self.latest.fold(made):
            self.fresh.append(made)

    def flush(self) -> None:
        self.session.offer(Batch("ticks", self.fresh))
        self.fresh = []

    def show(self, product: int, time: int) -> None:
        self.tick(product, time)
        self.flush()

    def take(self, count: int) -> None:
        """Send some messages, which are under way."""
        for _ in range(count):
            text = self.session.take()
            if text is not None:
                self.sent.append(json.loads(text))
            else:
                self.read_missing(3)

    def read_missing(self, limit: int) -> None:
        assert self.session.alerts is not None
        read: list[Read] = []
        behind = {}
        for partition, (begin, end) in self.session.lacking().items():
            behind[partition] = min(end, begin + limit)
            read += [each for each in self.topic[partition][begin : behind[partition]] if each is not None]
        if behind:
            self.session.alerts.give(read, behind)

    def receive(self, count: int) -> None:
        for message in self.sent[:count]:
            self.received.append(message)
            self.token = message.get("resume") or self.token
            if message["type"] == "ticks" or message.get("dataset") == "ticks":
                self.shown |= {tick["product"]: tick for tick in message["rows"]}
        del self.sent[:count]

    def lose(self) -> None:
        """Break the connection, with whatever is under way, and come back with the last token that arrived."""
        self.sent = []
        wanted = {} if self.token is None else SEAL.open(self.token, TENANT)
        self.session = self.joined({wanted.topic_id: wanted.next_offsets} if wanted else {})

    def restart(self, stored: Sequence[float]) -> None:
        """Begin the process anew, with a log that begins at what is stored of each partition."""
        begin = [int(share * len(records)) for share, records in zip(stored, self.topic, strict=True)]
        self.log = AlertLog("life-1", begin, HELD)
        for partition, records in enumerate(self.topic):
            for offset, each in enumerate(records[begin[partition] :], begin[partition]):
                if each is None:
                    self.log.skip(partition, offset + 1)
                else:
                    self.log.append(partition, offset, each.key, each.text)
        self.lose()

    def settle(self) -> None:
        self.flush()
        idle = 0
        while idle < 3:
            before = len(self.sent)
            self.session.remind()
            self.take(2)
            idle = idle + 1 if len(self.sent) == before and not self.session.lacking() else 0
            self.receive(len(self.sent))

    def alerts(self) -> list[list[int]]:
        return [alert for message in self.received if message["type"] == "alerts" for alert in message["rows"]]


SHARES = st.tuples(*[st.floats(0, 1)] * PARTITIONS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("alert"), st.integers(0, PARTITIONS - 1), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("tick"), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("show"), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("take"), st.integers(1, 6)),
        st.tuples(st.just("receive"), st.integers(1, 4)),
        st.tuples(st.just("lose")),
        st.tuples(st.just("restart"), SHARES),
    ),
    max_size=60,
)
INTERESTS = st.sampled_from(
    [EVERYTHING, Interest(products=frozenset({"BTC-USD"})), Interest(products=frozenset({"ETH-USD", "SOL-USD"}))]
)


def played(interest: Interest, steps: Sequence[tuple[Any, ...]]) -> World:
    world = World(interest)
    for name, *given_ in steps:
        match name:
            case "alert":
                world.alert(given_[0], given_[1], is_repeat=given_[2])
            case "restart":
                world.restart(given_[0])
            case _:
                getattr(world, name)(*given_)
        assert world.session.waiting() <= len(PRODUCTS)
    world.settle()
    return world


@settings(max_examples=300)
@given(INTERESTS, STEPS)
def test_each_alert_arrives_once_and_in_order_whatever_happens_between(
    interest: Interest, steps: Sequence[tuple[Any, ...]]
) -> None:
    world = played(interest, steps)

    wanted = [[each for each in records if each and interest.wants(each.key)] for records in world.topic]
    arrived = world.alerts()
    for partition, records in enumerate(wanted):
        assert [alert[1] for alert in arrived if alert[0] == partition] == [each.offset for each in records]


@settings(max_examples=300)
@given(INTERESTS, STEPS)
def test_the_last_tick_shown_of_a_product_is_the_newest(interest: Interest, steps: Sequence[tuple[Any, ...]]) -> None:
    world = played(interest, steps)

    wanted = {name: time for name, time in world.newest.items() if interest.wants(Key("coinbase", name))}
    assert {name: tick["time"] for name, tick in world.shown.items()} == wanted


@settings(max_examples=300)
@given(STEPS)
def test_the_last_token_is_behind_everything(steps: Sequence[tuple[Any, ...]]) -> None:
    world = played(EVERYTHING, steps)

    positions = SEAL.open(world.token or "", TENANT)

    assert positions.next_offsets == tuple(len(records) for records in world.topic)


def test_a_client_that_keeps_up_gets_every_tick_in_the_same_bytes_as_the_others() -> None:
    latest = Latest("ticks")
    sessions = [Session([Lane(latest, EVERYTHING)], None) for _ in range(2)]
    for session in sessions:
        assert json.loads(session.take() or "") == {"type": "live", "resume": None}
    rows = [row("BTC-USD", time) for time in range(5)]
    for each in rows:
        latest.fold(each)
    batch = Batch("ticks", rows)

    texts = []
    for session in sessions:
        session.offer(batch)
        texts.append(session.take())

    assert texts[0] is texts[1]
    assert [tick["time"] for tick in json.loads(texts[0] or "")["rows"]] == [0, 1, 2, 3, 4]


def test_a_client_that_reads_nothing_costs_its_keys_and_gets_the_newest_row_of_each() -> None:
    latest = Latest("ticks")
    session = Session([Lane(latest, EVERYTHING)], None)
    session.take()
    for time in range(1_000):
        rows = [row(product, time) for product in PRODUCTS]
        for each in rows:
            latest.fold(each)
        session.offer(Batch("ticks", rows))
        assert session.waiting() <= len(PRODUCTS)

    ticks = json.loads(session.take() or "")["rows"]

    assert [(tick["product"], tick["time"]) for tick in ticks] == [(product, 999) for product in PRODUCTS]
    assert session.take() is None


def test_a_client_that_is_two_batches_behind_gets_what_was_in_either() -> None:
    latest = Latest("ticks")
    session = Session([Lane(latest, EVERYTHING)], None)
    for product in PRODUCTS[:2]:
        latest.fold(row(product, 1))
        session.offer(Batch("ticks", [row(product, 1)]))

    ticks = json.loads(session.take() or "")["rows"]

    assert [tick["product"] for tick in ticks] == list(PRODUCTS[:2])


def test_the_snapshot_comes_in_parts_and_ends_with_live() -> None:
    latest = Latest("ticks")
    for number in range(2 * MAX_ROWS + 1):
        latest.fold(row(f"P{number}-USD", 1))
    session = Session([Lane(latest, EVERYTHING)], None)

    said = [json.loads(session.take() or "") for _ in range(4)]

    assert [message["type"] for message in said] == ["snapshot"] * 3 + ["live"]
    assert [len(message["rows"]) for message in said[:3]] == [MAX_ROWS, MAX_ROWS, 1]


def test_a_flood_of_alerts_leaves_room_for_ticks() -> None:
    world = World(EVERYTHING)
    world.take(1)
    world.receive(1)
    for _ in range(200):
        world.alert(0, 0, is_repeat=False)
    world.tick(0, 1)
    world.flush()

    world.take(60)
    world.receive(60)

    kinds = [message["type"] for message in world.received]
    assert "ticks" in kinds[:4]


def test_the_log_of_alerts_is_bounded_by_number_and_size() -> None:
    log = AlertLog("life-1", [0], 10, 1_000)
    for offset in range(500):
        log.append(0, offset, Key("coinbase", "BTC-USD"), "x" * 90)
        assert len(log) <= 10
    for offset in range(500, 600):
        log.append(0, offset, Key("coinbase", "BTC-USD"), "x" * 400)

    assert len(log) == 2
    assert log.begin == [598]


def test_rows_are_kept_for_a_bounded_number_of_keys() -> None:
    latest = Latest("ticks", 10)
    for number in range(100):
        latest.fold(row(f"P{number}-USD", 1))

    assert [key.product for key in latest.keys(EVERYTHING)] == [f"P{number}-USD" for number in range(90, 100)]


def test_another_life_of_the_topic_begins_at_its_beginning() -> None:
    lane = AlertLane(EVERYTHING, lambda topic, own: SEAL.seal(TENANT, topic, own), {"life-1": (50, 50)})
    log = AlertLog("life-2", [0, 0])
    log.append(1, 0, Key("coinbase", "BTC-USD"), '"first"')
    lane.attach(log)

    assert json.loads(lane.take() or "")["rows"] == ["first"]


@given(st.text(max_size=30), st.lists(st.integers(0, 2**60), max_size=12))
def test_a_token_gives_back_its_positions_to_its_tenant_only(topic_id: str, offsets: list[int]) -> None:
    token = SEAL.seal("acme", topic_id, offsets)

    opened = SEAL.open(token, "acme")

    assert (opened.topic_id, opened.next_offsets) == (topic_id, tuple(offsets))
    with pytest.raises(TokenError, match="this tenant"):
        SEAL.open(token, "acme2")


@given(st.data())
def test_a_token_with_one_changed_character_is_refused(data: st.DataObject) -> None:
    token = SEAL.seal("acme", "life-1", [1, 2, 3])
    place = data.draw(st.integers(0, len(token) - 2))  # the last one may hold unused bits
    wrong = data.draw(st.characters(max_codepoint=0x7F).filter(lambda character: character != token[place]))

    with pytest.raises(TokenError):
        SEAL.open(token[:place] + wrong + token[place + 1 :], "acme")
