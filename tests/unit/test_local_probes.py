"""Probes against real sockets, and finding Java among real executables."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pulsestream.core.health import OpsServer, Readiness
from pulsestream.local import java, probe, process


@pytest.fixture
def closed_port() -> int:
    return process.free_port()


def test_a_ready_process_has_no_problem() -> None:
    server = OpsServer(0, Readiness())
    server.start()

    problem = probe.http_problem(f"http://127.0.0.1:{server.port}/readyz")

    server.stop()
    assert problem is None


def test_an_unready_process_says_what_it_lacks() -> None:
    readiness = Readiness()
    readiness.add("subscriptions", lambda: "not read yet")
    server = OpsServer(0, readiness)
    server.start()

    problem = probe.http_problem(f"http://127.0.0.1:{server.port}/readyz")

    server.stop()
    assert problem == "subscriptions: not read yet"


@pytest.fixture
def teapot() -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(418)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_answer_of_another_kind_is_a_problem(teapot: int) -> None:
    assert probe.http_problem(f"http://127.0.0.1:{teapot}/readyz") == f"http://127.0.0.1:{teapot}/readyz answers 418"


def test_a_closed_port_is_a_problem(closed_port: int) -> None:
    assert probe.tcp_problem("127.0.0.1", closed_port) == f"port {closed_port} is not open yet"
    assert probe.http_problem(f"http://127.0.0.1:{closed_port}/readyz") is not None


def test_an_exchange_is_reachable_only_if_something_listens(closed_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        assert probe.reachable(f"ws://127.0.0.1:{port}")
        assert probe.tcp_problem("127.0.0.1", port) is None
    assert not probe.reachable(f"ws://127.0.0.1:{closed_port}")


def test_a_listener_that_speaks_no_tls_is_not_the_live_exchange() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert not probe.reachable(f"wss://127.0.0.1:{listening.getsockname()[1]}", timeout=0.3)


def test_a_free_port_lies_below_those_of_outgoing_connections() -> None:
    port = process.free_port()

    assert port < 32_000
    with socket.create_server(("127.0.0.1", port)):
        assert not process.port_is_free(port)


def _java(folder: Path, banner: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{banner}' >&2\n", "utf-8")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_202"', 8),
        ("Segmentation fault", 0),
    ],
)
def test_the_version_is_read_from_what_java_says(tmp_path: Path, banner: str, version: int) -> None:
    assert java.java_version(_java(tmp_path, banner)) == version


def test_the_first_java_that_is_new_enough_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _java(tmp_path / "old", 'openjdk version "11.0.2"')
    new = _java(tmp_path / "new", 'openjdk version "21.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", str(new.parent))

    assert java.find_java(tmp_path) == new


def test_jars_that_are_known_and_there_need_no_resolution(tmp_path: Path) -> None:
    jar = tmp_path / "kafka.jar"
    jar.touch()
    (tmp_path / f"kafka-{java.KAFKA_VERSION}.classpath").write_text(str(jar), "utf-8")

    assert java.class_path(tmp_path) == str(jar)
