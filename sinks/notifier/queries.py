"""The notifier's named statements."""

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast


@cache
def _queries() -> dict[str, LiteralString]:
    text = (files("sinks.notifier") / "queries.sql").read_text("utf-8")
    named = re.findall(r"^-- name: (\w+)\n(.*?);\s*$", text, re.MULTILINE | re.DOTALL)
    return {name: cast(LiteralString, query) for name, query in named}  # a file of ours, not input


def query(name: str) -> LiteralString:
    """Return a statement; raises KeyError."""
    return _queries()[name]
