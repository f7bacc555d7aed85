"""The API as a process: how it starts, what stops it, and what it does without its database."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from pulsestream.core.settings import PREFIX, Settings
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import EVENT, RULE, installation, problem
from tests.support.e2e import Installation, Tenant, eventually, installed

SettingsOf = Callable[..., Settings]


def start(settings: Settings, command: str = "api") -> subprocess.CompletedProcess[str]:
    """Run a command that cannot start, and return what it said."""
    names = ("kafka_bootstrap", "kafka_username", "kafka_password", "database_url", "key_pepper", "api_port")
    names += ("limits", "trusted_proxies")
    values = {name: getattr(settings, name) for name in names}
    env = {
        PREFIX + name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
    }
    return subprocess.run(
        [sys.executable, "-m", "pulsestream.cli", command],
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def last_line(said: subprocess.CompletedProcess[str]) -> str:
    return said.stderr.strip().splitlines()[-1]


def test_a_busy_port_is_one_clear_line(service_settings: SettingsOf) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        said = start(service_settings("api", api_port=port))

    assert said.returncode == 2
    assert f"127.0.0.1:{port}" in last_line(said)
    assert "PULSESTREAM_API_PORT" in last_line(said)
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("setting", "words"), [("key_pepper", "PULSESTREAM_KEY_PEPPER"), ("database_url", "PULSESTREAM_DATABASE_URL")]
)
def test_a_missing_secret_is_one_clear_line(service_settings: SettingsOf, setting: str, words: str) -> None:
    said = start(service_settings("api", **{setting: SecretStr("")}))

    assert said.returncode == 2
    assert words in last_line(said)
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(("setting", "value"), [("limits", "free.event=1"), ("trusted_proxies", "*")])
def test_a_wrong_limit_is_one_clear_line(service_settings: SettingsOf, setting: str, value: str) -> None:
    said = start(service_settings("api", **{setting: value}))

    assert said.returncode == 2
    assert f"PULSESTREAM_{setting.upper()} has {value!r}" in last_line(said)
    assert "Traceback" not in said.stderr


def test_a_relay_without_a_database_is_one_clear_line(service_settings: SettingsOf) -> None:
    url = f"postgresql://ps_relay@127.0.0.1:{process.free_port()}/nothing"

    said = start(service_settings("relay", database_url=SecretStr(url)), "relay")

    assert said.returncode == 1
    assert "database" in last_line(said)
    assert "Traceback" not in said.stderr


def test_closed_registration_is_403_and_says_whom_to_ask(
    tmp_path: Path, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> None:
    with installation(tmp_path, broker, database_server, migrated_template, "api", registration="closed") as closed:
        url = f"http://127.0.0.1:{closed.api_port}/api/v1/auth/register/tenant"

        answer = httpx.post(url, json={"tenant": "acme"}, trust_env=False)

        assert "operator" in str(problem(answer, 403, "registration-closed")["detail"])


# ---- without the database ----


@pytest.fixture
def running(
    tmp_path: Path, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    with installation(tmp_path, broker, database_server, migrated_template, "relay", "api") as started:
        yield started


@contextmanager
def database_away(running: Installation) -> Iterator[None]:
    """Let nobody into the database, and put out whoever is in."""
    name = running.database.url().rpartition("/")[2]
    server = running.database.url().removesuffix(name) + "postgres"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def get(running: Installation, tenant: Tenant, path: str) -> httpx.Response:
    url = f"http://127.0.0.1:{running.api_port}{path}"
    return httpx.get(url, headers={"X-API-Key": tenant.key}, timeout=20, trust_env=False)


def test_without_the_database_known_tenants_ingest_and_everything_else_is_503_until_it_is_back(
    running: Installation,
) -> None:
    tenant = running.register("outage")
    tenant.call("POST", "/api/v1/ingestion/events", json=EVENT)
    relay = running.services.pop("relay")
    assert relay.stop() == 0

    with database_away(running):
        problem(get(running, tenant, "/api/v1/rules"), 503, "database-unavailable")
        problem(get(running, tenant, "/api/v1/ingestion/events/search"), 503, "database-unavailable")
        tenant.call("POST", "/api/v1/ingestion/events", json=EVENT | {"id": "2"}, expect=202)

        def not_ready() -> None:
            answer = get(running, tenant, "/readyz")
            assert answer.status_code == 503
            assert "database" in answer.json()["problems"]

        eventually(not_ready)
        assert get(running, tenant, "/livez").status_code == 200

    eventually(lambda: _assert_ok(get(running, tenant, "/api/v1/rules")))
    eventually(lambda: _assert_ok(get(running, tenant, "/readyz")))
    tenant.create_rule(RULE)


def _assert_ok(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text


def test_a_relay_that_loses_the_database_ends_to_be_started_again(running: Installation) -> None:
    relay = running.services.pop("relay")
    with database_away(running):
        assert relay.running is not None
        assert relay.running.wait(30) == 1

    assert "lost the database" in process.last_lines(relay.log, 5)
    assert "Traceback" not in relay.log.read_text()


@pytest.mark.heavy
def test_api_and_relay_stop_in_time_while_the_broker_is_away(
    tmp_path: Path, database_server: str, migrated_template: str
) -> None:
    with installed(tmp_path, database_server, migrated_template) as alone:
        alone.start("relay", "api")
        tenant = alone.register("late")
        tenant.call("POST", "/api/v1/ingestion/events", json=EVENT)
        alone.kafka.kill()
        tenant.create_rule(RULE)
        tenant.call("POST", "/api/v1/ingestion/events", json=EVENT, expect=503)

        began = time.monotonic()
        codes = alone.stop("relay", "api")

        assert codes == {"relay": 0, "api": 0}
        assert time.monotonic() - began < 18
