"""A real schema registry for tests: Apicurio, where a benchmark has fetched it; in memory, on a free port."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pulsestream.local import process
from pulsestream.local.java import cache_folder

_START = 90.0


def runner() -> Path:
    """Return the registry's program; skips the test where there is none."""
    found = sorted(cache_folder().glob("**/apicurio-registry-app-*-runner.jar"))
    if not found or shutil.which("java") is None:
        pytest.skip("no schema registry here: `python -m benchmarks sink` fetches one, and it needs Java")
    return found[-1]


@contextmanager
def schema_registry() -> Iterator[str]:
    """Run a registry in this block, and give the URL of its Confluent API."""
    program, port = runner(), process.free_port()
    command = ["java", "-Xmx384m", f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1"]
    command += ["-Dapicurio.ccompat.use-canonical-hash=true", "-jar", str(program)]
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
        try:
            _wait(f"{url}/subjects", running)
            yield url
        finally:
            running.terminate()


def _wait(url: str, running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        assert running.poll() is None, "the registry ended"
        try:
            if httpx.get(url, timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError("the registry did not answer")


def register(url: str, subject: str, schema: str) -> int:
    """Register a schema and return its id."""
    answer = httpx.post(f"{url}/subjects/{subject}/versions", json={"schema": schema}, timeout=10, trust_env=False)
    assert answer.is_success, answer.text
    return int(answer.json()["id"])
