"""Where the peers run: a virtual environment or a Maven build each, made at first use in the user's cache folder.

Pinned, so that figures of different days compare; a folder's name is the digest of what it was made of, so another
pin is another folder. A half-made one is made again.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pulsestream.local.errors import JavaMissingError
from pulsestream.local.java import cache_folder, find_java

ROOT: Final = Path(__file__).parents[2]
"""The folder that holds the package `benchmarks`."""
TIMEOUT: Final = 900.0
"""Seconds that installing one peer may take."""
_JAVA: Final = Path(__file__).parent / "kafka_streams"
_READY: Final = "ready"
_TOLD: Final = 400
"""Characters of a failed installer's output that are passed on."""


class UnavailableError(Exception):
    """A peer cannot be run here; the message says why."""


@dataclass(frozen=True, slots=True)
class PythonPeer:
    """A program of this folder that runs in an environment with these requirements; none: in our own."""

    program: str
    requirements: tuple[str, ...] = ()

    def command(self, orders: Path, *, install: bool) -> list[str]:
        """Return how to run it with its orders; installs what is missing, or raises UnavailableError."""
        python = self._python(install=install) if self.requirements else sys.executable
        return [python, "-m", f"{__package__}.{self.program}", str(orders)]

    def _python(self, *, install: bool) -> str:
        home = place(self.program, "\n".join((sys.version, *self.requirements)))
        python = str(home / "bin" / "python")
        if not is_ready(home, install=install):
            make(home, [sys.executable, "-m", "venv", str(home)], [*_pip(python), *self.requirements])
        return python


@dataclass(frozen=True, slots=True)
class JavaPeer:
    """The Kafka Streams program; `reading` is `whole` or `needed`."""

    reading: str

    def command(self, orders: Path, *, install: bool) -> list[str]:
        """Return how to run it with its orders; builds what is missing, or raises UnavailableError."""
        program = java()
        sources = [_JAVA / "pom.xml", *sorted(_JAVA.glob("src/**/*.java"))]
        home = place("kafka-streams", "\n".join(source.read_text("utf-8") for source in sources))
        if not is_ready(home, install=install):
            build = _build(home)
            shutil.copytree(_JAVA, home)
            make(home, build)
        class_path = f"{home}/target/classes:{home}/target/dependency/*"
        return [str(program), "-cp", class_path, "peers.Windows", str(orders), self.reading]


def environment() -> dict[str, str]:
    """Return the environment of a peer's program: it finds this package, and nothing else of ours."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def place(name: str, made_of: str) -> Path:
    """Return the folder of what is made of something: pins, or sources."""
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    return cache_folder() / "benchmarks" / f"{name}-{digest}"


def _pip(python: str) -> list[str]:
    return [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]


def maven() -> str:
    """Return the program Maven, or raise UnavailableError."""
    found = shutil.which("mvn")
    if found is None:
        raise UnavailableError("Maven is not installed")
    return found


def _build(home: Path) -> list[str]:
    goals = ["compile", "dependency:copy-dependencies", "-DincludeScope=runtime"]
    return [maven(), "--quiet", "--batch-mode", "--file", str(home / "pom.xml"), *goals]


def java() -> Path:
    """Return the program Java, or raise UnavailableError."""
    try:
        return find_java(cache_folder())
    except JavaMissingError as error:
        raise UnavailableError(str(error)) from error


def is_ready(home: Path, *, install: bool) -> bool:
    """Return whether it was made; if not, clear its place, or raise UnavailableError where that is unwanted."""
    if (home / _READY).exists():
        return True
    if not install:
        raise UnavailableError("not installed yet, and --quick installs nothing: run once without it")
    shutil.rmtree(home, ignore_errors=True)
    return False


def make(home: Path, *commands: Sequence[str], finish: Callable[[], None] = lambda: None) -> None:
    """Run what makes a folder, finish it, and note that it is whole; raises UnavailableError."""
    for command in commands:
        _run(command)
    finish()
    (home / _READY).touch()


def _run(command: Sequence[str]) -> None:
    print(f"installing: {' '.join(command[-4:])}", flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-_TOLD:]
        raise UnavailableError(f"{' '.join(command[-4:])} failed: {said}")
