"""docs/streams.md: the tests that it leans on are there, and its figures are those of the code."""

import re
from pathlib import Path

from pulsestream.core.settings import Settings
from schemas.validate import MAX_AHEAD, PERIODS
from streams import lane, vigil
from streams.engine import series, transitions
from streams.engine.definitions import WINDOW_SECONDS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "streams.md").read_text("utf-8")
SECOND = 1_000_000


def test_every_test_and_file_that_it_names_is_there() -> None:
    names = set(re.findall(r"`(test_\w+)`", TEXT))
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    linked = re.findall(r"\]\(([^)]+)\)", TEXT)

    assert len(names) > 10
    assert [name for name in sorted(names) if f"def {name}(" not in sources] == []
    assert [link for link in linked if not (ROOT / "docs" / link).exists()] == []


def test_its_figures_are_those_of_the_code() -> None:
    assert f"{series.GRACE // SECOND} s behind the watermark" in TEXT
    assert f"{series.CLOCK_SLACK // SECOND} s past it" in TEXT
    assert f"more than {MAX_AHEAD // SECOND} s ahead" in TEXT
    assert " ".join(WINDOW_SECONDS) in TEXT
    assert " ".join(PERIODS) in TEXT
    assert f"for {vigil.LIMIT // SECOND} s proves" in TEXT
    assert f"not through after {lane.UNCONFIRMED_LIMIT:.0f} s" in TEXT
    assert transitions.BASIS_CHANGED in TEXT
    assert Settings.model_fields["checkpoint_interval"].default < 1  # "several times a second"


def test_readers_find_it() -> None:
    assert "docs/streams.md" in (ROOT / "README.md").read_text("utf-8")
