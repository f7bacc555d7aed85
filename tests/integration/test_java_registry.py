"""A Java program at a tenant's topics, with the tenant's own logins: it reads by the registry's schemas, and writes.

The program (`tests/java/registry`) is Kafka's own client, Avro's library and the registry's REST API: it takes the
properties of docs/schemas.md as Confluent's deserialiser and serialiser do, which Maven Central does not have.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulsestream.local.java import cache_folder, find_java
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Event
from tests.support.api import EVENT, installation
from tests.support.e2e import read_topic
from tests.support.logins import Login, open_login

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "tests" / "java" / "registry"
DOCS = (ROOT / "docs" / "schemas.md").read_text("utf-8")
READ_ONLY = {"auto.register.schemas": "false", "use.latest.version": "true"}


@pytest.fixture(scope="module")
def class_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the program by Maven, in a copy."""
    if shutil.which("mvn") is None:
        pytest.skip("Maven is not installed: nothing builds the Java program")
    home = tmp_path_factory.mktemp("java") / "registry"
    shutil.copytree(PROJECT, home)
    fetched = maven(home, "dependency:copy-dependencies", "-DincludeScope=runtime")
    if fetched.returncode:
        pytest.skip(f"Maven cannot fetch what the Java program needs: {fetched.stdout[-300:]}")
    built = maven(home, "compile")
    if "Could not resolve" in built.stdout or "could not be resolved" in built.stdout:
        pytest.skip(f"Maven cannot fetch its compiler: {built.stdout[-300:]}")
    assert built.returncode == 0, built.stdout
    return f"{home / 'target' / 'classes'}:{home / 'target' / 'dependency'}/*"


def maven(home: Path, *goals: str) -> subprocess.CompletedProcess[str]:
    command = ["mvn", "--quiet", "--batch-mode", "--file", str(home / "pom.xml"), *goals]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def own(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Login]:
    folder = tmp_path_factory.mktemp("registry")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as running:
        yield open_login(running.register("java"))


def documented(own: Login) -> dict[str, str]:
    """Return the properties that docs/schemas.md tells Java programs to set, with this tenant's API and key."""
    [snippet] = re.findall(r"```properties\n(.*?)```", DOCS, re.DOTALL)
    lines = (line.partition("=") for line in snippet.splitlines() if not line.startswith("#"))
    key = own.tenant.key
    given = {"http://127.0.0.1:8000": str(own.tenant.http.base_url), "<key id>": key.split("_")[2], "<key>": key}
    found = {name: value for name, _, value in lines}
    for placeholder, value in given.items():
        found = {name: text.replace(placeholder, value) for name, text in found.items()}
    return found


def java(class_path: str, folder: Path, own: Login, settings: dict[str, str], *arguments: str) -> Any:
    """Run the program with the properties that the login came with and these; return how it ended."""
    lines = [own.made["clients"]["java"], *(f"{name}={value}" for name, value in settings.items())]
    path = folder / "client.properties"
    path.write_text("\n".join(lines), "utf-8")
    command = [str(find_java(cache_folder())), "-cp", class_path, "registry.Client", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_a_java_program_reads_what_pulsestream_has_produced(class_path: str, own: Login, tmp_path: Path) -> None:
    own.tenant.call("POST", "/api/v1/ingestion/events", json=EVENT)

    said = java(class_path, tmp_path, own, documented(own), "read", own.topic("events"), "1")

    assert said.returncode == 0, said.stderr
    read = json.loads(said.stdout)
    assert (read["type"], read["source"], json.loads(read["data"])) == (EVENT["type"], EVENT["source"], EVENT["data"])
    assert read["product"] == EVENT["product"]


def test_what_a_java_program_writes_is_a_record_like_any_other(
    class_path: str, own: Login, broker: EmbeddedKafka, tmp_path: Path
) -> None:
    said = java(class_path, tmp_path, own, documented(own), "write", own.topic("events"), "fill-1")

    assert said.returncode == 0, said.stderr
    found = [codec(Event).decode(record.value or b"") for record in read_topic(broker.settings(), own.topic("events"))]
    assert "/java:fill-1" in {event.event_id for event in found}


@pytest.mark.parametrize("without", READ_ONLY)
def test_a_serialiser_that_would_register_is_told_what_to_set(
    class_path: str, own: Login, tmp_path: Path, without: str
) -> None:
    settings = documented(own)
    assert settings.items() >= READ_ONLY.items()
    del settings[without]

    said = java(class_path, tmp_path, own, settings, "write", own.topic("events"), "fill-2")

    assert said.returncode != 0
    assert "auto.register.schemas=false and use.latest.version=true" in said.stderr


def test_another_key_reads_no_schema(class_path: str, own: Login, tmp_path: Path) -> None:
    own.tenant.call("POST", "/api/v1/ingestion/events", json=EVENT | {"id": "for-nobody"})
    wrong = documented(own) | {"basic.auth.user.info": f"nobody:{own.tenant.key}"}

    said = java(class_path, tmp_path, own, wrong, "read", own.topic("events"), "1")

    assert said.returncode != 0
    assert "401" in said.stderr
