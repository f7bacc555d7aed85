"""The sink beside a database that is slow, silent, full or read-only: it waits in its group and loses nothing."""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from pulsestream.core.metrics import REGISTRY
from pulsestream.core.settings import Settings
from pulsestream.local.database import EmbeddedDatabase
from schemas.migrate import migrate
from sinks import source, writer
from sinks.writer import Sink
from tests.support.proxy import Proxy
from tests.support.sinking import Load, Scene, assert_ledger_kept, encoded, event, running_sink, tick, wait_until

DATASETS = ("dlq", "ticks", "events")


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}", sink_batch=500)
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    made.make(*DATASETS)
    yield made
    made.delete_topics()


@pytest.fixture
def proxy(scene: Scene) -> Iterator[Proxy]:
    url = scene.settings.database_url.get_secret_value()
    if "host=" in url:
        pytest.skip("this database is reached by a socket file, and the proxy stands before a port")
    with Proxy(url) as made:
        yield made


def through(scene: Scene, url: str) -> Settings:
    return scene.settings.model_copy(update={"database_url": SecretStr(url)})


def mixed(number: int) -> list[tuple[str, str, bytes | None]]:
    """A tick each, and now and then an event and noise."""
    made = [("ticks", f"P{number % 7}", encoded([tick(number)])[0][1])]
    if number % 10 == 0:
        made.append(("events", f"P{number % 7}", encoded([event(number)])[0][1]))
    if number % 100 == 0:
        made.append(("ticks", "noise", b"noise %d" % number))
    return made


def storage(sink: Sink) -> str:
    return sink.readiness.problems().get("storage", "")


def silent_for(sink: Sink) -> int:
    """Return the seconds that `/readyz` tells."""
    told = re.search(r"on its way for (\d+) s", storage(sink))
    return int(told[1]) if told else 0


def state() -> str:
    """Return the state of the database that the metric tells."""
    names = ("ready", "away", "slow", "full", "read_only")
    value = REGISTRY.get_sample_value
    told = [name for name in names if value("pulsestream_sink_storage", {"state": name}) == 1]
    return told[0] if told else "changing"  # the metric's samples are set one after the other


