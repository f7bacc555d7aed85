"""Where search is measured: a database of its own with events of many tenants, and `pulsestream api` on it.

The events are loaded as ps_sink by COPY, in the order of time and in transactions, so that the tables are as a sink
leaves them: the tenants' rows lie side by side. The API works as ps_api, with row level security; it needs no
broker for searches and gets none.
"""

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import httpx
import psutil
import psycopg
from psycopg import sql

from benchmarks.sink_stand import running_server
from pulsestream.core.settings import environment
from pulsestream.local import process
from schemas.migrate import migrate

TENANTS: Final = 50
SPAN: Final = timedelta(days=28)
"""The events' times, up to the present."""
PRODUCTS: Final = 40
STRATEGIES: Final = 50
ACCOUNTS: Final = 2000
_BATCH: Final = 100_000
"""Rows of a transaction."""
_BYTES_A_ROW: Final = 1200
"""On disk, with indexes and the log, roughly."""
_START: Final = 60.0
_EVENTS: Final = """
COPY (
    SELECT 'search-' || n %% %(tenants)s, 'desk:' || n,
           'order.' || (ARRAY['placed', 'filled', 'cancelled', 'rejected', 'amended'])[1 + h %% 5], '/desk/' || h %% 16,
           'P' || (h >> 4) %% %(products)s || '-USD', at, at + INTERVAL '5 milliseconds',
           jsonb_build_object(
               'order_id', 'o-' || n, 'side', (ARRAY['buy', 'sell'])[1 + (h >> 3) %% 2],
               'strategy', 's' || (h >> 7) %% %(strategies)s, 'size', h %% 4096 / 64.0,
               'account', jsonb_build_object('id', (h >> 9) %% %(accounts)s, 'kind', 'spot')),
           at + INTERVAL '20 milliseconds'
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
    CROSS JOIN LATERAL (SELECT hashint8(n)::bigint + 2147483648 AS h, %(start)s + n * %(step)s AS at) AS made
) TO STDOUT (FORMAT BINARY)
"""
_LOAD: Final = """
COPY events (tenant, event_id, type, source, product, time, received_time, data, appended_at) FROM STDIN (FORMAT BINARY)
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A database with events: `rows` of them from `start` on, tenant i with every TENANTS-th."""

    url: str
    rows: int
    start: datetime
    is_hypertable: bool

    def moment(self, share: float) -> datetime:
        """Return the time at a share of the span."""
        return self.start + SPAN * share


@contextmanager
def loaded(rows: int) -> Iterator[Loaded]:
    """Make a database, load it, and drop it afterwards; raises SystemExit where the disk has no room."""
    with running_server() as server:
        name = f"ps_bench_search_{secrets.token_hex(4)}"
        with psycopg.connect(server, autocommit=True) as admin:
            _check_room(admin, rows)
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield load(_url(server, name), rows)
        finally:
            with psycopg.connect(server, autocommit=True) as admin:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def load(url: str, rows: int) -> Loaded:
    """Migrate a database and fill it; all indexes but the primary key are built when the rows are there."""
    migrate(url)
    start = datetime.now(UTC) - SPAN
    with psycopg.connect(url, autocommit=True) as admin:
        indexes = _drop_indexes(admin)
        _copy(url, rows, start)
        _build(admin, indexes)
        admin.execute("VACUUM (ANALYZE) events")
        admin.execute("CHECKPOINT")
        hyper = admin.execute("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
    return Loaded(url, rows, start, hyper == (1,))


def _drop_indexes(admin: psycopg.Connection) -> list[str]:
    """Drop all indexes of events but the primary key; return the statements that make them."""
    found = admin.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'events' AND schemaname = 'public'"
        " AND indexname <> 'events_pkey'"
    ).fetchall()
    for name, _ in found:
        admin.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    return [definition for _, definition in found]


