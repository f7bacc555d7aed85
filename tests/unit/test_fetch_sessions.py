"""Fetch sessions against a model of what a broker keeps (KIP-227): the same partitions are served as without them."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchRequest_v11
from aiokafka.protocol.metadata import MetadataRequest_v1
from aiokafka.structs import TopicPartition
from hypothesis import example, given
from hypothesis import strategies as st

from streams.sessions import GATHERED_BYTES, GATHERED_FOR, PACED_FROM, FetchSessions, Gathering

NODE = 1
LOST, WRONG_EPOCH, NOT_LEADER = 70, 71, 6
PARTITIONS = [TopicPartition(f"ps.{tenant}.ticks.v1", number) for tenant in ("acme", "zeta") for number in range(2)]


@dataclass
class Broker:
    """Keeps sessions as KIP-227 says; `ends` are the logs' ends, `down` that nobody can reach it."""

    ends: dict[TopicPartition, int] = field(default_factory=lambda: dict.fromkeys(PARTITIONS, 0))
    failing: set[TopicPartition] = field(default_factory=set)
    down: bool = False
    answers: int = 0
    #: Of each session: the epoch that comes next, offsets asked for, and the ends that it was told.
    sessions: dict[int, tuple[int, dict[TopicPartition, int], dict[TopicPartition, int]]] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)

    async def send(self, node_id: int, request: Any) -> Any:
        assert node_id == NODE
        if self.down:
            raise KafkaConnectionError("away")
        said = request.build(FetchRequest_v11)
        self.asked.append(said)
        named = {
            TopicPartition(topic, partition): offset
            for topic, partitions in said.topics
            for partition, _, offset, _, _ in partitions
        }
        if said.session_epoch == 0:
            self.sessions.pop(said.session_id, None)
            self.answers += 1
            session_id, epoch, held, told = self.answers, 0, named, {}
        elif said.session_id not in self.sessions:
            return answer(LOST, 0, [])
        else:
            session_id = said.session_id
            epoch, held, told = self.sessions[session_id]
            if epoch != said.session_epoch:
                return answer(WRONG_EPOCH, 0, [])
            gone = {TopicPartition(topic, one) for topic, ones in said.forgotten_topics_data for one in ones}
            held = {tp: offset for tp, offset in (held | named).items() if tp not in gone}
            told = {tp: end for tp, end in told.items() if tp in held}
        speaks_of = [
            tp for tp, at in held.items() if at < self.ends[tp] or told.get(tp) != self.ends[tp] or tp in self.failing
        ]
        for tp in speaks_of:
            if tp not in self.failing:
                told[tp] = self.ends[tp]
        self.sessions[session_id] = (epoch + 1, held, told)
        return answer(0, session_id, [(tp, NOT_LEADER if tp in self.failing else 0, self.ends[tp]) for tp in speaks_of])


def answer(error: int, session_id: int, said: list[tuple[TopicPartition, int, int]]) -> Any:
    topics = [(tp.topic, [(tp.partition, code, end, end, 0, None, -1, b"")]) for tp, code, end in said]
    return SimpleNamespace(error_code=error, session_id=session_id, topics=topics, API_VERSION=11)


def whole(offsets: dict[TopicPartition, int], **fields: int) -> FetchRequest:
    """Return a request as the library makes it: every partition in it."""
    topics: dict[str, list[tuple[int, int, int]]] = {}
    for tp, offset in offsets.items():
        topics.setdefault(tp.topic, []).append((tp.partition, offset, 1_000_000))
    return FetchRequest(fields.get("wait", 5), 1, 50_000_000, 1, [*topics.items()])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(PARTITIONS)),
        st.tuples(st.just("seek"), st.sampled_from(PARTITIONS), st.integers(0, 5)),
        st.tuples(st.just("leave out"), st.sampled_from(PARTITIONS)),
        st.tuples(st.just("ask again"), st.sampled_from(PARTITIONS)),
        st.tuples(st.just("fail"), st.sampled_from(PARTITIONS)),
        st.tuples(st.just("mend"), st.sampled_from(PARTITIONS)),
        st.just(("fetch",)),
        st.just(("lose sessions",)),
        st.just(("go away",)),
        st.just(("another assignment",)),
    ),
    max_size=40,
)


