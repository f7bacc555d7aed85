"""A dead letter as people read it: bytes in base64, and as whatever they can be understood as. Pure."""

import base64
from typing import Any

from pulsestream.core.topics import parse_tenant_topic
from schemas.codec import DATASET_RECORDS, codec
from schemas.errors import DecodeError
from schemas.records import DeadLetter
from schemas.render import to_json


def contents(letter: DeadLetter) -> dict[str, Any]:
    """Return key, headers and value of the record in a letter."""
    return {
        "key": as_bytes(letter.key),
        "headers": [{"name": header.name, "value": as_bytes(header.value)} for header in letter.headers],
        "value": as_bytes(letter.value),
        "omitted": letter.omitted,
        "record": _record(letter),
    }


def as_bytes(value: bytes | None) -> dict[str, str | None] | None:
    """Return bytes as base64, and as text where they are UTF-8; None for null."""
    if value is None:
        return None
    return {"base64": base64.b64encode(value).decode(), "text": as_text(value)}


def as_text(value: bytes | None) -> str | None:
    """Return what bytes say, None where that is no UTF-8."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _record(letter: DeadLetter) -> dict[str, Any]:
    """Return the decoded record, or why there is none."""
    source = parse_tenant_topic(letter.topic)
    if letter.omitted or letter.value is None or source is None:
        return {"fields": None, "error": "the letter has no value" if source else "its topic is no tenant's"}
    try:
        return {"fields": to_json(codec(DATASET_RECORDS[source.dataset]).decode(letter.value)), "error": None}
    except DecodeError as error:
        return {"fields": None, "error": str(error)}
