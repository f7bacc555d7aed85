"""The sink under kill -9, a zombie that wakes up, and a database that crashes: nothing lost, nothing doubled."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from pulsestream.core.clock import wall_clock
from pulsestream.core.metrics import REGISTRY
from pulsestream.core.settings import Settings
from pulsestream.local.database import EmbeddedDatabase
from schemas.codec import codec
from schemas.migrate import migrate
from schemas.records import Event, Stat, Tick
from sinks import writer
from tests.support.rounds import Rounds
from tests.support.sinking import (
    Load,
    Scene,
    SinkProcess,
    assert_ledger_kept,
    event,
    running_sink,
    stat,
    tick,
    wait_until,
)

DATASETS = ("dlq", "stats", "ticks", "events")
WINDOWS = 50


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}", sink_batch=500)
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    made.make(*DATASETS)
    yield made
    made.delete_topics()


@pytest.fixture
def server() -> Iterator[EmbeddedDatabase]:
    with tempfile.TemporaryDirectory(prefix="pulsestream-database-") as folder:
        database = EmbeddedDatabase(Path(folder) / "database")
        database.start()
        migrate(database.url())
        yield database
        database.stop()


def mixed(number: int) -> list[tuple[str, str, bytes | None]]:
    """A tick each, and now and then an event (one in five of them sent twice), a statistic and noise."""
    made: list[tuple[str, str, bytes | None]] = [("ticks", f"P{number % 7}", codec(Tick).encode(tick(number)))]
    if number % 4 == 0:
        made.append(("stats", "BTC-USD", codec(Stat).encode(stat(number % WINDOWS, number))))
    if number % 10 == 0:
        sent = codec(Event).encode(event(number))
        made += [("events", f"P{(number + copy) % 7}", sent) for copy in range(2 if number % 50 == 0 else 1)]
    if number % 100 == 0:
        made.append(("ticks", "noise", f"noise {number}".encode()))
    return made


def assert_everything_is_stored_once(scene: Scene, load: Load) -> None:
    """Compare the database with what the broker acknowledged."""
    assert_ledger_kept(scene, load)
    newest = {number % WINDOWS: number for number in range(0, load.numbers, 4)}
    held = scene.rows("SELECT event_id, as_of_offset FROM stats WHERE tenant = %s", scene.tenant)
    assert sorted(held) == sorted((stat(window, 0).event_id, number) for window, number in newest.items())


def test_kill_9_under_load_loses_nothing_and_doubles_nothing(scene: Scene, tmp_path: Path, rounds: Rounds) -> None:
    chance = random.Random(7)
    progress = 0
    with Load(scene, mixed, rate=1000) as load:
        for inside in (True, False) * rounds(1, 6):
            sink = SinkProcess(scene.settings, tmp_path / "sink.log")
            goal = progress + chance.uniform(0, 1500)
            wait_until(lambda goal=goal: scene.stored("ticks") > goal, timeout=60, what="progress")
            if inside:
                freeze(scene, sink, in_transaction=True)
            sink.kill()
            progress = scene.stored("ticks")
    with running_sink(scene.settings):
        assert_everything_is_stored_once(scene, load)


def test_sigterm_finishes_the_batch_and_exits_0(scene: Scene, tmp_path: Path) -> None:
    with Load(scene, mixed, rate=1000) as load:
        sink = SinkProcess(scene.settings, tmp_path / "sink.log")
        wait_until(lambda: scene.stored("ticks") > 0, timeout=60)
        code = sink.stop()
    with running_sink(scene.settings):
        assert_everything_is_stored_once(scene, load)

    assert code == 0, (tmp_path / "sink.log").read_text()[-2000:]


def test_a_database_that_crashes_under_load_loses_nothing(
    scene: Scene, server: EmbeddedDatabase, service_settings: Callable[..., Settings], rounds: Rounds
) -> None:
    settings = service_settings(
        "sink", sink_group=scene.settings.sink_group, database_url=SecretStr(server.url("ps_sink")), sink_batch=500
    )
    scene = Scene(scene.tenant, scene.admin, settings, server.url())

    with running_sink(settings) as sink, Load(scene, mixed, rate=1000) as load:
        for _ in range(rounds(2, 10)):
            seen = scene.stored("ticks")
            wait_until(lambda seen=seen: scene.stored("ticks") > seen + 500, timeout=60, what="progress")
            crash(server)
            wait_until(lambda: "storage" in sink.readiness.problems(), what="the sink notices")
            server.start()
        wait_until(lambda: not sink.readiness.problems(), timeout=60, what="recovered")
    with running_sink(settings):
        assert_everything_is_stored_once(scene, load)


def crash(server: EmbeddedDatabase) -> None:
    """`pg_ctl stop -m immediate`: no checkpoint, recovery at the next start."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGQUIT)
    wait_until(lambda: server.pid is None, what="the server ended")


