"""docs/dead-letters.md says what the code does: its commands are run, its promises name tests that exist."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation
from tests.support.e2e import Installation

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "dead-letters.md").read_text("utf-8")
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHANGING = (
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "TIME"),
    (re.compile(r"ps\.[a-z0-9-]+\.events\.v1\[\d+\]@\d+"), "ORIGIN"),
)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("docs")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", "sink") as started:
        yield started


def settled(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, stand_in in CHANGING:
        text = pattern.sub(stand_in, text)
    return text


def examples() -> Iterator[tuple[str, str]]:
    """Give each script that is shown with a text below it, and that text."""
    blocks = [(match[1], match[2]) for match in BLOCK.finditer(TEXT)]
    for (kind, script), (after, output) in itertools.pairwise(blocks):
        if (kind, after) == ("sh", "text"):
            yield script, output


@pytest.mark.skipif(shutil.which("curl") is None, reason="the document sends events with curl, which is not installed")
def test_every_command_prints_what_is_shown_below_it(running: Installation, tmp_path: Path) -> None:
    tenant = running.register("docs")
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PULSESTREAM_API_PORT": str(running.api_port),
        "PULSESTREAM_API_KEY": tenant.key,
    }

    printed = []
    for script, _ in examples():
        done = subprocess.run(
            ["bash", "-eu", "-c", script],
            cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2_000:]
        printed.append(settled(done.stdout))

    assert printed == [settled(output) for _, output in examples()]
    assert len(printed) == 4


def test_every_promise_names_a_test_that_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }

    assert named
    assert named <= defined


def test_the_readme_leads_to_the_document() -> None:
    assert "docs/dead-letters.md" in (ROOT / "README.md").read_text("utf-8")
