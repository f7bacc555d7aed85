"""Fixtures on real parts: one broker and one database server for the session, a fresh database for each test.

With `pytest -n 2` each process has a broker of its own; a database server that is given or the tool's serves both.

The database server is PULSESTREAM_TEST_DATABASE_URL (a superuser's URL), else TimescaleDB by the tool in the shared
folder (PULSESTREAM_SHARED, else ../shared), else the embedded PostgreSQL.
"""

import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hypothesis
import psycopg
import pytest
import structlog
from pydantic import SecretStr

from pulsestream.core.errors import PulseStreamError
from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs, tenant_topic_spec
from pulsestream.core.settings import Settings
from pulsestream.local.database import EmbeddedDatabase
from pulsestream.local.java import cache_folder, find_runtime
from pulsestream.local.kafka import EmbeddedKafka
from schemas.migrate import migrate
from tests.support.databases import PLAIN, TIMESCALEDB, NamedDatabase, execute, has_timescale
from tests.support.rounds import Rounds

REPOSITORY = Path(__file__).parent.parent
SHARED = Path(os.environ.get("PULSESTREAM_SHARED") or REPOSITORY.parent / "shared")
BROKER = pytest.StashKey[EmbeddedKafka]()
ROLES = {"sink": "ps_sink", "api": "ps_api", "relay": "ps_relay", "notifier": "ps_notifier", "admin": "postgres"}

# How long an example takes is the machine's affair.
for profile, examples in (("everyday", 50), ("thorough", 500)):
    hypothesis.settings.register_profile(
        profile, max_examples=examples, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
hypothesis.settings.load_profile("everyday")


@pytest.fixture(scope="session", autouse=True)
def loggers_that_forget() -> Iterator[None]:
    """Let no logger keep what a command that runs within the tests set up: `pytest_runtest_teardown` takes it back."""
    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            structlog, "configure", lambda **given: configure(**given | {"cache_logger_on_first_use": False})
        )
        yield


def pytest_runtest_teardown() -> None:
    structlog.reset_defaults()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--heavy", action="store_true", help="run what takes long by nature, too")
    parser.addoption("--thorough", action="store_true", help="likewise, and repeat it many times")
    parser.addoption("--containers", action="store_true", help="run tests/containers, which build and start images")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "heavy: takes long by nature; `make faults` runs it")
    if config.getoption("--thorough"):
        hypothesis.settings.load_profile("thorough")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--heavy") or config.getoption("--thorough"):
        return
    left_out = pytest.mark.skip(reason="takes long by nature: `make faults` runs it (--heavy, --thorough)")
    for item in items:
        if item.get_closest_marker("heavy"):
            item.add_marker(left_out)


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> Rounds:
    thorough = bool(request.config.getoption("--thorough"))
    return lambda few, many: many if thorough else few


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"recorded data is not there: {folder}")
    return folder


@pytest.fixture(scope="module", autouse=True)
def no_topics_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Workers and sinks read every tenant: what one module left would be another's work, and its noise."""
    yield
    kafka = request.session.stash.get(BROKER, None)
    if kafka is not None:
        _empty(kafka.settings())


