"""Dead letters on a real broker and a real database: whole, once, searchable, and never a reason to stop."""

import asyncio
import dataclasses
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer import message_accumulator
from aiokafka.producer import producer as producing
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from confluent_kafka import Producer

from pulsestream.core.clock import to_datetime, wall_clock
from pulsestream.core.headers import REPLAY_OF, REPLAYS, UNREADABLE, as_replay
from pulsestream.core.kafka import producer_config
from pulsestream.core.metrics import REGISTRY
from pulsestream.core.settings import Settings
from schemas.codec import codec
from schemas.records import DeadLetter, Header, Tick, dead_letter_id
from tests.support.rounds import Rounds
from tests.support.sinking import START, Scene, alert, origin, running_sink, tick, wait_until

NOISE = b"\xffnoise"
COLUMNS = 'id, reason, message, topic, partition, "offset", key, size, first_seen, replay_of, replays, settled'


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}")
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    yield made
    made.delete_topics()


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"pulsestream_{name}", labels) or 0.0


def send_record(
    scene: Scene, value: bytes | None, *headers: tuple[str, bytes | None], key: bytes | None = b"k"
) -> None:
    producer = Producer(producer_config(scene.admin, "test") | {"message.max.bytes": 20_000_000})
    producer.produce(scene.topic("ticks"), value, key, partition=0, headers=list(headers))
    assert producer.flush(30) == 0


def stored_letters(scene: Scene, expected: int) -> list[tuple[DeadLetter, tuple[Any, ...]]]:
    """Return each stored letter with its columns, in the order of origins, once there are so many."""
    wait_until(lambda: scene.count("dead_letters") >= expected, what=f"{expected} dead letters")
    rows = scene.rows(f"SELECT letter, {COLUMNS} FROM dead_letters WHERE tenant = %s", scene.tenant)
    letters = [(codec(DeadLetter).decode(row[0]), row[1:]) for row in rows]
    return sorted(letters, key=lambda each: origin(each[0]))