@pytest.mark.heavy
def test_a_database_that_is_silent_for_longer_than_a_poll_may_last_does_not_cost_the_group(
    scene: Scene, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = {"max.poll.interval.ms": 7000}
    plain = source.consumer_config
    monkeypatch.setattr(source, "consumer_config", lambda settings: plain(settings) | impatient)
    monkeypatch.setattr(writer, "PATIENCE", 1.0)

    with running_sink(through(scene, proxy.url)) as sink, Load(scene, mixed, rate=500) as load:
        scene.wait_stored("ticks", 500)
        member = sink._source._consumer.memberid()
        proxy.flows.clear()
        wait_until(lambda: "slow" in storage(sink), what="the sink says that the database is slow")
        told = (state(), REGISTRY.get_sample_value("pulsestream_sink_paused"))
        wait_until(lambda: silent_for(sink) > 12, what="longer than a poll may last")
        held = scene.stored("ticks")
        proxy.flows.set()
        wait_until(lambda: not sink.readiness.problems(), what="ready again")
        wait_until(lambda: scene.stored("ticks") > held + 1000, what="progress")
        assert sink._source._consumer.memberid() == member
        assert state() == "ready"
    with running_sink(scene.settings):
        assert_ledger_kept(scene, load)
    assert told == ("slow", 1)


@pytest.mark.heavy
def test_a_slow_database_is_followed_with_larger_batches(scene: Scene, proxy: Proxy) -> None:
    with running_sink(through(scene, proxy.url)) as sink, Load(scene, mixed, rate=200) as load:
        scene.wait_stored("ticks", 100)
        before = done()
        scene.wait_stored("ticks", 400)
        quick = rows_a_batch(before)
        proxy.delay = 0.05  # a second for a batch
        before = done()
        wait_until(lambda: done()[0] > before[0] + 5, what="some slow batches")
        slow = rows_a_batch(before)
        assert not sink.readiness.problems()
        proxy.delay = 0.0
    with running_sink(scene.settings):
        assert_ledger_kept(scene, load)
    assert slow > 5 * quick


def done() -> tuple[float, float]:
    """Return how many batches this process has stored, and how many rows."""
    value = REGISTRY.get_sample_value
    rows = (value("pulsestream_sink_rows_total", {"dataset": table}) or 0.0 for table in ("ticks", "events"))
    return value("pulsestream_sink_batch_seconds_count") or 0.0, sum(rows)


def rows_a_batch(before: tuple[float, float]) -> float:
    batches, rows = done()
    return (rows - before[1]) / (batches - before[0])


def test_a_database_that_never_answers_is_given_up_and_asked_anew(
    scene: Scene, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE", 0.5)
    monkeypatch.setattr(writer, "SILENCE", 3.0)

    with running_sink(through(scene, proxy.url)) as sink, Load(scene, mixed, rate=500) as load:
        scene.wait_stored("ticks", 500)
        proxy.flows.clear()
        wait_until(lambda: state() == "away", what="the sink gives the connection up")
        proxy.flows.set()
        wait_until(lambda: not sink.readiness.problems(), what="ready again")
    with running_sink(scene.settings):
        assert_ledger_kept(scene, load)


def test_a_database_that_is_read_only_is_waited_for(scene: Scene) -> None:
    role = "ALTER ROLE ps_sink IN DATABASE {} SET default_transaction_read_only = on"
    name = scene.rows("SELECT current_database()")[0][0]

    with running_sink(scene.settings) as sink, Load(scene, mixed, rate=500) as load:
        scene.wait_stored("ticks", 500)
        with psycopg.connect(scene.url, autocommit=True) as admin:
            admin.execute(role.format(name))
            try:
                end_sessions(admin)
                wait_until(lambda: "read-only" in storage(sink), what="the sink says that it is read-only")
                told = (state(), REGISTRY.get_sample_value("pulsestream_sink_paused"))
            finally:
                admin.execute(f"ALTER ROLE ps_sink IN DATABASE {name} RESET default_transaction_read_only")
        wait_until(lambda: not sink.readiness.problems(), what="ready again")
    with running_sink(scene.settings):
        assert_ledger_kept(scene, load)
    assert told == ("read_only", 1)
    assert state() == "ready"


def end_sessions(admin: psycopg.Connection) -> None:
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'pulsestream-sink' AND datname = current_database()"
    )


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pulsestream-disk-") as folder:
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a small disk cannot be mounted here: {error}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def server() -> Iterator[EmbeddedDatabase]:
    with tempfile.TemporaryDirectory(prefix="pulsestream-database-") as folder:
        database = EmbeddedDatabase(Path(folder) / "database")
        database.start()
        migrate(database.url())
        yield database
        database.stop()


def test_a_disk_that_is_full_is_waited_for_and_what_came_meanwhile_is_stored_once(
    scene: Scene, server: EmbeddedDatabase, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.storage.DOUBT", 2.0)
    scene = Scene(scene.tenant, scene.admin, through(scene, server.url("ps_sink")), server.url())
    put_ticks_on(server, small_disk)

    with running_sink(scene.settings) as sink, Load(scene, mixed, rate=2000) as load:
        wait_until(lambda: "disk is full" in storage(sink), what="the sink says that the disk is full")
        told = (state(), REGISTRY.get_sample_value("pulsestream_sink_paused"))
        tries, said = sink._try_at, set()
        wait_until(lambda: said.add(storage(sink)) or sink._try_at > tries + 3, what="some more attempts")
        assert all("disk is full" in each for each in said), "an attempt is not yet a success"
        subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
        wait_until(lambda: not sink.readiness.problems(), what="ready again")
        wait_until(lambda: state() == "ready")
    with running_sink(scene.settings):
        assert_ledger_kept(scene, load)
    assert told[0] == "full"


def put_ticks_on(server: EmbeddedDatabase, disk: Path) -> None:
    user = server.user()
    folder = disk / "space"
    folder.mkdir()
    if user is not None:
        os.chown(folder, *user)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        admin.execute("ALTER TABLE ticks SET TABLESPACE small")
        admin.execute("ALTER INDEX ticks_pkey SET TABLESPACE small")


@contextmanager
def locked(scene: Scene, table: str) -> Iterator[None]:
    with psycopg.connect(scene.url) as connection:
        connection.execute(f"LOCK TABLE {table}")
        yield


def test_a_batch_grows_while_the_one_before_is_stored_up_to_its_bound(scene: Scene) -> None:
    with running_sink(scene.settings) as sink:
        scene.send("ticks", [tick(0)])
        scene.wait_stored("ticks", 1)
        sizes: list[int] = []
        plain = sink._database.store
        sink._database.store = lambda batch, settle: (  # type: ignore[method-assign]
            sizes.append(sum(move.next_offset - move.expected for move in batch.moves)),
            plain(batch, settle),
        )[1]
        with locked(scene, "ticks"):
            scene.send("ticks", [tick(number) for number in range(1, 2001)])
        scene.wait_stored("ticks", 2001)

    assert max(sizes) == 500
    assert scene.count("ticks") == 2001
