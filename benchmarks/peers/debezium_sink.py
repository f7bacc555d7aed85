"""The Debezium JDBC sink connector in Kafka Connect, and the schema registry that its Avro converter asks.

All three come from Maven at first use. The registry gives our tick schema the id that stands in the records; in its
copy times carry the name by which the connector knows microseconds, which changes nothing in the bytes.
"""

import json
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from benchmarks.peers import environments
from benchmarks.peers.environments import UnavailableError
from benchmarks.peers.race import SpoiltError
from pulsestream.core.settings import Settings
from pulsestream.local import process
from schemas import registry

_PLACE: Final = Path(__file__).parent / "debezium"
_CONNECTOR: Final = "io.debezium:debezium-connector-jdbc:3.3.1.Final:tar.gz:plugin"
_REGISTRY: Final = "io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all"
_ARCHIVES: Final = (_CONNECTOR, _REGISTRY)
_PROVIDED: Final = "org.apache.kafka,org.slf4j,org.lz4,org.xerial.snappy,com.github.luben"
"""What Connect has already, by Maven's group."""
_GETTER: Final = "org.apache.maven.plugins:maven-dependency-plugin:2.8:get"
"""The registry's parent is not published, and what is newer stumbles over that."""
_CONVERTER: Final = "io.apicurio.registry.utils.converter.AvroConverter"
_READY: Final = 60.0
_LOOK: Final = 0.2


@dataclass(frozen=True, slots=True)
class Running:
    """A connector that stores records: its process, and where it says what it does."""

    connect: Popen[bytes]
    log: Path


@contextmanager
def running(
    settings: Settings, topic: str, tenant: str, database_url: str, folder: Path, *, install: bool
) -> Iterator[Running]:
    """Yield a connector that upserts a topic's ticks into the table of a database, from the topic's beginning.

    Raises UnavailableError when it cannot be had, SpoiltError when it does not start.
    """
    home, java = _home(install=install), str(environments.java())
    folder.mkdir(parents=True)
    port = process.free_port()
    registry_log, connect_log = folder / "registry.log", folder / "connect.log"
    registry_process = process.spawn(_registry_command(java, home, port), log=registry_log)
    try:
        _register(port, registry_log)
        worker, connector = folder / "worker.properties", folder / "connector.properties"
        worker.write_text(_properties(_worker(settings, home, folder)), "utf-8")
        connector.write_text(_properties(_connector(topic, tenant, database_url, port)), "utf-8")
        path = f"{home}/connect/*"
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        command = [java, "-Xmx1g", "-cp", path, main, str(worker), str(connector)]
        connect = process.spawn(command, log=connect_log)
        try:
            yield Running(connect, connect_log)
        finally:
            process.stop(connect, grace=5)
    finally:
        process.stop(registry_process, grace=5)


def _home(*, install: bool) -> Path:
    poms = [_PLACE / "connect.xml", _PLACE / "converter.xml"]
    home = environments.place("debezium", "\n".join([*_ARCHIVES, *(pom.read_text("utf-8") for pom in poms)]))
    if environments.is_ready(home, install=install):
        return home
    maven = [environments.maven(), "--quiet", "--batch-mode"]
    copy = "dependency:copy-dependencies"
    environments.make(
        home,
        [*maven, "--file", str(poms[0]), copy, f"-DoutputDirectory={home}/connect", "-DincludeScope=runtime"],
        [
            *maven,
            *("--file", str(poms[1]), copy, f"-DoutputDirectory={home}/plugins/converter"),
            *("-DincludeScope=runtime", f"-DexcludeGroupIds={_PROVIDED}"),
        ],
        *(
            [*maven, f"-Dmaven.repo.local={home}/maven", _GETTER, f"-Dartifact={artifact}", "-Dtransitive=false"]
            for artifact in _ARCHIVES
        ),
        finish=lambda: _finish(home),
    )
    return home


def _finish(home: Path) -> None:
    """Unpack the archives, and name the converter to Connect, which need not search all classes for it then."""
    for archive, place in (("debezium-connector-jdbc", "plugins"), ("apicurio-registry-app", "registry")):
        [found] = (home / "maven").glob(f"io/*/{archive}/**/*.tar.gz")
        with tarfile.open(found) as packed:
            packed.extractall(home / place, filter="data")
    with zipfile.ZipFile(home / "plugins" / "converter" / "services.jar", "w") as jar:
        jar.writestr("META-INF/services/org.apache.kafka.connect.storage.Converter", f"{_CONVERTER}\n")


