"""Events in requests that the API takes: so many, and so many bytes, at most. Pure."""

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pulsestream.client.rows import Fault, Sent

MAX_EVENTS: Final = 1000
MAX_BYTES: Final = 1024 * 1024
_AROUND: Final = len('{"events": []}')
_BETWEEN: Final = len(", ")
_POINTER: Final = re.compile(r"/events/([0-9]+)(/.*)?", re.DOTALL)

Event = Mapping[str, Any]


def with_id(event: Event) -> Event:
    """Return the event with an id, a new one where it has none: so it has one effect, however often it is sent."""
    return event if event.get("id") is not None else {**event, "id": str(uuid.uuid4())}


def batches(events: Iterable[Event], most: int) -> Iterator[list[Event]]:
    """Yield the events in lists of up to `most`, each of which fits into one request.

    One that is too large by itself comes alone; the API says so.
    """
    batch: list[Event] = []
    size = _AROUND
    for event in map(with_id, events):
        more = len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")) + _BETWEEN
        if batch and (len(batch) == most or size + more > MAX_BYTES):
            yield batch
            batch, size = [], _AROUND
        batch.append(event)
        size += more
    if batch:
        yield batch


def all_rejected(batch: list[Event], document: Mapping[str, Any]) -> list[Sent] | None:
    """Return what became of a batch of which nothing was taken (422), None for a refusal of another kind."""
    faults: list[list[Fault]] = [[] for _ in batch]
    for fault in document.get("errors", ()):
        match = _POINTER.fullmatch(fault["pointer"])
        if match is None or int(match[1]) >= len(batch):
            return None
        faults[int(match[1])].append({"pointer": match[2] or "", "message": fault["message"]})
    if not all(faults):
        return None
    return [
        {"id": event["id"], "status": "rejected", "errors": found} for event, found in zip(batch, faults, strict=True)
    ]
