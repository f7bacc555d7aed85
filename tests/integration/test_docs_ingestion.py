"""docs/ingestion.md says what the code does: its commands are run, its bounds are the code's, its tests exist."""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import admission, body, encodings, http_protocol
from api.ingestion import events, idempotency, publisher
from pulsestream.core.clock import MICROS_PER_SECOND
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation
from tests.support.e2e import Installation

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "ingestion.md").read_text("utf-8")
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("docs")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as started:
        yield started


@pytest.mark.skipif(shutil.which("curl") is None, reason="the document sends events with curl, which is not installed")
def test_every_command_prints_what_is_shown_below_it(running: Installation, tmp_path: Path) -> None:
    blocks = [(match[1], match[2]) for match in BLOCK.finditer(TEXT)]
    shown = [(one[1], other[1]) for one, other in itertools.pairwise(blocks) if (one[0], other[0]) == ("sh", "text")]
    own = {"PULSESTREAM_API_PORT": str(running.api_port), "PULSESTREAM_API_KEY": running.register("docs").key}

    said = subprocess.run(
        ["bash", "-eu", "-c", "\necho; echo ====\n".join(script for script, _ in shown)],
        cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert said.returncode == 0, said.stderr[-2000:]
    assert [part.strip() for part in said.stdout.split("====")] == [output.strip() for _, output in shown]


@pytest.mark.parametrize(
    ("words", "bound"),
    [
        ("{} bytes; 1,048", events.MAX_EVENT),
        ("{} bytes and", events.MAX_BATCH),
        ("{} events", events.MAX_EVENTS),
        ("{} members", encodings.MAX_MEMBERS),
        ("a zstd window of {} MiB", encodings.MAX_WINDOW // 2**20),
        ("{} levels", body.MAX_NESTING),
        ("to {} s ahead", events.MAX_AHEAD // MICROS_PER_SECOND),
        ("{} bytes, 100 headers", http_protocol.MAX_HEAD),
        ("{} headers", http_protocol.MAX_HEADERS),
        ("headers, {} s", int(http_protocol.HEAD_WITHIN)),
        ("arrival | {} s", int(body.ARRIVE_WITHIN)),
        ("{} requests", admission.MAX_REQUESTS),
        ("{} bytes of bodies", admission.MAX_BYTES),
        ("{} records", publisher.QUEUE_RECORDS),
        ("{} MiB | 503", publisher.QUEUE_KIB // 1024),
        ("within {} s", int(publisher.CONFIRM_WITHIN)),
        ("For {} hours", idempotency.WINDOW_HOURS),
    ],
)
def test_every_bound_is_the_codes(words: str, bound: int) -> None:
    assert words.format(f"{bound:,}") in TEXT


def test_every_test_that_is_named_exists() -> None:
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests" / "faults").glob("test_*.py"))

    for name in re.findall(r"`(test_[a-z0-9_]+)`", TEXT):
        assert f"def {name}(" in tests, name
    for path in re.findall(r"`((?:tests|api)/[a-z0-9_/]+\.py)`", TEXT):
        assert (ROOT / path).exists(), path


def test_the_readme_leads_here() -> None:
    assert "docs/ingestion.md" in (ROOT / "README.md").read_text("utf-8")
