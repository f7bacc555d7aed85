"""A record as people read it: JSON with times in RFC 3339, UTC, microseconds; bytes as base64.

A time that no calendar holds stays a number: records are shown before anybody has validated them.
"""

from contextlib import suppress
from functools import cache
from typing import Any

import msgspec

from pulsestream.core.clock import format_rfc3339
from schemas import registry
from schemas.records import Record


def to_json(record: Record) -> dict[str, Any]:
    """Return the record's fields as JSON values."""
    rendered: dict[str, Any] = _render(msgspec.to_builtins(record))
    return rendered


@cache
def time_fields() -> frozenset[str]:
    """Return the names of all fields that are times, in any schema."""
    return frozenset(name for schema in registry.released().values() for name in _times(schema.json))


def _render(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _render_field(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_render(item) for item in value]
    return value


def _render_field(name: str, value: Any) -> Any:
    if name in time_fields() and isinstance(value, int):
        with suppress(OverflowError):  # no time of any calendar: the number says it best
            return format_rfc3339(value)
    return _render(value)


def _times(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*(_times(item) for item in node))
    if not isinstance(node, dict):
        return set()
    below = _times(node.get("fields", [])) | _times(node.get("type")) | _times(node.get("items"))
    return below | {node["name"]} if "name" in node and _is_time(node.get("type")) else below


def _is_time(kind: Any) -> bool:
    if isinstance(kind, list):
        return any(_is_time(item) for item in kind)
    return isinstance(kind, dict) and kind.get("logicalType") == "timestamp-micros"
