"""docs/feeds.md says what the code does: its tables, names and commands; tests/integration runs what it shows."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from api.feeds.endpoints import router
from producers.venues.protocol import load, venues
from pulsestream.cli import app
from pulsestream.core.metrics import REGISTRY
from pulsestream.core.settings import PREFIX, Settings

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "feeds.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def rows(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table that begins with this heading line, by their first cell."""
    lines = TEXT[TEXT.index(heading) :].splitlines()[2:]
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        found[first.strip("`")] = others
    return found


def commands() -> Iterator[list[str]]:
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.rstrip("&"), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0] == "pulsestream":
                yield words[1:]


def test_each_exchange_is_in_every_table_of_exchanges() -> None:
    headings = re.findall(r"^\| venue \|.*$", TEXT, re.MULTILINE)

    assert len(headings) == 4
    for heading in headings:
        assert sorted(rows(heading)) == venues()


def test_addresses_limits_and_pages_are_those_of_the_code() -> None:
    exchanges = rows("| venue | WebSocket |")
    limits = rows("| venue | messages/s")
    history = rows("| venue | trades | pages by")

    for name in venues():
        exchange = load(name)
        own, rest = exchange.limits, exchange.rest
        assert exchanges[name][0] == f"`{exchange.url}`"
        shown = [own.messages_per_second, own.products, own.connects_per_minute, own.requests_per_second]
        assert [float(cell) for cell in limits[name][:4]] == shown
        assert (own.max_age is None) is ("as long as it does" in limits[name][4])
        assert own.max_age is None or limits[name][4].startswith(f"{own.max_age / 3600:g} h")
        assert f"{rest.page:,} a page" in history[name][0]
        assert f"{rest.candles_page:,} a page" in history[name][2]
        assert (rest.candles_kept is None) is (history[name][3] == "all")


def test_every_setting_and_metric_that_is_named_exists() -> None:
    metrics = {
        family.name + suffix
        for family in REGISTRY.collect()
        for suffix in ("", "_total" if family.type == "counter" else "")
    }

    named = set(re.findall(rf"{PREFIX}([A-Z_]*[A-Z])\b(?!\*)", TEXT)) - {"KAFKA"}

    assert {name.lower() for name in named} <= set(Settings.model_fields) | {"home"}
    assert named
    assert set(re.findall(r"pulsestream_[a-z_]+", TEXT)) <= metrics


def test_every_command_that_is_shown_exists_with_its_options() -> None:
    seen = set()
    for words in commands():
        command = typer.main.get_command(app)
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in words if word.startswith("--")}
        assert used <= known, f"{command.name}: {used - known}"
        seen.add(command.name)

    assert {"producer", "exchange", "record", "backfill", "doctor", "subscribe"} <= seen


def test_every_route_that_is_shown_exists() -> None:
    shown = {match for block in blocks("sh") for match in re.findall(r"127\.0\.0\.1:8000(/[a-z0-9/]+)", block)}

    assert shown == {route.path for route in router.routes if hasattr(route, "path")} == {"/api/v1/feeds"}


@pytest.mark.parametrize("source", blocks("python"))
def test_python_that_is_shown_runs(source: str) -> None:
    said = io.StringIO()

    with contextlib.redirect_stdout(said):
        exec(compile(source, "docs/feeds.md", "exec"), {})

    assert all(name in said.getvalue() for name in venues())


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[a-z]+)?\)", TEXT):
        assert (DOCS / target).exists(), target


def test_readme_and_architecture_lead_to_the_document() -> None:
    assert "docs/feeds.md" in (DOCS.parent / "README.md").read_text("utf-8")
    assert "(feeds.md" in (DOCS / "architecture.md").read_text("utf-8")
