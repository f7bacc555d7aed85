"""The state of keys as entries of the compacted state topic: a head, blocks of panes, ids, one entry a rule.

Each value is a format version byte and MessagePack; each is under 256 KB. A block that cannot change any more is
written once; a checkpoint rewrites what changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Final

import msgspec

from pulsestream.core.errors import PulseStreamError
from schemas.records import AsOf
from streams.engine.alerts import AlertBook
from streams.engine.batches import Sighting
from streams.engine.duplicates import Identity, Seen
from streams.engine.fold import KeyState
from streams.engine.machine import Phase, Standing
from streams.engine.panes import Candle, ClosedPanes, Pane, Quote, Totals
from streams.engine.series import LINES, Series
from streams.engine.transitions import Machine

FORMAT: Final = 1
"""The version that is written; `restore` reads this one only."""
BLOCK_SECONDS: Final = 10
IDS_PER_ENTRY: Final = 8_192
"""An id takes at most 18 bytes, so that an entry of ids stays under 150 KB."""


class SnapshotError(PulseStreamError):
    """State entries that this version cannot read."""


_Position = tuple[str, int, int]


class _Ids(msgspec.Struct, array_like=True, frozen=True):
    """Ids of one second: sequences, ascending, as differences; and digests."""

    second: int
    sequences: list[int]
    digests: list[bytes]


class _Head(msgspec.Struct, array_like=True, frozen=True):
    exchange: str
    product: str
    watermark: int
    clock_mark: int
    first_time: int
    until: int
    emitted: dict[str, list[tuple[int, int]]]
    last_seen: list[Sighting]
    ids: list[_Ids]
    last_spread: Sighting | None = None
    decided: int = 0


class _Pane(msgspec.Struct, array_like=True, frozen=True):
    second: int
    candle: tuple[int, float, int, float, float, float]
    totals: list[bytes]
    as_of: _Position
    quote: tuple[int, int] | None


class _Rule(msgspec.Struct, array_like=True, frozen=True):
    rule_id: str
    version: int
    phase: int
    since: int
    side: int
    seq: int
    reported_at: int
    reported: int
    again: int
    value: float | None = None


_Part = _Head | list[_Ids] | tuple[Pane, ...] | _Rule
_ENCODER: Final = msgspec.msgpack.Encoder()
_HEADS: Final = msgspec.msgpack.Decoder(_Head)
_BLOCKS: Final = msgspec.msgpack.Decoder(list[_Pane])
_RULES: Final = msgspec.msgpack.Decoder(_Rule)
_IDS: Final = msgspec.msgpack.Decoder(list[_Ids])
_LINE_NAMES: Final = {f"{basis}:{window.name}": index for index, (basis, window) in enumerate(LINES)}


def entries(key: str, old: KeyState | None, new: KeyState) -> dict[str, bytes | None]:
    """Return the entries that changed from `old` (None: nothing was written yet) to `new`; a None value removes one.

    `key` is "{tenant}/{exchange}/{product}"; entry names are "{key}|head", "{key}|block:{n}", …
    """
    before = dict(_parts(old)) if old is not None else {}
    after = dict(_parts(new))
    changed: dict[str, bytes | None] = {
        f"{key}|{name}": _encode(part) for name, part in after.items() if before.get(name) != part
    }
    return changed | {f"{key}|{name}": None for name in before if name not in after}


def restore(entries: Mapping[str, bytes]) -> dict[str, KeyState]:
    """Return the states, by key, that entries hold together; raises SnapshotError for an unknown format version."""
    gathered: dict[str, _Gathered] = {}
    for full_name, value in entries.items():
        key, _, name = full_name.partition("|")
        try:
            gathered.setdefault(key, _Gathered([], [], [], [])).take(name, value)
        except (msgspec.DecodeError, KeyError) as error:
            raise SnapshotError(f"state entry {full_name!r} cannot be read: {error!r}") from error
    return {key: parts.state(key) for key, parts in gathered.items()}


@dataclass(frozen=True, slots=True)
class _Gathered:
    """The decoded entries of one key."""

    heads: list[_Head]
    panes: list[Pane]
    ids: list[_Ids]
    rules: list[_Rule]

    def take(self, name: str, value: bytes) -> None:
        """Decode one entry."""
        if value[:1] != bytes([FORMAT]):
            raise SnapshotError(
                f"state entry {name!r} has format version {value[:1].hex()}, this program reads {FORMAT}: "
                "start the version that wrote it, or rebuild the state from the topics"
            )
        kind, body = name.partition(":")[0], value[1:]
        if kind == "head":
            self.heads.append(_HEADS.decode(body))
            self.ids.extend(self.heads[0].ids)
        elif kind == "block":
            self.panes.extend(_pane(stored) for stored in _BLOCKS.decode(body))
        elif kind == "ids":
            self.ids.extend(_IDS.decode(body))
        elif kind == "rule":
            self.rules.append(_RULES.decode(body))
        else:
            raise SnapshotError(f"state entry {name!r} is of no known kind")

    def state(self, key: str) -> KeyState:
        """Return what the entries hold together."""
        if not self.heads:
            raise SnapshotError(f"the state of {key!r} has no head")
        head = self.heads[0]
        panes = sorted(self.panes, key=lambda pane: pane.second)
        emitted = {(at, _LINE_NAMES[name]): revision for name, given in head.emitted.items() for at, revision in given}
        last = panes[-1] if panes and panes[-1].second >= head.until else None
        closed = ClosedPanes(panes[:-1] if last else panes)
        series = Series(closed, last, head.until, head.first_time, emitted)
        machines = {(rule.rule_id, rule.version): _machine(rule) for rule in self.rules}
        book = AlertBook(machines, tuple(head.last_seen), head.last_spread, head.decided)
        return KeyState(head.exchange, head.product, head.watermark, head.clock_mark, series, _seen(self.ids), book)


def _parts(state: KeyState) -> Iterator[tuple[str, _Part]]:
    """Give the entries of a state, not yet encoded, by name."""
    first, *rest = [*_id_parts(state.seen)] or [[]]
    yield "head", _head(state, first)
    for index, part in enumerate(rest, 1):
        yield f"ids:{index}", part
    last = state.ticks.open
    panes = [*state.ticks.closed.panes, *([] if last is None else [last])]
    for number, block in groupby(panes, lambda pane: pane.second // BLOCK_SECONDS):
        yield f"block:{number}", tuple(block)
    for (rule_id, version), held in state.book.machines.items():
        yield f"rule:{rule_id}:{version}", _rule(rule_id, version, held)


def _encode(part: _Part) -> bytes:
    value = [_stored_pane(pane) for pane in part] if isinstance(part, tuple) else part
    return bytes([FORMAT]) + _ENCODER.encode(value)


def _head(state: KeyState, ids: list[_Ids]) -> _Head:
    names = list(_LINE_NAMES)
    emitted: dict[str, list[tuple[int, int]]] = {}
    for (at, index), revision in sorted(state.ticks.emitted.items()):
        emitted.setdefault(names[index], []).append((at, revision))
    return _Head(
        state.exchange,
        state.product,
        state.watermark,
        state.clock_mark,
        state.ticks.first_time,
        state.ticks.until,
        emitted,
        list(state.book.last_seen),
        ids,
        state.book.last_spread,
        state.book.decided,
    )


def _id_parts(seen: Sequence[Seen]) -> Iterator[list[_Ids]]:
    """Give lists of at most IDS_PER_ENTRY ids."""
    flat = ((entry.second, known) for entry in seen for known in _ordered(entry.ids))
    while part := list(islice(flat, IDS_PER_ENTRY)):
        yield [
            _stored_ids(second, [known for _, known in group]) for second, group in groupby(part, lambda pair: pair[0])
        ]


def _ordered(ids: frozenset[Identity]) -> list[Identity]:
    sequences = sorted([known for known in ids if isinstance(known, int)])
    return [*sequences, *sorted([known for known in ids if isinstance(known, bytes)])]


def _stored_ids(second: int, ids: Sequence[Identity]) -> _Ids:
    sequences = [known for known in ids if isinstance(known, int)]
    steps = [after - before for before, after in zip([0, *sequences], sequences, strict=False)]
    return _Ids(second, steps, [known for known in ids if isinstance(known, bytes)])


def _seen(stored: Sequence[_Ids]) -> tuple[Seen, ...]:
    by_second: dict[int, set[Identity]] = {}
    for part in stored:
        sequence = 0
        ids = by_second.setdefault(part.second, set())
        for step in part.sequences:
            sequence += step
            ids.add(sequence)
        ids.update(part.digests)
    return tuple(Seen.of(second, ids) for second, ids in sorted(by_second.items()))


def _stored_pane(pane: Pane) -> _Pane:
    candle, quote = pane.candle, pane.quote
    return _Pane(
        pane.second,
        (candle.open_time, candle.open, candle.close_time, candle.close, candle.high, candle.low),
        [_packed(total) for total in msgspec.structs.astuple(pane.totals)],
        _position(pane.as_of),
        None if quote is None else (quote.seen, quote.at),
    )


def _pane(stored: _Pane) -> Pane:
    quote = stored.quote
    return Pane(
        stored.second,
        Candle(*stored.candle),
        Totals(*[_unpacked(total) for total in stored.totals]),
        _as_of(stored.as_of),
        None if quote is None else Quote(*quote),
    )


def _packed(total: int) -> bytes:
    """Return an integer as the number of its zero bytes at the end, and the bytes before them (big-endian, signed)."""
    whole = total.to_bytes(total.bit_length() // 8 + 1, "big", signed=True)
    digits = whole.rstrip(b"\0")
    return bytes([len(whole) - len(digits)]) + digits


def _unpacked(packed: bytes) -> int:
    return int.from_bytes(packed[1:], "big", signed=True) << 8 * packed[0]


def _position(as_of: AsOf) -> _Position:
    return as_of.topic_id, as_of.partition, as_of.offset


def _as_of(position: _Position) -> AsOf:
    return AsOf(topic_id=position[0], partition=position[1], offset=position[2])


def _rule(rule_id: str, version: int, held: Machine) -> _Rule:
    standing = held.standing
    return _Rule(
        rule_id,
        version,
        standing.phase.value,
        standing.since,
        held.side,
        held.seq,
        held.reported_at,
        held.reported,
        held.again,
        held.value,
    )


def _machine(stored: _Rule) -> Machine:
    return Machine(
        Standing(Phase(stored.phase), stored.since),
        stored.side,
        stored.seq,
        stored.reported_at,
        stored.reported,
        stored.again,
        stored.value,
    )
