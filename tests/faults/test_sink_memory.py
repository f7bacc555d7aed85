"""How much memory a sink takes: its queue and two batches, however much waits for it, and for however long."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from pulsestream.core.settings import Settings
from tests.support.sinking import Scene, SinkProcess, event, wait_until

MIB = 1024 * 1024
EVENTS, SIZE = 500, 200_000
BOUND = 40 * MIB
"""Queue (4 MiB) and an answer of the broker (8 MiB), two batches of 1 MiB and what one look brings too much (4 MiB),
each as values, rows and columns at once, and what the allocator keeps."""


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}", sink_queue_kib=4096, sink_batch_kib=1024)
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    yield made
    made.delete_topics()


@pytest.mark.heavy
def test_memory_stays_bounded_beside_a_backlog_of_large_records_and_a_slow_database(
    scene: Scene, tmp_path: Path
) -> None:
    scene.make("dlq", "events")
    scene.send("events", [event(EVENTS)])
    sink = SinkProcess(scene.settings, tmp_path / "sink.log")
    try:
        scene.wait_stored("events", 1)
        before = peak(sink)
        with psycopg.connect(scene.url) as slow:
            slow.execute("LOCK TABLE event_ids")
            noise = os.urandom(SIZE).hex()
            for first in range(0, EVENTS, 100):
                numbers = range(first, first + 100)
                scene.send("events", [event(number, data=json.dumps(noise[number:SIZE])) for number in numbers])
                slow.rollback()  # within the time that the sink waits for a lock
                slow.execute("LOCK TABLE event_ids")
            slow.rollback()
        scene.wait_stored("events", EVENTS + 1)
        grown = peak(sink) - before
        assert sink.stop() == 0
    finally:
        if sink.process.poll() is None:
            sink.kill()

    assert scene.count("events") == EVENTS + 1
    assert EVENTS * (SIZE - EVENTS) > 2 * BOUND
    assert grown < BOUND, f"{grown / MIB:.0f} MiB"


def peak(sink: SinkProcess) -> int:
    """Return the most memory that a sink had at once, in bytes."""
    wait_until(lambda: psutil.Process(sink.process.pid).is_running())
    status = Path(f"/proc/{sink.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
