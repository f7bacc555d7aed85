"""Headers of a data record: CloudEvents binary mode (CloudEvents "Kafka Protocol Binding", section 3.2); replays."""

import re
from collections.abc import Iterable
from typing import Final

from pulsestream.core.clock import format_rfc3339

Headers = list[tuple[str, bytes]]
_SPEC: Final = ("ce_specversion", b"1.0")
_AVRO: Final = ("content-type", b"application/avro")
AnyHeaders = Iterable[tuple[str, bytes | None]]

REPLAY_OF: Final = "ps-replay-of"
"""On a record that is a replay: the id of the dead letter that it comes from."""
REPLAYS: Final = "ps-replays"
"""On the same: how many replays of the record there have been, this one included."""
UNREADABLE: Final = "ps-headers-unreadable"
"""In a dead letter, in place of its record's headers: the name of one of them is no UTF-8."""
_MARKS: Final = frozenset({REPLAY_OF, REPLAYS, UNREADABLE})
_LETTER_ID: Final = re.compile(rb"[0-9a-f]{32}")
_COUNT: Final = re.compile(rb"[1-9][0-9]{0,3}")


def cloud_event(event_id: str, event_type: str, source: str, time: int) -> Headers:
    """Return the CloudEvents headers of a record; `time` is its event time in microseconds."""
    return [
        _SPEC,
        ("ce_id", event_id.encode()),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", format_rfc3339(time).encode()),
        _AVRO,
    ]


def as_replay(headers: AnyHeaders, letter_id: str, replays: int) -> list[tuple[str, bytes | None]]:
    """Return a record's headers with the mark of its newest replay, and of no other one."""
    kept = [(name, value) for name, value in headers if name not in _MARKS]
    return [*kept, (REPLAY_OF, letter_id.encode()), (REPLAYS, str(replays).encode())]


def replay_of(headers: AnyHeaders) -> tuple[str | None, int]:
    """Return the letter that a record replays, and how many replays there have been; (None, 0) for any other record."""
    marks = {name: value or b"" for name, value in headers if name in (REPLAY_OF, REPLAYS)}
    letter_id, count = marks.get(REPLAY_OF, b""), marks.get(REPLAYS, b"")
    if not _LETTER_ID.fullmatch(letter_id) or not _COUNT.fullmatch(count):
        return None, 0
    return letter_id.decode(), int(count)