@pytest.fixture(scope="session", autouse=True)
def kafka_is_fetched(request: pytest.FixtureRequest) -> None:
    """Several processes must not fetch the broker at once: the first one does."""
    if hasattr(request.config, "workerinput"):
        with _one_at_a_time("kafka"), suppress(PulseStreamError):  # without Java: the tests that need it say so
            find_runtime(cache_folder())


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[EmbeddedKafka]:
    home = Path(tempfile.mkdtemp(prefix="pulsestream-kafka-"))
    kafka = EmbeddedKafka(home)
    try:
        kafka.start()
        settings = kafka.settings()
        Admin(settings).create(platform_topic_specs(settings))
        request.session.stash[BROKER] = kafka
        yield kafka
    finally:
        kafka.kill()  # nobody needs it again, and a clean stop takes seconds
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def given_server() -> str | None:
    """The server that is given, or the tool's, which is TimescaleDB; None: there is neither."""
    given = os.environ.get("PULSESTREAM_TEST_DATABASE_URL")
    tool = SHARED / "tools" / "timescaledb"
    if given or not tool.exists() or os.geteuid() != 0:
        return given
    with _one_at_a_time("database"):
        said = subprocess.run([tool, "start"], stdout=subprocess.PIPE, text=True, check=True, timeout=280)
    return said.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[str]:
    home = Path(tempfile.mkdtemp(prefix="pulsestream-database-"))
    server = EmbeddedDatabase(home)
    try:
        server.start()
        yield server.url()
    finally:
        server.stop()
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def database_server(request: pytest.FixtureRequest, given_server: str | None) -> str:
    """The server of a test; `tests.support.databases.BOTH_KINDS` runs it on either kind, one after the other."""
    kind = getattr(request, "param", None)
    if kind == TIMESCALEDB and not (given_server and has_timescale(given_server)):
        pytest.skip("no TimescaleDB is given: PULSESTREAM_TEST_DATABASE_URL names a server that has it")
    if given_server and kind != PLAIN:
        return given_server
    server: str = request.getfixturevalue("embedded_server")
    return server


@pytest.fixture(scope="session")
def templates() -> Iterator[dict[str, str]]:
    """By server, a migrated database that nobody is connected to."""
    made: dict[str, str] = {}
    yield made
    for server, name in made.items():
        with suppress(psycopg.OperationalError):  # an embedded server may have been stopped before
            execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_template(database_server: str, templates: dict[str, str]) -> str:
    """A migrated database that nobody is connected to: copies of it cost 50 ms instead of a migration."""
    if database_server not in templates:
        name = f"ps_test_template_{secrets.token_hex(4)}"
        execute(database_server, f"CREATE DATABASE {name}")
        migrate(NamedDatabase(database_server, name).url())
        execute(database_server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        execute(database_server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        templates[database_server] = name
    return templates[database_server]


@pytest.fixture
def database(database_server: str, migrated_template: str) -> Iterator[NamedDatabase]:
    name = f"ps_test_{secrets.token_hex(6)}"
    execute(database_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield NamedDatabase(database_server, name)
    execute(database_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def service_settings(broker: EmbeddedKafka, database: NamedDatabase, tmp_path: Path) -> Callable[..., Settings]:
    """`service_settings("sink", **overrides)`: what a process of that service would be given."""

    def build(service: str, **overrides: object) -> Settings:
        user = "admin" if service == "admin" else f"ps-{service}"
        role = ROLES.get(service)
        values: dict[str, object] = {
            "home": tmp_path,
            "kafka_bootstrap": broker.bootstrap,
            "kafka_username": user,
            "kafka_password": SecretStr(broker.password(user)),
            "database_url": SecretStr(database.url(role) if role else ""),
            "key_pepper": SecretStr("pepper-of-the-tests"),
            "api_port": 0,
        }
        return Settings(**(values | overrides))  # type: ignore[arg-type] # the fields check their own values

    return build


@pytest.fixture
def tenant() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def make_topics(broker: EmbeddedKafka) -> Callable[..., list[str]]:
    """`make_topics(tenant, "stats", "ticks")` creates these topics as the reconciler would; returns their names."""

    def build(tenant: str, *datasets: str) -> list[str]:
        settings = broker.settings()
        return Admin(settings).create([tenant_topic_spec(settings, tenant, dataset) for dataset in datasets])

    return build


@contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / f"pulsestream-tests-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _empty(settings: Settings) -> None:
    """Delete every topic but Kafka's own, and make the platform's anew."""
    admin = Admin(settings)
    deadline = time.monotonic() + 30
    while left := [name for name in admin.topics() if not name.startswith("__")]:
        assert time.monotonic() < deadline, f"topics are not deleted: {left}"
        admin.delete(left)
    admin.create(platform_topic_specs(settings))
