"""The command line's help."""

import re
import subprocess
import sys
from collections.abc import Iterator

import typer

from pulsestream.cli import app
from pulsestream.menu.common import list_examples


def helps(menu: typer.Typer, *path: str) -> Iterator[tuple[str, str]]:
    """Give the words of every command, and its help."""
    for command in menu.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        yield " ".join([*path, name]), command.help or ""
    for group in menu.registered_groups:
        assert group.typer_instance is not None
        yield from helps(group.typer_instance, *path, str(group.name))


def test_every_command_shows_examples_of_itself_each_in_a_line_of_its_own() -> None:
    list_examples(app)

    for words, text in helps(app):
        examples = text.partition("\b\nExamples:\n")[2].splitlines()
        assert examples, words
        assert all(re.search(r"(^|\s|=)(pulsestream|zstdcat) ?", line) for line in examples), words
        assert any(f"pulsestream {words}" in line for line in examples), words
        assert not any(";" in line for line in examples), words


def test_the_help_keeps_the_lines_of_the_examples() -> None:
    command = [sys.executable, "-m", "pulsestream.cli", "stream", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    assert (
        "\n  Examples:\n    pulsestream stream\n    PULSESTREAM_STREAM_SHARDS=2 pulsestream stream --shard 1\n" in said
    )
