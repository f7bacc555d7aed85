"""From a request's JSON to event records: parsed, checked, named. Pure: no broker, no database.

Every fault names the member it is about. In a batch each event is judged by itself.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from api import errors
from api.body import MAX_NESTING, check_nesting
from api.errors import FieldError, Problem
from api.ids import uuid7
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, parse_rfc3339
from schemas.records import Event, event_id
from schemas.validate import check_event, is_plain

MAX_EVENT: Final = 256 * 1024
"""Bytes of one event."""
MAX_BATCH: Final = 1024 * 1024
"""Bytes of a batch."""
MAX_EVENTS: Final = 1000
"""Events in a batch."""
MAX_AHEAD: Final = 300 * MICROS_PER_SECOND
"""How far an event's time may lie ahead of the edge's clock: the sink refuses what lies further."""

_AROUND_EVENT: Final = 2
"""Levels of nesting around an event of a batch."""

_AT: Final = re.compile(r"^(?P<what>.*?) - at `\$(?P<path>[^`]*)`$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)


class EventIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """An event as a client sends it; `data` stays the client's own JSON text."""

    type: str
    source: str
    data: msgspec.Raw
    id: str | None = None
    product: str | None = None
    time: str | None = None
    tenant: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _BatchIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    events: list[msgspec.Raw]
    tenant: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _IdentityIn(msgspec.Struct, frozen=True):
    id: str | None = None


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """An event that is fit to be published; `id` is the client's, or the one made here."""

    id: str
    record: Event


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that will never be taken as it is; `id` is the client's, where it could be read."""

    id: str | None
    fault: FieldError
    names_tenant: bool = False


_single: Final = msgspec.json.Decoder(EventIn)
_batch: Final = msgspec.json.Decoder(_BatchIn)
_identity: Final = msgspec.json.Decoder(_IdentityIn)
IdMaker = Callable[[int], str]
"""Makes the id of an event that has none, from its place in the request."""
_shape: Final = msgspec.json.Decoder(msgspec.Raw)


class _Reading(NamedTuple):
    """What the events of a request have in common: when it came, whether its whole text is plain, what makes ids."""

    now: int
    is_plain: bool
    made_id: IdMaker | None


def parse_single(body: bytes, clock: Clock, made_id: IdMaker | None = None) -> Accepted:
    """Return the event in a body; raises Problem 400, 413 or 422."""
    check_nesting(body)
    try:
        parsed = _parse_event(body, 0, _Reading(clock(), is_plain(body), made_id))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(body) from error
    if isinstance(parsed, Accepted):
        return parsed
    _check_json(body)
    if parsed.names_tenant:
        raise errors.tenant_not_allowed("The body")
    raise errors.invalid_body([parsed.fault])


