"""The tenancy benchmark reads what servers send, counts each tick of each message, and divides the right way round."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from benchmarks.ingest_stand import Turn
from benchmarks.peers.http_load import Load
from benchmarks.peers.live_clients import Events, Frames, Texts, masked
from benchmarks.tenancy_auth import figures as auth_figures
from benchmarks.tenancy_live import Readings, latencies, received
from benchmarks.tenancy_tenants import MEASURED
from benchmarks.tenancy_tenants import figures as tenant_figures

TEXTS = st.lists(st.integers(0, 70_000).map(lambda size: b"x" * size), max_size=4)
"""Sizes with each of the three heads of a frame."""


def in_parts(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@given(TEXTS, st.lists(st.integers(0, 300_000), max_size=6))
def test_frames_are_read_however_they_arrive(texts: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(Frame(Opcode.TEXT, text).serialize(mask=False) for text in texts)
    frames = Frames()

    read = [frame for part in in_parts(sent, cuts) for frame in frames.feed(part)]

    assert read == [(Opcode.TEXT, text) for text in texts]


@given(st.lists(st.integers(0, 300), max_size=6))
def test_events_are_read_however_they_arrive(cuts: list[int]) -> None:
    texts = [b'{"type":"ticks","rows":[%d]}' % number for number in range(3)]
    chunks = [
        b"data: " + texts[0] + b"\n\n",
        b":\n\n",
        b"id: t0\ndata: " + texts[1] + b"\n\n",
        b"data: " + texts[2] + b"\n\n",
    ]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    events = Events()

    read = [text for part in in_parts(sent, cuts) for _, text in events.feed(part)]

    assert read == texts


@pytest.mark.parametrize("size", [0, 125, 126, 400])
def test_a_server_takes_what_the_clients_send(size: int) -> None:
    text = b"y" * size
    stream = StreamReader()

    stream.feed_data(masked(Opcode.TEXT, text))

    with pytest.raises(StopIteration) as read:  # how a generator that needs no more gives its value
        next(Frame.parse(stream.read_exact, mask=True))
    assert (read.value.value.opcode, read.value.value.data) == (Opcode.TEXT, text)


def test_messages_of_the_same_bytes_are_one() -> None:
    texts = Texts()
    first, second = b'[{"sequence":7},{"sequence":9}]', b'[{"sequence":8}]'

    numbers = [texts.number(text) for text in (first, second, first)]

    assert numbers == [0, 1, 0]
    assert texts.sequences == [[7, 9], [8]]


MESSAGES = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=5)


@given(MESSAGES, st.data())
def test_each_tick_that_came_has_a_latency_and_counts_once_for_a_client(
    held: list[list[int]], data: st.DataObject
) -> None:
    appended = np.array([0.0, 0.0, *(100.0 + number for number in range(8))])  # two that do not count
    read = data.draw(st.lists(st.tuples(st.integers(0, len(held) - 1), st.floats(200, 300)), max_size=8))
    readings = Readings(
        times=np.array([time for _, time in read]),
        messages=np.array([number for number, _ in read], np.int32),
        clients=np.array([place % 2 for place in range(len(read))], np.int32),
        sequences=np.array([each for sequences in held for each in sequences], np.int64),
        counts=np.array([len(sequences) for sequences in held], np.int64),
    )

    found = latencies(readings, appended)

    expected = [time - appended[each] for number, time in read for each in held[number] if appended[each]]
    assert found.tolist() == expected
    different = {(place % 2, each) for place, (number, _) in enumerate(read) for each in held[number] if appended[each]}
    assert received(readings, appended) == len(different)


def turn(rate: float, cpu: float) -> Turn:
    load = Load(
        requests=int(rate), seconds=1.0, statuses={"202": int(rate)}, sent_in_all=int(rate), p50=1.0, p99=2.0, busy=0.1
    )
    return Turn(load, cpu, 0.1)


def test_what_takes_longer_with_keys_and_limits_is_above_one() -> None:
    kept, free = [turn(800, 0.8), turn(900, 0.9), turn(1000, 1.1)], [turn(1000, 0.8), turn(1000, 0.8), turn(1000, 1.0)]

    found = auth_figures({"single": kept, "open single": free, "batch": free, "open batch": free})

    assert found["auth_overhead_ratio"] == pytest.approx(1000 / 900)
    assert found["auth_overhead_cpu_ratio"] == pytest.approx(1.25)  # 1,000 us against 800, in the first two rounds
    assert found["auth_overhead_batch_ratio"] == found["auth_overhead_batch_cpu_ratio"] == 1.0


def test_what_takes_longer_with_many_tenants_is_above_one() -> None:
    def rounds(*seconds: float) -> list[dict[str, list[float]]]:
        return [{name: [each / 2, each, each * 9] for name in MEASURED} for each in seconds]

    found = tenant_figures({"empty": rounds(0.010, 0.020), "full": rounds(0.020, 0.020)})

    assert found["lookup_ratio"] == pytest.approx(1.5)
    assert found["lookup_full_ms"] == pytest.approx(20.0)