def _registry_command(java: str, home: Path, port: int) -> list[str]:
    found = sorted((home / "registry").glob("**/apicurio-registry-app-*-runner.jar"))
    if not found:
        raise UnavailableError(f"{_REGISTRY} holds no runner")
    options = ["-Xmx512m", f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1"]
    return [java, *options, "-Dapicurio.ccompat.use-canonical-hash=true", "-jar", str(found[0])]


def _register(port: int, log: Path) -> None:
    """Register the tick schema once the registry answers; its id has to be the one in the records."""
    released = registry.current("tick")
    text = json.dumps(_with_micros(released.json))
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7/subjects/tick/versions"
    deadline = time.monotonic() + _READY
    while True:
        try:
            answer = httpx.post(url, json={"schema": text}, timeout=10, trust_env=False)
            break
        except httpx.TransportError as error:
            if time.monotonic() > deadline:
                raise SpoiltError(f"the registry does not answer:\n{process.last_lines(log)}") from error
            time.sleep(_LOOK)
    if answer.status_code >= httpx.codes.BAD_REQUEST or answer.json()["id"] != released.schema_id:
        raise SpoiltError(f"the registry gave the schema another id than {released.schema_id}: {answer.text[:200]}")


def _with_micros(node: Any) -> Any:  # JSON
    if isinstance(node, list):
        return [_with_micros(each) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("logicalType") == "timestamp-micros":
        return {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp", "connect.version": 1}
    return {name: _with_micros(value) for name, value in node.items()}


def _worker(settings: Settings, home: Path, folder: Path) -> Mapping[str, object]:
    password = settings.kafka_password.get_secret_value()
    login = f'username="{settings.kafka_username}" password="{password}";'
    access = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": settings.kafka_security,
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.jaas.config": f"org.apache.kafka.common.security.scram.ScramLoginModule required {login}",
    }
    return {
        **access,
        **{f"consumer.{name}": value for name, value in access.items()},
        "consumer.auto.offset.reset": "earliest",
        "offset.storage.file.filename": folder / "offsets",
        "offset.flush.interval.ms": 5000,
        "plugin.path": home / "plugins",
        "plugin.discovery": "service_load",
        "listeners": f"http://127.0.0.1:{process.free_port()}",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": _CONVERTER,
    }


def _connector(topic: str, tenant: str, database_url: str, registry_port: int) -> Mapping[str, object]:
    parts = urlsplit(database_url)
    converter = {
        "url": f"http://127.0.0.1:{registry_port}/apis/registry/v2",
        "as-confluent": "true",
        "use-id": "contentId",
        "headers.enabled": "false",
        "find-latest": "false",
    }
    insert = "org.apache.kafka.connect.transforms.InsertField$Value"
    return {
        "name": topic,
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "tasks.max": 1,
        "topics": topic,
        "connection.url": f"jdbc:postgresql://{parts.hostname}:{parts.port}{parts.path}?reWriteBatchedInserts=true",
        "connection.username": parts.username,
        "connection.password": parts.password or "none",
        "collection.name.format": "ticks",
        "insert.mode": "upsert",
        "primary.key.mode": "record_value",
        "primary.key.fields": "tenant,exchange_time,event_id",
        "schema.evolution": "none",
        "batch.size": 2000,
        "use.reduction.buffer": "false",
        "consumer.override.max.poll.records": 10_000,
        "consumer.override.fetch.min.bytes": 1_000_000,
        "consumer.override.group.id": f"connect-{topic}{parts.path.replace('/', '-')}",
        "transforms": "tenant,appended",
        "transforms.tenant.type": insert,
        "transforms.tenant.static.field": "tenant",
        "transforms.tenant.static.value": tenant,
        "transforms.appended.type": insert,
        "transforms.appended.timestamp.field": "appended_at",
        "value.converter": _CONVERTER,
        **{f"value.converter.apicurio.registry.{name}": value for name, value in converter.items()},
    }


def _properties(values: Mapping[str, object]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())