def parse_batch(body: bytes, clock: Clock, made_id: IdMaker | None = None) -> list[Accepted | Rejected]:
    """Return every event of a batch, judged by itself; raises Problem 400, 413 or 422 for the batch as a whole."""
    events = _split(body)
    reading = _Reading(clock(), is_plain(body), made_id)
    try:
        parsed = [_parse_event(raw, number, reading) for number, raw in enumerate(events)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(body) from error
    rejected = [event for event in parsed if isinstance(event, Rejected)]
    if rejected:
        _check_json(body)
    if any(event.names_tenant for event in rejected):
        raise errors.tenant_not_allowed("An event of the batch")
    return parsed


def _split(body: bytes) -> list[bytes]:
    """Return the JSON of each event of a batch."""
    try:
        batch = _batch.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        check_nesting(body)
        _check_json(body)
        raise errors.invalid_body([_fault(str(error))]) from error
    if batch.tenant is not msgspec.UNSET:
        raise errors.tenant_not_allowed("The body")
    if len(batch.events) > MAX_EVENTS:
        raise errors.too_large(f"The batch has {len(batch.events)} events, at most {MAX_EVENTS} are taken at once.")
    if not batch.events:
        raise errors.invalid_body([FieldError("/events", f"holds no event: send 1 to {MAX_EVENTS}")])
    events = [bytes(raw) for raw in batch.events]
    for raw in events:
        check_nesting(raw, MAX_NESTING - _AROUND_EVENT)
    return events


def _parse_event(raw: bytes, number: int, reading: _Reading) -> Accepted | Rejected:
    """Return the event in a JSON text; raises msgspec.DecodeError or UnicodeDecodeError for what is none."""
    if len(raw) > MAX_EVENT:
        return Rejected(None, FieldError("", f"the event has {len(raw)} bytes, at most {MAX_EVENT} are taken"))
    try:
        event = _single.decode(raw)
    except msgspec.ValidationError as error:
        return Rejected(_readable_id(raw), _fault(str(error)))
    if event.tenant is not msgspec.UNSET:
        return Rejected(event.id, FieldError("/tenant", "the tenant comes from the key"), names_tenant=True)
    identifier = event.id
    if identifier is None:
        identifier = uuid7(reading.now) if reading.made_id is None else reading.made_id(number)
    return _judge(event, identifier, reading)


def _judge(event: EventIn, identifier: str, reading: _Reading) -> Accepted | Rejected:
    time = _time(event.time, reading.now)
    if isinstance(time, FieldError):
        return Rejected(identifier, time)
    if not identifier:
        return Rejected(None, FieldError("/id", "is empty: leave it out, or send 1 character or more"))
    record = Event(
        event_id=event_id(event.source, identifier),
        type=event.type,
        source=event.source,
        product=event.product,
        time=time,
        received_time=reading.now,
        data=bytes(event.data).decode(),
    )
    fault = check_event(record, is_sound_json=reading.is_plain)
    if fault is not None:
        return Rejected(identifier, FieldError(_pointer_of(fault.message), fault.message))
    return Accepted(identifier, record)


def _time(text: str | None, now: int) -> int | FieldError:
    if text is None:
        return now
    try:
        time = parse_rfc3339(text)
    except (ValueError, OverflowError):
        return FieldError("/time", f"{text[:60]!r} is not a time: write it as 2026-01-31T12:00:00Z")
    if time > now + MAX_AHEAD:
        ahead = (time - now) // MICROS_PER_SECOND
        return FieldError("/time", f"{text!r} lies {ahead} s ahead, at most {MAX_AHEAD // MICROS_PER_SECOND} are taken")
    return time


def _pointer_of(message: str) -> str:
    member = message.partition(" ")[0]
    return {"event_id": "/id"}.get(member, f"/{member}")


def _check_json(body: bytes) -> None:
    """Raise Problem 400 for what is no JSON in UTF-8."""
    if not body:
        raise errors.malformed("The body is empty: send JSON.")
    try:
        body.decode()
        _shape.decode(body)
    except UnicodeDecodeError as error:
        raise errors.malformed(f"The body is not UTF-8: {error}.") from error
    except msgspec.DecodeError as error:
        raise errors.malformed(f"{error}.") from error


def _not_json(body: bytes) -> Problem:
    """Return the problem of a body that could not be decoded."""
    _check_json(body)
    return errors.malformed("The body holds text that is no Unicode.")


def _fault(message: str) -> FieldError:
    located = _AT.match(message)
    what = located["what"] if located else message
    pointer = _pointer(located["path"]) if located else ""
    named = _MISSING.match(what) or _UNKNOWN.match(what)
    return FieldError(f"{pointer}/{named['name']}" if named else pointer, _words(what))


def _words(what: str) -> str:
    if _MISSING.match(what):
        return "is missing"
    if _UNKNOWN.match(what):
        return "is unknown: leave it out"
    return what[0].lower() + what[1:]


def _pointer(path: str) -> str:
    return re.sub(r"\[(\d+)\]", r"/\1", path).replace(".", "/")


def _readable_id(raw: bytes) -> str | None:
    try:
        return _identity.decode(raw).id
    except msgspec.ValidationError:
        return None


def rejections(parsed: Sequence[Accepted | Rejected]) -> list[FieldError]:
    """Return the faults of a batch with pointers into it."""
    return [
        FieldError(f"/events/{index}{event.fault.pointer}", event.fault.message)
        for index, event in enumerate(parsed)
        if isinstance(event, Rejected)
    ]
