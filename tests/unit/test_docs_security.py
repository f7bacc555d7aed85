"""docs/security.md says what the code does: its bounds, its pattern, and its check of a key."""

import re
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from api import auth, keys
from api.keys_admin import service

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text("utf-8")
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"


def documented_check() -> Any:
    (source,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(source, "docs/security.md", "exec"), found)
    return found["is_key"]


is_key = documented_check()


def test_its_bounds_are_those_of_the_code() -> None:
    assert f"within {auth.FRESH:.0f} s" in TEXT
    assert f"at most {auth.STALE:.0f} s after" in TEXT
    assert service.MAX_OVERLAP == 7 * 24 * 3600
    assert "(0 to 7 days, by default a day)" in TEXT


def test_its_pattern_finds_every_key_in_a_text_and_its_check_takes_it() -> None:
    made = [keys.generate().text for _ in range(200)]
    text = ",\n".join(f'"X-API-Key": "{key}"' for key in made) + f" and\t{made[0]}\n"

    assert f"    {keys.PATTERN}\n" in TEXT
    assert re.findall(keys.PATTERN, text) == [*made, made[0]]
    assert all(map(is_key, made))


@given(st.text(CHARACTERS, min_size=1, max_size=4), st.integers(0, 70))
def test_its_check_of_what_the_pattern_finds_is_that_of_the_api(typo: str, place: int) -> None:
    text = keys.generate().text
    text = text[:place] + typo + text[place + len(typo) :]

    for found in re.findall(keys.PATTERN, text):
        assert is_key(found) == (keys.parse(found) is not None)


def test_it_is_listed_in_the_readme() -> None:
    assert "docs/security.md" in (ROOT / "README.md").read_text("utf-8")


def test_every_test_that_it_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))

    assert len(named) > 20
    assert [name for name in sorted(named) if f"def {name}(" not in sources] == []
    assert re.findall(r"^\| (API\d+) ", TEXT, re.MULTILINE) == [f"API{number}" for number in range(1, 11)]