@given(STEPS)
@example([("fetch",), ("lose sessions",)])
@example([("fetch",), ("another assignment",)])
def test_a_session_serves_what_whole_requests_would(steps: list[Any]) -> None:
    asyncio.run(serve(steps))


async def serve(steps: list[Any]) -> None:
    broker, offsets, assignment = Broker(), dict.fromkeys(PARTITIONS, 0), ["first"]
    left_out: set[TopicPartition] = set()
    sessions = FetchSessions(broker, lambda: assignment[0])
    known: dict[TopicPartition, int] = {}  # ends, as this assignment was told
    for step, *about in [*steps, ("fetch",), ("fetch",)]:
        if step == "append":
            broker.ends[about[0]] += 1
        elif step == "seek":
            offsets[about[0]] = about[1]
        elif step == "leave out":
            left_out.add(about[0])
        elif step == "ask again":
            left_out.discard(about[0])
        elif step == "fail":
            broker.failing.add(about[0])
        elif step == "mend":
            broker.failing.discard(about[0])
        elif step == "lose sessions":
            broker.sessions.clear()
        elif step == "another assignment":
            assignment[0] = object()
            known.clear()
        else:
            broker.down = step == "go away"
            await fetch(broker, sessions, {tp: at for tp, at in offsets.items() if tp not in left_out}, known)


async def fetch(
    broker: Broker, sessions: FetchSessions, wanted: dict[TopicPartition, int], known: dict[TopicPartition, int]
) -> None:
    """Ask once, and judge the answer."""
    try:
        response = await sessions.send(NODE, whole(wanted))
    except KafkaConnectionError:
        assert broker.down
        return
    if response.error_code:  # the session is lost: the next one is another
        response = await sessions.send(NODE, whole(wanted))
    assert not response.error_code
    _, held, _ = broker.sessions[response.session_id]
    assert held == wanted
    said = {TopicPartition(topic, each[0]): each for topic, parts in response.topics for each in parts}
    known |= {tp: end for tp, (_, code, end, *_) in said.items() if not code}
    sound = wanted.keys() - broker.failing
    assert {tp for tp in sound if wanted[tp] < broker.ends[tp]} <= said.keys()
    assert {tp: known.get(tp) for tp in sound} == {tp: broker.ends[tp] for tp in sound}
    assert {tp for tp in PARTITIONS if sessions.unchanged_at(tp) > 0} == sound


def test_a_request_names_what_has_changed_since_the_last_one() -> None:
    async def talk() -> Broker:
        broker = Broker()
        sessions = FetchSessions(broker, lambda: None)
        for offset in range(3):
            await sessions.send(NODE, whole({PARTITIONS[0]: offset} | dict.fromkeys(PARTITIONS[1:], 0)))
        await sessions.send(NODE, whole({PARTITIONS[0]: 2}))
        return broker

    first, *later = asyncio.run(talk()).asked

    assert [len(partitions) for _, partitions in first.topics] == [2, 2]
    assert [[(topic, len(each)) for topic, each in said.topics] for said in later] == [
        [("ps.acme.ticks.v1", 1)],
        [("ps.acme.ticks.v1", 1)],
        [],
    ]
    forgotten = {topic: sorted(ones) for topic, ones in later[-1].forgotten_topics_data}
    assert forgotten == {"ps.acme.ticks.v1": [1], "ps.zeta.ticks.v1": [0, 1]}