def test_a_dead_letter_can_be_searched_in_the_database_and_is_there_whole(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    headers = [("ce_id", b"1"), ("nothing", None), ("ce_id", b"\x00\xff")]
    send_record(scene, NOISE, *headers, key=b"BTC\x00\xff")

    with running_sink(scene.settings):
        ((letter, columns),) = stored_letters(scene, 1)

    assert (letter.key, letter.value) == (b"BTC\x00\xff", NOISE)
    assert letter.headers == [Header(name=name, value=value) for name, value in headers]
    assert columns == (
        dead_letter_id(letter), "undecodable", letter.message, scene.topic("ticks"), 0, 0, b"BTC\x00\xff", len(NOISE),
        to_datetime(letter.first_seen), None, 0, None,
    )  # fmt: skip


def test_a_dead_letter_that_is_told_twice_is_one_row(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    send_record(scene, NOISE)
    with running_sink(scene.settings):
        ((letter, _),) = stored_letters(scene, 1)
        again = codec(DeadLetter).encode(msgspec.structs.replace(letter, first_seen=START))
        scene.send_bytes("dlq", again, again)
        scene.wait_stored("dlq", 3)

    assert scene.count("dead_letters") == 1


def test_the_same_place_in_another_life_of_the_topic_is_another_dead_letter(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    send_record(scene, NOISE)
    with running_sink(scene.settings):
        ((letter, _),) = stored_letters(scene, 1)
        later = msgspec.structs.replace(letter, appended_at=(letter.appended_at or 0) + 1000)
        scene.send_bytes("dlq", codec(DeadLetter).encode(later))
        stored_letters(scene, 2)

    assert scene.count("dead_letters") == 2


def test_a_dead_letter_that_cannot_be_stored_is_counted_and_never_made_another_one_of(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    letter = DeadLetter(
        reason="NUL\x00", message="m", topic="t", partition=0, offset=1, headers=[], value=b"v", first_seen=START
    )
    lost = {reason: metric("sink_dead_letters_lost_total", reason=reason) for reason in ("undecodable", *REFUSED)}

    with running_sink(scene.settings):
        scene.send_bytes("dlq", NOISE, None, codec(DeadLetter).encode(letter))
        scene.wait_stored("dlq", 3)
        wait_until(lambda: metric("sink_dead_letters_lost_total", reason=REFUSED[0]) > lost[REFUSED[0]])

    assert {
        reason: metric("sink_dead_letters_lost_total", reason=reason) - before for reason, before in lost.items()
    } == {
        "undecodable": 2,
        REFUSED[0]: 1,
    }
    assert scene.stored("dlq") == 3
    assert scene.count("dead_letters") == 0


REFUSED = ("refused_by_database",)


def test_a_record_that_is_too_large_for_a_letter_is_told_of_without_its_value(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    lost = metric("sink_dead_letters_lost_total", reason="undecodable")
    send_record(scene, bytes(5_000_000), ("ce_id", b"1"))
    send_record(scene, b"x", ("large", bytes(3_000_000)), key=bytes(1_000_000))
    send_record(scene, NOISE)

    with running_sink(scene.settings):
        letters = [letter for letter, _ in stored_letters(scene, 3)]

    assert [letter.omitted for letter in letters] == [5_000_000, 4_000_006, 0]
    assert [letter.value for letter in letters] == [None, None, NOISE]
    assert [letter.key for letter in letters] == [b"k", None, b"k"]
    assert [len(letter.headers) for letter in letters] == [1, 0, 0]
    assert metric("sink_dead_letters_lost_total", reason="undecodable") == lost


def test_a_record_at_its_topics_limit_is_a_dead_letter_with_its_value(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    value = secrets.token_bytes(1_048_000)
    send_record(scene, value)

    with running_sink(scene.settings):
        ((letter, _),) = stored_letters(scene, 1)

    assert letter.value == value


def test_a_replay_that_is_refused_again_carries_the_link_and_the_count_and_is_one_letter_though_sent_twice(
    scene: Scene,
) -> None:
    scene.make("dlq", "ticks")
    first = secrets.token_hex(16)
    headers = as_replay([("ce_id", b"1"), (REPLAY_OF, b"f" * 32), (REPLAYS, b"1")], first, 2)

    with running_sink(scene.settings):
        send_record(scene, NOISE, *headers)
        send_record(scene, NOISE, *headers)
        send_record(scene, NOISE, (REPLAY_OF, b"forged"), (REPLAYS, b"-1"))
        scene.wait_stored("dlq", 3)

    letters = [letter for letter, _ in stored_letters(scene, 2)]
    assert [(letter.offset, letter.replay_of, letter.replays) for letter in letters] == [(0, first, 2), (2, None, 0)]
    assert [header.name for header in letters[0].headers] == ["ce_id", REPLAY_OF, REPLAYS]


def test_a_header_whose_name_is_no_utf_8_stops_nobody(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (message_accumulator, producing):
        monkeypatch.setattr(module, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
    scene.make("dlq", "ticks")
    good = codec(Tick).encode(tick(1))
    asyncio.run(_send_odd_headers(scene, [good, *[NOISE] * 40]))
    send_record(scene, codec(Tick).encode(tick(2)))

    with running_sink(scene.settings):
        scene.wait_stored("ticks", 42)
        letters = [letter for letter, _ in stored_letters(scene, 40)]

    assert scene.count("ticks") == 2
    assert [(letter.value, letter.headers) for letter in letters] == [
        (NOISE, [Header(name=UNREADABLE, value=None)])
    ] * 40


def test_a_tenant_that_is_deleted_while_its_bad_record_is_in_hand_stops_nobody(scene: Scene) -> None:
    in_hand, go_on = threading.Event(), threading.Event()

    def clock() -> int:
        in_hand.set()
        go_on.wait(60)
        return wall_clock()

    other = dataclasses.replace(scene, tenant=f"{scene.tenant}x")
    for each in (scene, other):
        each.make("dlq", "ticks")
    lost = metric("sink_dead_letters_lost_total", reason="undecodable")
    send_record(scene, NOISE)
    with running_sink(scene.settings, clock=clock) as sink:
        assert in_hand.wait(30), "the sink took no batch"
        scene.delete_topics()
        send_record(other, codec(Tick).encode(tick(1)))
        go_on.set()
        other.wait_stored("ticks", 1)
        wait_until(lambda: not sink.readiness.problems(), what="ready")
        other.delete_topics()

    assert other.count("ticks") == 1
    assert metric("sink_dead_letters_lost_total", reason="undecodable") == lost + 1


class _Odd(str):
    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"\xff\xfe"


async def _send_odd_headers(scene: Scene, values: Sequence[bytes]) -> None:
    settings = scene.admin
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        security_protocol=settings.kafka_security,
        sasl_mechanism="SCRAM-SHA-256",
        sasl_plain_username=settings.kafka_username,
        sasl_plain_password=settings.kafka_password.get_secret_value(),
    )
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(scene.topic("ticks"), value, b"k", partition=0, headers=[(_Odd("x"), b"1")])
    finally:
        await producer.stop()


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0], ids=["1 %", "10 %", "100 %"])
def test_of_records_that_only_the_database_refuses_each_one_is_a_dead_letter_and_the_others_are_rows(
    scene: Scene, share: float, rounds: Rounds
) -> None:
    count = rounds(300, 1_000)
    culprits = set(range(0, count, round(1 / share)))
    scene.make("dlq", "alerts")
    noise = secrets.token_hex(8000)  # beyond what an index row holds
    records = [alert(number, rule_id=noise) if number in culprits else alert(number) for number in range(count)]
    scene.send("alerts", records, partition=0)

    with running_sink(scene.settings):
        scene.wait_stored("alerts", count, timeout=120)
        letters = stored_letters(scene, len(culprits))

    assert [letter.offset for letter, _ in letters] == sorted(culprits)
    assert {letter.reason for letter, _ in letters} == {"refused_by_database"}
    stored = {row[0] for row in scene.rows("SELECT alert_id FROM alerts WHERE tenant = %s", scene.tenant)}
    assert stored == {record.alert_id for number, record in enumerate(records) if number not in culprits}