def test_a_database_restored_to_a_point_in_the_past_is_brought_up_to_date_from_the_topics(
    scene: Scene, server: EmbeddedDatabase, service_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = service_settings(
        "sink", sink_group=scene.settings.sink_group, database_url=SecretStr(server.url("ps_sink")), sink_batch=500
    )
    scene = Scene(scene.tenant, scene.admin, settings, server.url())
    data, past = server.home / "data", tmp_path / "past"

    with running_sink(settings) as sink, Load(scene, mixed, rate=500) as load:
        scene.wait_stored("ticks", 200)
        server.stop()
        subprocess.run(["cp", "-a", str(data), str(past)], check=True)
        server.start()
        wait_until(lambda: not sink.readiness.problems(), what="ready after the backup")
        scene.wait_stored("ticks", scene.stored("ticks") + 500)
        reached = scene.stored("ticks")
        crash(server)
        shutil.rmtree(data)
        subprocess.run(["cp", "-a", str(past), str(data)], check=True)
        server.start()
        wait_until(lambda: scene.stored("ticks") > reached, what="what is missing, and more")
        wait_until(lambda: not sink.readiness.problems(), what="ready")
    with running_sink(settings):
        assert_everything_is_stored_once(scene, load)


def test_a_sink_may_start_before_its_database(
    scene: Scene, server: EmbeddedDatabase, service_settings: Callable[..., Settings]
) -> None:
    settings = service_settings(
        "sink", sink_group=scene.settings.sink_group, database_url=SecretStr(server.url("ps_sink"))
    )
    scene = Scene(scene.tenant, scene.admin, settings, server.url())
    scene.send("ticks", [tick(1)])
    server.stop()

    with running_sink(settings) as sink:
        wait_until(lambda: sink._source.unplaced, what="partitions without positions")
        server.start()
        scene.wait_stored("ticks", 1)

    assert scene.count("ticks") == 1


@pytest.mark.heavy
def test_a_sink_stays_in_its_group_while_the_database_is_away(
    scene: Scene,
    server: EmbeddedDatabase,
    service_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "LONGEST_BACKOFF", 1.0)
    settings = service_settings(
        "sink", sink_group=scene.settings.sink_group, database_url=SecretStr(server.url("ps_sink"))
    )
    scene = Scene(scene.tenant, scene.admin, settings, server.url())
    scene.send("ticks", [tick(1)])
    with running_sink(settings) as sink:
        scene.wait_stored("ticks", 1)
        member = sink._source._consumer.memberid()

        crash(server)
        scene.send("ticks", [tick(2)])
        wait_until(lambda: "storage" in sink.readiness.problems(), what="the sink notices")
        paused = REGISTRY.get_sample_value("pulsestream_sink_paused")
        rested = sink._try_at
        wait_until(lambda: sink._try_at > rested + 6.5, timeout=60, what="attempts for longer than the session's 6 s")
        server.start()

        scene.wait_stored("ticks", 2)
        assert sink._source._consumer.memberid() == member
    assert paused == 1
    assert scene.count("ticks") == 2


def test_a_sink_that_sleeps_with_a_batch_in_hand_is_fenced_and_writes_none_of_it(
    scene: Scene, service_settings: Callable[..., Settings], tenant: str
) -> None:
    asleep, wake = threading.Event(), threading.Event()

    def sleepy_clock() -> int:
        if not wake.is_set():
            asleep.set()
            wake.wait(60)
        return wall_clock()

    scene.send("ticks", [tick(number) for number in range(100)], partition=0)
    fenced = REGISTRY.get_sample_value("pulsestream_sink_fenced_total") or 0.0
    with running_sink(scene.settings, clock=sleepy_clock):
        assert asleep.wait(30), "the sink took no batch"
        with running_sink(service_settings("sink", sink_group=f"ps-sink-second-{tenant}")):
            scene.wait_stored("ticks", 100)
            scene.send("ticks", [tick(number) for number in range(100, 150)], partition=0)
            scene.wait_stored("ticks", 150)
        scene.rows("DELETE FROM ticks RETURNING 1")

        wake.set()
        wait_until(lambda: (REGISTRY.get_sample_value("pulsestream_sink_fenced_total") or 0.0) > fenced, what="fence")
        scene.send("ticks", [tick(150)], partition=0)
        scene.wait_stored("ticks", 151)

    assert scene.rows("SELECT event_id FROM ticks") == [(tick(150).event_id,)], "the batch in hand was written"


@pytest.mark.parametrize(
    "in_transaction",
    [pytest.param(False, id="between batches", marks=pytest.mark.heavy), pytest.param(True, id="inside a transaction")],
)
def test_a_zombie_that_wakes_after_another_sink_took_over_stores_nothing(
    scene: Scene, service_settings: Callable[..., Settings], tmp_path: Path, *, in_transaction: bool
) -> None:
    ops_port = free_port()
    zombie_settings = service_settings(
        "sink", sink_group=scene.settings.sink_group, sink_batch=100, ops_port=ops_port, sink_topic_refresh=60.0
    )
    records = 20_000
    scene.send("ticks", [tick(number) for number in range(records)])
    zombie = SinkProcess(zombie_settings, tmp_path / "zombie.log")
    try:
        wait_until(lambda: scene.stored("ticks") > 1000, timeout=60)
        freeze(scene, zombie, in_transaction=in_transaction)
        frozen_at = scene.stored("ticks")
        assert frozen_at < records, "the zombie was done already"

        with running_sink(scene.settings) as sink:
            scene.wait_stored("ticks", records, timeout=60)
            zombie.signal(signal.SIGCONT)
            wait_until(lambda: ready(ops_port), timeout=60, what="the zombie woke up")
            scene.send("ticks", [tick(number) for number in range(records, records + 100)])
            scene.wait_stored("ticks", records + 100)
            assert not sink.readiness.problems()
        assert zombie.stop() == 0
    finally:
        if zombie.process.poll() is None:
            zombie.kill()

    assert scene.count("ticks") == records + 100


def freeze(scene: Scene, sink: SinkProcess, *, in_transaction: bool) -> None:
    """SIGSTOP at a moment when its session is inside, or outside, a transaction."""
    query = (
        "SELECT xact_start IS NOT NULL, state = 'active' AND wait_event IS DISTINCT FROM 'ClientRead'"
        " FROM pg_stat_activity WHERE application_name = 'pulsestream-sink' AND datname = current_database()"
    )
    while True:
        sink.signal(signal.SIGSTOP)
        wait_until(lambda: not scene.rows(query)[0][1], what="the server finished what it was asked")
        if scene.rows(query)[0][0] is in_transaction:
            return
        sink.signal(signal.SIGCONT)


def ready(ops_port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{ops_port}/readyz").status_code == 200


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
