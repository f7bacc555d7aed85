"""The embedded PostgreSQL: roles, restarts, and what happens when it or its owner ends."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from pulsestream.local.database import EmbeddedDatabase
from pulsestream.local.errors import HomeBusyError
from schemas.migrate import migrate


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pulsestream-database-") as folder:
        yield Path(folder)


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedDatabase]:
    database = EmbeddedDatabase(home / "database")
    database.start()
    yield database
    database.stop()


def test_it_can_be_migrated_and_services_log_in_as_their_roles(server: EmbeddedDatabase) -> None:
    migrate(server.url())

    for role in ("ps_sink", "ps_api", "ps_relay"):
        with psycopg.connect(server.url(role)) as connection:
            row = connection.execute("SELECT current_user").fetchone()

        assert row == (role,)


def test_data_survives_a_crash(server: EmbeddedDatabase) -> None:
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")

    server.kill()
    server.start()

    with psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_it_stops_while_a_client_is_connected(server: EmbeddedDatabase) -> None:
    connection = psycopg.connect(server.url())

    server.stop()

    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    assert server.pid is None


def test_a_second_server_on_one_folder_is_refused(server: EmbeddedDatabase) -> None:
    with pytest.raises(HomeBusyError, match=f"process {server.pid}"):
        EmbeddedDatabase(server.home).start()


def test_a_long_path_still_gets_a_socket(home: Path) -> None:
    database = EmbeddedDatabase(home / ("long" * 30))
    database.start()
    try:
        with psycopg.connect(database.url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        database.stop()


_OWNER = """
import sys, time
from pathlib import Path
from pulsestream.local.database import EmbeddedDatabase
database = EmbeddedDatabase(Path(sys.argv[1]))
database.start()
print(database.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_the_server_ends_when_its_owner_is_killed(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _OWNER, home / "database"], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        server_process = psutil.Process(int(owner.stdout.readline()))

        os.kill(owner.pid, signal.SIGKILL)

        server_process.wait(10)