def _build(admin: psycopg.Connection, indexes: Sequence[str]) -> None:
    admin.execute("SET maintenance_work_mem = '1GB'")
    for definition in indexes:
        began = time.monotonic()
        admin.execute(sql.SQL(definition))  # what the server said of an index of ours
        print(f"{definition.split()[2]}: {time.monotonic() - began:.0f} s", flush=True)


def _copy(url: str, rows: int, start: datetime) -> None:
    began = time.monotonic()
    with psycopg.connect(url) as maker, psycopg.connect(_url(url, user="ps_sink"), autocommit=True) as sink:
        for first in range(0, rows, _BATCH):
            bound = {"first": first, "last": min(first + _BATCH, rows) - 1, "start": start, "step": SPAN / rows}
            bound |= {"tenants": TENANTS, "products": PRODUCTS, "strategies": STRATEGIES, "accounts": ACCOUNTS}
            with psycopg.ClientCursor(maker).copy(_EVENTS, bound) as made, sink.cursor().copy(_LOAD) as taken:
                for block in made:
                    taken.write(block)
            if (first // _BATCH) % 10 == 0:
                per_second = (first + _BATCH) / (time.monotonic() - began)
                print(f"{first + _BATCH:,} rows, {per_second:,.0f}/s", flush=True)


@dataclass(frozen=True, slots=True)
class Api:
    """A running API, its process, a key of each tenant, and its database."""

    port: int
    pid: int
    keys: tuple[str, ...]
    database: str

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of its process and of its sessions, those of another machine's server left out."""
        with psycopg.connect(self.database) as admin:
            sessions = admin.execute(
                "SELECT pid FROM pg_stat_activity WHERE usename = 'ps_api' AND datname = current_database()"
            ).fetchall()
        return sum(map(_cpu_seconds, [self.pid, *(pid for (pid,) in sessions)]))

    def connect(self) -> HTTPConnection:
        """Open a connection that is kept."""
        return HTTPConnection("127.0.0.1", self.port, timeout=60)


@contextmanager
def serving(stored: Loaded) -> Iterator[Api]:
    """Start the API as its role, and register the tenants."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pulsestream-search-")))
        port = process.free_port()
        settings = {
            "home": folder,
            "api_port": port,
            "kafka_bootstrap": f"127.0.0.1:{process.free_port()}",
            "kafka_username": "ps-api",
            "kafka_password": secrets.token_hex(8),
            "database_url": _url(stored.url, user="ps_api"),
            "key_pepper": secrets.token_hex(16),
            "limits": "off",
        }
        command = [sys.executable, "-m", "pulsestream.cli", "api"]
        log = folder / "api.log"
        running = process.spawn(command, log=log, env=environment(settings))
        stack.callback(process.stop, running)
        _await_api(port, log)
        keys = tuple(_register(port, f"search-{number}") for number in range(TENANTS))
        yield Api(port, running.pid, keys, stored.url)


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _await_api(port: int, log: Path) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/livez", timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit(f"the API did not start within {_START:.0f} s:\n{process.last_lines(log, 40)}")


def _register(port: int, slug: str) -> str:
    url = f"http://127.0.0.1:{port}/api/v1/auth/register/tenant"
    answer = httpx.post(url, json={"tenant": slug, "name": slug}, timeout=30, trust_env=False)
    answer.raise_for_status()
    return str(answer.json()["api_key"])


def _check_room(admin: psycopg.Connection, rows: int) -> None:
    row = admin.execute("SHOW data_directory").fetchone()
    folder = row[0] if row else ""
    if not os.path.isdir(folder):  # noqa: PTH112 - another machine's, perhaps
        return
    free, needed = shutil.disk_usage(folder).free, rows * _BYTES_A_ROW
    if free < 2 * needed:
        raise SystemExit(f"{rows:,} rows need about {needed / 1e9:.0f} GB, and twice as much should be free: {folder}")


def _url(url: str, name: str | None = None, user: str | None = None) -> str:
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    path = parts.path if name is None else f"/{name}"
    return urlunsplit(parts._replace(netloc=f"{user or login}@{host}", path=path))
