"""A fetch that waits behind another partition over a seek is stale: it moves no position and is never current."""

from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from streams.transport import Batch, BatchConsumer
from tests.support.batching import Written, block_from

TICKS, TRADES = TP("ps.acme.ticks.v1", 0), TP("ps.acme.trades.v1", 0)


def reading() -> BatchConsumer:
    """A consumer with what delivery needs and nothing else: neither a broker nor an application."""
    consumer = object.__new__(BatchConsumer)
    consumer.app = SimpleNamespace(consumer_generation_id=1)  # type: ignore[assignment] # all that is asked of it
    consumer._readings = {}
    consumer._seeks, consumer._fetched_at = 0, 0.0
    consumer._read_offset = {}
    consumer._acked, consumer._acked_index = defaultdict(list), defaultdict(set)
    return consumer


def fetch(consumer: BatchConsumer, *offsets: int, tp: TP = TICKS) -> list[Batch]:
    """What a fetch of just now is handed on as."""
    return [Batch(tp, consumer._readings[tp].epoch, 0.0, [block_from([Written(offset) for offset in offsets])])]


def delivered(consumer: BatchConsumer, batches: list[Batch]) -> list[Batch]:
    """The batches of the message that is made of a fetch."""
    message = consumer._to_message(TICKS, batches)
    carried: Any = message.value
    return list(carried)


def test_a_fetch_in_order_moves_the_position_and_is_current() -> None:
    consumer = reading()
    consumer._expect({TICKS: 0})

    [batch] = delivered(consumer, fetch(consumer, 0, 1))

    assert consumer.is_current(batch)
    assert consumer._readings[TICKS].next_offset == 2
    assert consumer._readings[TICKS].lane == deque([batch])


def test_a_fetch_from_before_a_rewind_moves_nothing_and_is_dropped() -> None:
    consumer = reading()
    consumer._expect({TICKS: 0})
    waiting = fetch(consumer, 0, 1, 2)
    consumer._expect({TICKS: 0})

    [batch] = delivered(consumer, waiting)

    assert not consumer.is_current(batch)
    assert consumer._readings[TICKS].next_offset == 0
    assert not consumer._readings[TICKS].lane


def test_a_fetch_of_a_partition_that_was_revoked_meanwhile_is_dropped() -> None:
    consumer = reading()
    consumer._expect({TICKS: 5})
    waiting = fetch(consumer, 5)
    consumer._give_up()

    assert not consumer.is_current(*delivered(consumer, waiting))


def test_a_fetch_that_arrives_after_the_revocation_is_dropped() -> None:
    consumer = reading()
    consumer._expect({TICKS: 5})
    consumer._give_up()

    [batch] = delivered(consumer, fetch(consumer, 5))

    assert not consumer.is_current(batch)
    assert consumer._readings[TICKS].next_offset == 5


def test_the_group_commits_each_partition_of_a_message_by_itself_as_its_batches_are_done() -> None:
    consumer = reading()
    consumer._expect({TICKS: 0, TRADES: 7})
    batches = delivered(consumer, fetch(consumer, 0, 1) + fetch(consumer, 7, tp=TRADES))
    batches += delivered(consumer, fetch(consumer, 8, 9, tp=TRADES))

    committed = []
    for batch in (batches[2], batches[0], batches[1]):
        batch.ack()
        committed.append({tp: consumer._new_offset(tp) for tp in consumer._filter_tps_with_pending_acks()})

    assert committed == [{TICKS: None, TRADES: None}, {TICKS: 2, TRADES: None}, {TICKS: None, TRADES: 10}]