def test_a_cancelled_request_ends_its_session() -> None:
    async def talk() -> list[tuple[int, int]]:
        broker = Broker()
        sessions = FetchSessions(broker, lambda: None)
        await sessions.send(NODE, whole(dict.fromkeys(PARTITIONS, 0)))
        broker.send, answering = hang, broker.send  # type: ignore[method-assign]
        waiting = asyncio.create_task(sessions.send(NODE, whole(dict.fromkeys(PARTITIONS, 0))))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        broker.send = answering  # type: ignore[method-assign]
        await sessions.send(NODE, whole(dict.fromkeys(PARTITIONS, 0)))
        return [(said.session_id, said.session_epoch) for said in broker.asked]

    assert asyncio.run(talk()) == [(0, 0), (1, 0)]


async def hang(_node_id: int, _request: Any) -> Any:
    await asyncio.sleep(60)


@pytest.mark.parametrize(("partitions", "waits"), [(PACED_FROM, (5, 1)), (4 * PACED_FROM, (10, GATHERED_BYTES))])
def test_fetches_of_many_partitions_are_spaced_out(partitions: int, waits: tuple[int, int]) -> None:
    async def talk() -> Any:
        offsets = {TopicPartition("ps.acme.ticks.v1", number): 0 for number in range(partitions)}
        broker = Broker(ends=dict.fromkeys(offsets, 0))
        await FetchSessions(broker, lambda: None).send(NODE, whole(offsets))
        return broker.asked[0]

    said = asyncio.run(talk())

    assert (said.max_wait_time, said.min_bytes) == waits


def test_while_the_worker_is_busy_the_broker_gathers_and_answers_at_once_when_it_is_not() -> None:
    async def talk() -> Any:
        broker = Broker()
        sessions = FetchSessions(broker, lambda: None)
        for lay in [0.01] * 9 + [0.0] * 15:
            sessions.gathering.lay(lay)
            await sessions.send(NODE, whole(dict.fromkeys(PARTITIONS, 0)))
        return [(said.max_wait_time, said.min_bytes) for said in broker.asked]

    said = asyncio.run(talk())

    assert said[0] == (3, GATHERED_BYTES)
    assert said[8] == (GATHERED_FOR * 1000, GATHERED_BYTES)
    assert said[-1] == (5, 1)


@given(st.lists(st.floats(0, 60)))
def test_the_broker_never_gathers_for_longer_than_its_bound(lays: list[float]) -> None:
    gathering = Gathering()
    for lay in lays:
        gathering.lay(lay)
        assert 0 <= gathering.seconds <= GATHERED_FOR


def test_an_answer_that_brings_something_is_told_of_and_an_empty_one_is_not() -> None:
    told: list[int] = []

    async def talk() -> None:
        broker = Broker()
        sessions = FetchSessions(broker, lambda: None, lambda: told.append(len(broker.asked)))
        for number in range(4):
            broker.ends[PARTITIONS[0]] = number // 2
            await sessions.send(NODE, whole(dict.fromkeys(PARTITIONS, 0) | {PARTITIONS[0]: number // 2}))

    asyncio.run(talk())

    assert told == [1, 3]


def test_a_broker_without_sessions_is_asked_for_everything() -> None:
    asked: list[Any] = []

    async def send(_node_id: int, request: Any) -> Any:
        asked.append(request.build(FetchRequest_v4))
        return SimpleNamespace(topics=[], API_VERSION=4)

    async def talk() -> None:
        sessions = FetchSessions(SimpleNamespace(send=send), lambda: None)
        for _ in range(2):
            await sessions.send(NODE, whole(dict.fromkeys(PARTITIONS, 0)))

    asyncio.run(talk())

    assert [sum(len(partitions) for _, partitions in said.topics) for said in asked] == [len(PARTITIONS)] * 2


def test_what_is_no_fetch_goes_on_as_it_is() -> None:
    async def send(_node_id: int, request: Any) -> Any:
        return request

    request = MetadataRequest_v1([])

    assert asyncio.run(FetchSessions(SimpleNamespace(send=send), lambda: None).send(NODE, request)) is request
