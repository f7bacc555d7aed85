"""docker-compose.kafka.yml and what belongs to it hold together: health checks, secrets, settings, names, limits."""

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pulsestream.core.settings import PREFIX, Settings
from pulsestream.local.access import ADMIN, SERVICES
from pulsestream.local.roles import SERVICES as ROLES

REPOSITORY = Path(__file__).parent.parent.parent
TEXT = (REPOSITORY / "docker-compose.kafka.yml").read_text("utf-8")
DOCKERFILE = (REPOSITORY / "deploy" / "Dockerfile").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
PARTS: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"migrate", "admin"}
"""Services that run one command and end."""
REQUIRED = re.compile(r"\$\{(\w+):\?run make secrets\}")
HOLDS_A_SECRET = re.compile(r"PASSWORD|PEPPER|SECRET|LOGINS|DATABASE_URL|JAAS_CONFIG")


def environment(name: str) -> dict[str, str]:
    return {key: str(value) for key, value in PARTS[name].get("environment", {}).items()}


def without_required(value: str) -> str:
    return REQUIRED.sub("", value)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secrets") / ".env"
    subprocess.run([REPOSITORY / "deploy" / "secrets.sh", file], check=True, capture_output=True, timeout=30)
    return file


def entries(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text("utf-8").splitlines())


def test_every_service_that_stays_has_a_health_check_and_those_that_end_have_none() -> None:
    checks = {name: part["healthcheck"] for name, part in PARTS.items()}

    assert {name for name, check in checks.items() if check == {"disable": True}} == ONCE
    assert all({"test", "interval", "timeout", "start_period"} <= checks[name].keys() for name in PARTS.keys() - ONCE)


def test_no_value_holds_a_secret_and_every_secret_has_to_be_given() -> None:
    secret_values = [
        (name, key, value) for name in PARTS for key, value in environment(name).items() if HOLDS_A_SECRET.search(key)
    ]

    assert len(secret_values) > 15
    for name, key, value in secret_values:
        if key == "KAFKA_LISTENER_NAME_HOST_SCRAM___SHA___256_SASL_JAAS_CONFIG":
            assert "password" not in value
            continue
        assert REQUIRED.search(value), f"{name}: {key}"
        assert not re.search(r'password="[^"]', without_required(value)), f"{name}: {key}"
    assert set(re.findall(r"\$\{(\w+)", TEXT)) - set(REQUIRED.findall(TEXT)) == {"API_PORT", "KAFKA_PORT"}


def test_the_generated_secrets_are_those_that_the_file_asks_for(generated: Path) -> None:
    assert set(entries(generated)) == set(REQUIRED.findall(TEXT))


def test_generated_secrets_are_random_private_and_fit_into_addresses(generated: Path) -> None:
    values = list(entries(generated).values())

    assert len(set(values)) == len(values)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32}", value) for value in values)
    assert stat.S_IMODE(generated.stat().st_mode) == 0o600


def test_secrets_that_are_there_stay_and_missing_ones_are_added(generated: Path, tmp_path: Path) -> None:
    kept = [line for line in generated.read_text("utf-8").splitlines() if not line.startswith("KEY_PEPPER")]
    file = tmp_path / ".env"
    file.write_text("\n".join([*kept, "API_PORT=9000", "KEY_PEPPER="]), "utf-8")  # and no end of line

    subprocess.run([REPOSITORY / "deploy" / "secrets.sh", file], check=True, capture_output=True, timeout=30)

    lines = file.read_text("utf-8").splitlines()
    assert lines[: len(kept) + 1] == [*kept, "API_PORT=9000"]
    assert len(entries(file)["KEY_PEPPER"]) == 32


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(rf"{PREFIX}(\w+)", TEXT + DOCKERFILE))

    assert named <= {name.upper() for name in Settings.model_fields}
    assert {"KAFKA_BOOTSTRAP", "DATABASE_URL", "KEY_PEPPER"} <= named


@pytest.mark.parametrize("service", sorted(ROLES))
def test_each_service_logs_in_as_itself(service: str) -> None:
    given = environment(service)
    role = ROLES[service]
    url = given.get("PULSESTREAM_DATABASE_URL", "")

    assert PARTS[service]["command"] == [service]
    assert given["PULSESTREAM_KAFKA_USERNAME"] == f"ps-{service}"
    assert given["PULSESTREAM_KAFKA_PASSWORD"] == f"${{KAFKA_{service.upper()}_PASSWORD:?run make secrets}}"
    assert url.startswith(f"postgresql://{role}:${{DATABASE_{service.upper()}_PASSWORD:?") if role else url == ""


def test_migrate_gives_every_service_the_password_it_logs_in_with() -> None:
    given = environment("migrate")
    kafka = {f"{user}:${{KAFKA_{user[3:].upper()}_PASSWORD:?run make secrets}}" for user in SERVICES}
    roles = {f"{role}:${{DATABASE_{role[3:].upper()}_PASSWORD:?run make secrets}}" for role in ROLES.values() if role}

    assert given["PULSESTREAM_KAFKA_USERNAME"] == ADMIN
    assert set(given["PULSESTREAM_KAFKA_LOGINS"].split(",")) == kafka
    assert set(given["PULSESTREAM_DATABASE_LOGINS"].split(",")) == roles


def test_only_the_api_knows_the_pepper() -> None:
    assert [name for name in PARTS if "PULSESTREAM_KEY_PEPPER" in environment(name)] == ["api"]


def test_ports_are_published_on_this_machine_only() -> None:
    published = [port for part in PARTS.values() for port in part.get("ports", [])]

    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_images_are_pinned_and_memory_processors_and_stops_are_bounded() -> None:
    assert all(re.search(r":\d+\.\d+\.\d+", part["image"]) for part in PARTS.values())
    assert all({"cpus", "memory"} <= part["deploy"]["resources"]["limits"].keys() for part in PARTS.values())
    assert all("stop_grace_period" in part for part in PARTS.values())


def test_services_of_ours_have_no_rights_over_their_container() -> None:
    for name in PARTS.keys() - {"kafka", "database"}:
        part = PARTS[name]
        assert part["read_only"] is True, name
        assert part["cap_drop"] == ["ALL"], name
        assert part["security_opt"] == ["no-new-privileges:true"], name
        assert part["image"] == PARTS["migrate"]["image"], name


def test_services_wait_for_the_migration_and_the_migration_for_broker_and_database() -> None:
    assert PARTS["migrate"]["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "database": {"condition": "service_healthy"},
    }
    for service in ROLES:
        assert PARTS[service]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_the_database_cannot_be_reached_from_outside_nor_by_who_does_not_need_it() -> None:
    networks: dict[str, dict[str, Any]] = COMPOSE["networks"]
    users = {name for name, part in PARTS.items() if "storage" in part["networks"]}

    assert networks["storage"]["internal"] is True
    assert users == {"database", "migrate", "admin", "relay", "sink", "notifier", "api"}


def test_the_image_runs_as_nobody_special_from_hashed_requirements() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert 'ENTRYPOINT ["tini", "--", "pulsestream"]' in DOCKERFILE
    assert "--require-hashes" in DOCKERFILE
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"python:3.11-slim"}


def test_the_image_is_given_every_package_and_nothing_private() -> None:
    packages = re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE)
    let_in = (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
    project = (REPOSITORY / "pyproject.toml").read_text("utf-8")

    assert packages == re.findall(r'"(\w+)"', re.findall(r"^packages = \[(.*)\]", project, re.MULTILINE)[0])
    assert "*" in let_in
    assert {f"!{name}" for name in packages} <= set(let_in)
    assert "!.env" not in let_in
