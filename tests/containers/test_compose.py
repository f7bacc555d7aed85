"""`docker-compose.kafka.yml` as an operator runs it: image built from this tree, everything in containers.

`make test-containers` runs these on any Docker with Compose; the suite of every day leaves them out (`--containers`).
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from testcontainers.compose import DockerCompose

from pulsestream.core.kafka import Admin, BrokerError
from pulsestream.core.settings import Settings
from pulsestream.core.topics import TENANTS, tenant_topic
from pulsestream.local.process import free_port
from schemas.records import Alert, Tick
from tests.support.e2e import Tenant, eventually, records_of

REPOSITORY = Path(__file__).parent.parent.parent
LONG_RUNNING = {"relay", "stream", "sink", "notifier", "api", "producer", "producer-simulator", "exchange"}
pytestmark = pytest.mark.timeout(1500)  # the image is built within, and its dependencies fetched


@dataclass(frozen=True, slots=True)
class Composed:
    """The installation: what runs it, its secrets, and a client of its API."""

    compose: DockerCompose
    given: dict[str, str]
    http: httpx.Client

    def register(self, name: str) -> Tenant:
        """Register a tenant under a new slug that begins with `name`."""
        slug = f"{name}-{secrets.token_hex(3)}"
        answer = self.http.post("/api/v1/auth/register/tenant", json={"tenant": slug, "name": name})
        assert answer.status_code == httpx.codes.CREATED, answer.text
        return Tenant(slug, answer.json()["api_key"], self.http)

    def kafka_user(self, user: str, password: str) -> Settings:
        """Return settings of a client outside the containers."""
        bootstrap = f"127.0.0.1:{self.given['KAFKA_PORT']}"
        return Settings(kafka_bootstrap=bootstrap, kafka_username=user, kafka_password=SecretStr(password))

    @property
    def admin(self) -> Settings:
        """Settings of the broker's superuser."""
        return self.kafka_user("admin", self.given["KAFKA_ADMIN_PASSWORD"])

    def run(self, *arguments: str) -> str:
        """Run a subcommand of `docker compose` and return its output."""
        command = [*self.compose.docker_compose_command(), *arguments]
        return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=600).stdout

    def exit_codes(self) -> dict[str, int | None]:
        """Return the exit code of every service of ours that has ended."""
        found = self.compose.get_containers(include_all=True)
        ended = [container for container in found if container.State == "exited"]
        return {str(one.Service): one.ExitCode for one in ended if one.Service in LONG_RUNNING}


def skip_without_containers(config: pytest.Config) -> None:
    if not config.getoption("--containers"):
        pytest.skip("builds an image and starts ten containers: `make test-containers` runs it")
    if shutil.which("docker") is None:
        pytest.skip("there is no `docker` here; install Docker with its compose plugin")
    asked = subprocess.run(["docker", "compose", "ls"], check=False, capture_output=True, text=True, timeout=60)
    if asked.returncode != 0:
        pytest.skip(f"no container runtime answers `docker compose ls`: {asked.stderr.strip()}")


@pytest.fixture(scope="module")
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    skip_without_containers(request.config)
    file = tmp_path_factory.mktemp("compose") / "environment"
    subprocess.run([REPOSITORY / "deploy" / "secrets.sh", file], check=True, timeout=60)
    ports = {"API_PORT": str(free_port()), "KAFKA_PORT": str(free_port())}
    given = dict(line.split("=", 1) for line in file.read_text("utf-8").splitlines()) | ports
    file.write_text("".join(f"{name}={value}\n" for name, value in given.items()), "utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COMPOSE_PROJECT_NAME", f"pulsestream-test-{secrets.token_hex(3)}")
        for name in given.keys() & os.environ.keys():
            patched.delenv(name)  # Compose would prefer it to the file's
        compose = DockerCompose(
            REPOSITORY, "docker-compose.kafka.yml", env_file=str(file), build=True, profiles=["simulator"]
        )
        url = f"http://127.0.0.1:{given['API_PORT']}"
        with compose, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
            yield Composed(compose, given, http)


@contextmanager
def logs_shown(installation: Composed) -> Iterator[None]:
    """Print the ends of all logs where the block fails."""
    try:
        yield
    except BaseException:
        print(installation.run("logs", "--tail", "40"))  # noqa: T201 - pytest shows it with the failure
        raise


def fed(installation: Composed, name: str) -> Tenant:
    """Return a new tenant that gets the simulated BTC-USD and has a rule that every price fulfils."""
    tenant = installation.register(name)
    tenant.subscribe("simulator", ["BTC-USD"])
    tenant.create_rule({"name": "any-price", "product": "BTC-USD", "condition": {"type": "price", "above": 1}})
    return tenant


def found(tenant: Tenant, count: int, **query: str) -> list[dict[str, Any]]:
    """Wait until a search finds `count` rows, and return them, oldest first."""
    rows: list[dict[str, Any]] = []

    def there() -> None:
        rows[:] = tenant.search(order="asc", limit=count, **query)["rows"]
        assert len(rows) == count, f"{len(rows)} rows of {query}"

    eventually(there, timeout=120)
    return rows


def test_a_simulated_tick_is_on_its_topic_a_row_that_search_finds_and_fires_an_alert(installation: Composed) -> None:
    with logs_shown(installation):
        tenant = fed(installation, "path")
        rows = found(tenant, 5, dataset="ticks", product="BTC-USD")
        [alert_row] = found(tenant, 1, dataset="alerts")
        ticks = {tick.event_id: tick for tick in records_of(installation.admin, tenant.slug, "ticks", Tick)}
        alerts = records_of(installation.admin, tenant.slug, "alerts", Alert)

    assert {row["exchange"] for row in rows} == {"simulator"}
    assert [(row["price"], row["sequence"]) for row in rows] == [
        (ticks[row["event_id"]].price, ticks[row["event_id"]].sequence) for row in rows
    ]
    assert (alerts[0].alert_id, alerts[0].state) == (alert_row["alert_id"], "firing")
    assert alerts[0].value in {tick.price for tick in ticks.values()}


def test_the_broker_takes_each_service_with_its_own_password_and_rights_only(installation: Composed) -> None:
    tenant = fed(installation, "rights")
    found(tenant, 1, dataset="ticks")
    producer = installation.kafka_user("ps-producer", installation.given["KAFKA_PRODUCER_PASSWORD"])
    stranger = installation.kafka_user("ps-producer", installation.given["KAFKA_SINK_PASSWORD"])

    assert tenant_topic(tenant.slug, "ticks") in Admin(producer).topics()
    with pytest.raises(BrokerError, match=r"authoriz|AUTHORIZATION"):
        Admin(producer).grow(TENANTS, 2)
    with pytest.raises(BrokerError):
        Admin(stranger).topics()


def test_a_stop_is_clean_and_a_start_goes_on_with_what_was_stored(installation: Composed) -> None:
    with logs_shown(installation):
        tenant = fed(installation, "stopped")
        [first] = found(tenant, 1, dataset="ticks")

        installation.run("stop")
        codes = installation.exit_codes()
        installation.run("up", "--wait")

        assert codes == dict.fromkeys(LONG_RUNNING, 0)
        assert found(tenant, 1, dataset="ticks") == [first]
        stored = len(tenant.walk(dataset="ticks", limit=1000))
        found(tenant, stored + 1, dataset="ticks")
