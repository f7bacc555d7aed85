"""A fetch that waits behind another partition over a seek is stale: it moves no position and is never current."""

from collections import deque
from types import SimpleNamespace

from faust.types import TP

from streams.blocks import Block
from streams.transport import BatchConsumer
from tests.support.batching import Written, block_from

TICKS = TP("ps.acme.ticks.v1", 0)


def reading() -> BatchConsumer:
    """A consumer with what delivery needs and nothing else: neither a broker nor an application."""
    consumer = object.__new__(BatchConsumer)
    consumer.app = SimpleNamespace(consumer_generation_id=1)  # type: ignore[assignment] # all that is asked of it
    consumer._readings = {}
    consumer._seeks, consumer._fetched_at = 0, 0.0
    consumer._read_offset = {}
    return consumer


def fetch(consumer: BatchConsumer, *offsets: int) -> tuple[int, list[Block]]:
    """What a fetch of just now is handed on as."""
    return consumer._readings[TICKS].epoch, [block_from([Written(offset) for offset in offsets])]


def test_a_fetch_in_order_moves_the_position_and_is_current() -> None:
    consumer = reading()
    consumer._expect({TICKS: 0})

    message = consumer._to_message(TICKS, fetch(consumer, 0, 1))

    assert consumer.is_current(message.value)
    assert consumer._readings[TICKS].next_offset == 2
    assert consumer._readings[TICKS].lane == deque([message])


def test_a_fetch_from_before_a_rewind_moves_nothing_and_is_dropped() -> None:
    consumer = reading()
    consumer._expect({TICKS: 0})
    waiting = fetch(consumer, 0, 1, 2)
    consumer._expect({TICKS: 0})

    message = consumer._to_message(TICKS, waiting)

    assert not consumer.is_current(message.value)
    assert consumer._readings[TICKS].next_offset == 0
    assert not consumer._readings[TICKS].lane


def test_a_fetch_of_a_partition_that_was_revoked_meanwhile_is_dropped() -> None:
    consumer = reading()
    consumer._expect({TICKS: 5})
    waiting = fetch(consumer, 5)
    consumer._give_up()

    assert not consumer.is_current(consumer._to_message(TICKS, waiting).value)


def test_a_fetch_that_arrives_after_the_revocation_is_dropped() -> None:
    consumer = reading()
    consumer._expect({TICKS: 5})
    consumer._give_up()

    message = consumer._to_message(TICKS, fetch(consumer, 5))

    assert not consumer.is_current(message.value)
    assert consumer._readings[TICKS].next_offset == 5
