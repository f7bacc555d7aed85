"""The state of keys as entries of the compacted state topic: a head, blocks of panes, ids, one entry a rule.

Each value is a format version byte and MessagePack; each is under 256 KB. A block that cannot change any more is
written once; a checkpoint rewrites what changed. Within a format, fields are only ever added at the end: what was
written before them reads as their defaults, and a program that does not know them yet leaves them out.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from pulsestream.core.errors import PulseStreamError
from streams.engine.alerts import AlertBook
from streams.engine.batches import Sighting
from streams.engine.duplicates import Seen
from streams.engine.fold import KeyState
from streams.engine.inputs import Ints
from streams.engine.lines import MINUTE_PANES, SECOND_PANES
from streams.engine.machine import Phase, Standing
from streams.engine.panes import FLOATS, Pane, Totals
from streams.engine.rows import BLOCK, INTS, SECOND, Rows, Span
from streams.engine.series import Series
from streams.engine.transitions import Machine

FORMAT: Final = 2
"""The version that is written; `load` reads this one only."""
IDS_IN_HEAD: Final = 64
"""Ids of seconds with at most so many lie in the head, the others in entries of their own."""
IDS_PER_ENTRY: Final = 8_192
"""An id takes at most 18 bytes, so that an entry of ids stays under 150 KB."""


DUE_UNKNOWN: Final = -1
NOTHING_DUE: Final = 0


class SnapshotError(PulseStreamError):
    """State entries that this version cannot read."""


class _Ids(msgspec.Struct, array_like=True, frozen=True):
    """Ids of one second: numbers, ascending, as differences; and digests."""

    second: int
    numbers: list[int]
    digests: list[bytes] = []


class _Head(msgspec.Struct, array_like=True, frozen=True):
    exchange: str
    product: str
    dataset: str
    topic_id: str
    partition: int
    prices: bool
    first_seq: int
    watermark: int
    clock_mark: int
    until: int
    condensed: int
    first_time: int
    quote_seen: int
    emitted: dict[str, list[tuple[int, int]]]
    last_seen: list[Sighting]
    ids: list[_Ids]
    last_spread: Sighting | None = None
    unused: int = 0
    """Once the second that the clock had decided; a rule's entry says it now."""
    due: int = DUE_UNKNOWN


class Glance(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a head says about a key's clock, read without its state; times in micros.

    `due`: when the clock next had something to do as the head was written; NOTHING_DUE, or DUE_UNKNOWN. The fields
    before it are passed over.
    """

    exchange: str
    product: str
    dataset: str
    topic_id: msgspec.Raw
    partition: msgspec.Raw
    prices: bool
    first_seq: msgspec.Raw
    watermark: int
    clock_mark: int
    until: msgspec.Raw
    condensed: msgspec.Raw
    first_time: msgspec.Raw
    quote_seen: msgspec.Raw
    emitted: msgspec.Raw
    last_seen: msgspec.Raw
    ids: msgspec.Raw
    last_spread: msgspec.Raw = msgspec.Raw()
    unused: msgspec.Raw = msgspec.Raw()
    due: int = DUE_UNKNOWN


class _Pane(msgspec.Struct, array_like=True, frozen=True):
    second: int
    candle: tuple[int, float, int, float, float, float]
    totals: list[bytes]
    offset: int
    appended_at: int
    quote: tuple[int, int]


class _Block(msgspec.Struct, array_like=True, frozen=True):
    """`rows` settled panes, their columns one after the other (little-endian), and panes that may still change."""

    rows: int
    floats: bytes
    ints: bytes
    panes: list[msgspec.Raw] = []
    """Each a `_Pane`."""


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
    decided: int = 0


_Part = _Head | _Ids | _Rule
_ENCODER: Final = msgspec.msgpack.Encoder()
_HEADS: Final = msgspec.msgpack.Decoder(_Head)
_GLANCES: Final = msgspec.msgpack.Decoder(Glance)
_BLOCKS: Final = msgspec.msgpack.Decoder(_Block)
_RULES: Final = msgspec.msgpack.Decoder(_Rule)
_IDS: Final = msgspec.msgpack.Decoder(_Ids)
_PANES: Final = msgspec.msgpack.Decoder(_Pane)
_FORMAT: Final = bytes([FORMAT])

Parts = dict[str, bytes]
"""The entries of one key: values by the name that follows its own."""


def entries(key: str, old: KeyState | None, new: KeyState, due: int = DUE_UNKNOWN) -> dict[str, bytes | None]:
    """Return the entries that changed from `old` (None: nothing was written yet) to `new`; a None value removes one.

    `key` is "{tenant}/{dataset}/{exchange}/{product}"; entry names are "{key}|head", "{key}|seconds:{n}", … `due` is
    for `glance`.
    """
    changed: dict[str, bytes | None] = {}
    if old is None or due != DUE_UNKNOWN or not _have_same_head(old, new):
        changed[f"{key}|head"] = _encode(_head(new, due))
    for name, part in (*_changed_ids(old, new), *_changed_rules(old, new)):
        changed[f"{key}|{name}"] = None if part is None else _encode(part)
    past = Series() if old is None else old.series
    for name, step, held, now, held_tail, tail in (
        ("seconds", SECOND_PANES, past.seconds, new.series.seconds, past.tail, new.series.tail),
        ("minutes", MINUTE_PANES, past.minutes, new.series.minutes, (), ()),
    ):
        blocks = _changed_blocks(_Panes(held, held_tail, step), _Panes(now, tail, step))
        changed |= {f"{key}|{name}:{number}": None if block is None else _encode(block) for number, block in blocks}
    return changed


def group(entries: Mapping[str, bytes]) -> dict[str, Parts]:
    """Return the entries of each key, undecoded."""
    grouped: dict[str, Parts] = {}
    for full_name, value in entries.items():
        key, _, name = full_name.partition("|")
        grouped.setdefault(key, {})[name] = value
    return grouped


def glance(key: str, parts: Mapping[str, bytes]) -> Glance:
    """Return what a key's entries say about its clock; raises SnapshotError for what cannot be read."""
    head = parts.get("head")
    if head is None:
        raise SnapshotError(f"the state of {key!r} has no head")
    _check_format(f"{key}|head", head)
    try:
        return _GLANCES.decode(memoryview(head)[1:])
    except msgspec.DecodeError as error:
        raise SnapshotError(f"state entry {key + '|head'!r} cannot be read: {error!r}") from error


def load(key: str, parts: Mapping[str, bytes]) -> KeyState:
    """Return the state that a key's entries hold together; raises SnapshotError for what cannot be read."""
    gathered = _Gathered()
    for name, value in parts.items():
        try:
            gathered.take(name, value)
        except (msgspec.DecodeError, ValueError) as error:
            raise SnapshotError(f"state entry {key + '|' + name!r} cannot be read: {error!r}") from error
    return gathered.state(key)


def restore(entries: Mapping[str, bytes]) -> dict[str, KeyState]:
    """Return the states, by key, that entries hold together; raises SnapshotError for an unknown format version."""
    return {key: load(key, parts) for key, parts in group(entries).items()}


@dataclass(slots=True)
class _Gathered:
    """The decoded entries of one key."""

    head: _Head | None = None
    blocks: dict[str, dict[int, _Block]] = field(default_factory=lambda: {"seconds": {}, "minutes": {}})
    ids: list[_Ids] = field(default_factory=list)
    rules: list[_Rule] = field(default_factory=list)

    def take(self, name: str, value: bytes) -> None:
        """Decode one entry."""
        _check_format(name, value)
        kind, _, number = name.partition(":")
        body = memoryview(value)[1:]
        if kind == "head":
            self.head = _HEADS.decode(body)
        elif kind in self.blocks:
            self.blocks[kind][int(number)] = _BLOCKS.decode(body)
        elif kind == "ids":
            self.ids.append(_IDS.decode(body))
        elif kind == "rule":
            self.rules.append(_RULES.decode(body))
        else:
            raise SnapshotError(f"state entry {name!r} is of no known kind")

    def state(self, key: str) -> KeyState:
        """Return what the entries hold together."""
        head = self.head
        if head is None:
            raise SnapshotError(f"the state of {key!r} has no head")
        machines = {(rule.rule_id, rule.version): _machine(rule) for rule in self.rules}
        return KeyState(
            head.exchange,
            head.product,
            head.dataset,
            head.topic_id,
            head.partition,
            head.prices,
            head.first_seq,
            head.watermark,
            head.clock_mark,
            self._series(head),
            _seen([*head.ids, *self.ids]),
            AlertBook(machines, tuple(head.last_seen), head.last_spread),
        )

    def _series(self, head: _Head) -> Series:
        seconds = [block for _, block in sorted(self.blocks["seconds"].items())]
        minutes = [block for _, block in sorted(self.blocks["minutes"].items())]
        return Series(
            _span(seconds),
            _span(minutes),
            tuple(_pane(_PANES.decode(pane)) for block in seconds for pane in block.panes),
            head.until,
            head.condensed,
            head.first_time,
            head.quote_seen,
            {(at, label): revision for label, given in head.emitted.items() for at, revision in given},
        )


def _check_format(name: str, value: bytes) -> None:
    if value[:1] != _FORMAT:
        raise SnapshotError(
            f"state entry {name!r} has format version {value[:1].hex()}, this program reads {FORMAT}: "
            "start the version that wrote it, or compute the state again with `pulsestream stream --rebuild`"
        )


# ---- head, ids and rules ----


def _encode(part: _Part | _Block) -> bytes:
    return _FORMAT + _ENCODER.encode(part)


def _have_same_head(old: KeyState, new: KeyState) -> bool:
    """Tell whether the heads of two states of a key agree; those of a fold differ in the first thing that is asked."""
    return old.watermark == new.watermark and _head(old, DUE_UNKNOWN) == _head(new, DUE_UNKNOWN)


def _head(state: KeyState, due: int) -> _Head:
    series = state.series
    ids = [_stored_ids(entry.second, entry.numbers, entry.digests) for entry in state.seen if _are_few(entry)]
    emitted: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (at, label), revision in series.emitted.items():
        emitted[label].append((at, revision))
    return _Head(
        state.exchange,
        state.product,
        state.dataset,
        state.topic_id,
        state.partition,
        state.prices,
        state.first_seq,
        state.watermark,
        state.clock_mark,
        series.until,
        series.condensed,
        series.first_time,
        series.quote_seen,
        {label: sorted(emitted[label]) for label in sorted(emitted)},
        list(state.book.last_seen),
        ids,
        state.book.last_spread,
        0,
        due,
    )


def _are_few(entry: Seen) -> bool:
    return len(entry.numbers) + len(entry.digests) <= IDS_IN_HEAD


def _changed_ids(old: KeyState | None, new: KeyState) -> Iterator[tuple[str, _Ids | None]]:
    """Give the entries of ids to write, and with None those to remove; ids of a second are only ever added."""
    held = {entry.second: entry for entry in old.seen if not _are_few(entry)} if old is not None else {}
    for entry in [entry for entry in new.seen if not _are_few(entry)]:
        before = held.pop(entry.second, None)
        if before is not entry:
            known = dict(_id_parts(before)) if before is not None else {}
            yield from ((name, part) for name, part in _id_parts(entry) if known.get(name) != part)
    for gone in held.values():
        yield from ((name, None) for name, _ in _id_parts(gone))


def _id_parts(entry: Seen) -> Iterator[tuple[str, _Ids]]:
    digests = sorted(entry.digests)
    for index, start in enumerate(range(0, max(len(entry.numbers), len(digests)), IDS_PER_ENTRY)):
        part = slice(start, start + IDS_PER_ENTRY)
        yield f"ids:{entry.second}:{index}", _stored_ids(entry.second, entry.numbers[part], digests[part])


def _stored_ids(second: int, numbers: Ints, digests: Iterable[bytes]) -> _Ids:
    listed = numbers.tolist()
    return _Ids(second, [after - before for before, after in zip((0, *listed), listed, strict=False)], sorted(digests))


def _seen(stored: Iterable[_Ids]) -> tuple[Seen, ...]:
    by_second: dict[int, Seen] = {}
    for part in stored:
        held = by_second.get(part.second, Seen(part.second))
        by_second[part.second] = held.plus(np.cumsum(np.array(part.numbers, np.int64)), part.digests)
    return tuple(by_second[second] for second in sorted(by_second))


def _changed_rules(old: KeyState | None, new: KeyState) -> Iterator[tuple[str, _Rule | None]]:
    """Give the entries of rules to write, and with None those to remove."""
    before, after = old.book.machines if old is not None else {}, new.book.machines
    if before is after:
        return
    for (rule_id, version), held in after.items():
        if before.get((rule_id, version)) != held:
            yield f"rule:{rule_id}:{version}", _rule(rule_id, version, held)
    for rule_id, version in before.keys() - after.keys():
        yield f"rule:{rule_id}:{version}", None


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
        held.decided,
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
        stored.decided,
    )


# ---- panes ----


@dataclass(frozen=True, slots=True)
class _Panes:
    """Panes of `step` seconds, settled and not."""

    span: Span
    tail: tuple[Pane, ...]
    step: int

    @property
    def first(self) -> int | None:
        """The number of the block of the first pane."""
        if len(self.span):
            return self.number(int(self.span.ints[SECOND, 0]))
        return self.number(self.tail[0].second) if self.tail else None

    @property
    def last_settled(self) -> int | None:
        """The number of the block of the last settled pane: none can come before that any more."""
        return self.number(int(self.span.ints[SECOND, -1])) if len(self.span) else None

    def number(self, second: int) -> int:
        """Return the number of a second's block."""
        return second // (BLOCK * self.step)

    def numbers(self, since: int) -> list[int]:
        """Return the numbers of the blocks from `since` on."""
        length = BLOCK * self.step
        seconds = self.span.ints[SECOND]
        settled = seconds[seconds.searchsorted(since * length) :].tolist()
        return sorted(
            {second // length for second in settled}
            | {number for pane in self.tail if (number := pane.second // length) >= since}
        )

    def extent(self, number: int) -> tuple[int, int]:
        """Return the positions, within the span, of a block's settled rows."""
        length = BLOCK * self.step
        start, end = self.span.ints[SECOND].searchsorted((number * length, (number + 1) * length)).tolist()
        return start, end

    def tail_of(self, number: int) -> list[Pane]:
        """Return the panes of a block that may still change."""
        return [pane for pane in self.tail if self.number(pane.second) == number]

    def block(self, number: int) -> _Block:
        """Return a block as it is stored."""
        start, end = self.extent(number)
        return _Block(
            end - start,
            np.ascontiguousarray(self.span.floats[:, start:end]).tobytes(),
            np.ascontiguousarray(self.span.ints[:, start:end]).tobytes(),
            [self._stored(pane) for pane in self.tail_of(number)],
        )

    def _stored(self, pane: Pane) -> msgspec.Raw:
        """Return a pane as it is stored; one that is as it was at the last checkpoint is not encoded again."""
        known = self.span.rows.stored
        held = known.get(pane.second)
        if held is None or held[0] is not pane:
            held = known[pane.second] = pane, msgspec.Raw(_ENCODER.encode(_stored_pane(pane)))
        return held[1]

    def forget_stored(self) -> None:
        """Let go of what was encoded of panes that cannot change any more."""
        known = self.span.rows.stored
        if len(known) > 2 * len(self.tail):
            kept = {pane.second for pane in self.tail}
            self.span.rows.stored = {second: held for second, held in known.items() if second in kept}

    def is_as(self, other: "_Panes") -> bool:
        """Tell at a glance whether nothing has changed since another state of the same key."""
        one, two = self.span, other.span
        return one.rows is two.rows and one.start == two.start and one.stop == two.stop and self.tail == other.tail

    def same(self, number: int, other: "_Panes") -> bool:
        """Tell whether a block is as in another state of the same key: settled rows never change."""
        (start, end), (others_start, others_end) = self.extent(number), other.extent(number)
        return end - start == others_end - others_start and self.tail_of(number) == other.tail_of(number)


def _changed_blocks(old: _Panes, new: _Panes) -> Iterator[tuple[int, _Block | None]]:
    """Give the blocks to write, and with None those to remove."""
    if new.is_as(old):
        return
    first = new.first
    if old.first is not None and old.first != first:
        yield from ((number, None) for number in old.numbers(old.first) if first is None or number < first)
    if first is None:
        return
    since = first if old.last_settled is None else max(first, old.last_settled)
    for number in new.numbers(since):
        if not new.same(number, old):
            yield number, new.block(number)
    new.forget_stored()


def _span(blocks: Iterable[_Block]) -> Span:
    held = [block for block in blocks if block.rows]
    used = sum(block.rows for block in held)
    rows = Rows(2 * used) if used else Rows()
    at = 0
    for block in held:
        floats = np.frombuffer(block.floats, "<f8").reshape(-1, block.rows)
        ints = np.frombuffer(block.ints, "<i8").reshape(-1, block.rows)
        rows.floats[: len(floats), at : at + block.rows] = floats[: len(FLOATS)]
        rows.ints[: len(ints), at : at + block.rows] = ints[: len(INTS)]
        at += block.rows
    return Span(rows, 0, used)


def _stored_pane(pane: Pane) -> _Pane:
    return _Pane(
        pane.second,
        (pane.open_time, pane.open, pane.close_time, pane.close, pane.high, pane.low),
        [_packed(total) for total in msgspec.structs.astuple(pane.totals)],
        pane.offset,
        pane.appended_at,
        (pane.quote_seen, pane.quote_at),
    )


def _pane(stored: _Pane) -> Pane:
    return Pane(
        stored.second,
        *stored.candle,
        Totals(*[_unpacked(total) for total in stored.totals]),
        stored.offset,
        stored.appended_at,
        *stored.quote,
    )


def _packed(total: int) -> bytes:
    """Return an integer as the number of its zero bytes at the end, and the bytes before them (big-endian, signed)."""
    whole = total.to_bytes(total.bit_length() // 8 + 1, "big", signed=True)
    digits = whole.rstrip(b"\0")
    return bytes([len(whole) - len(digits)]) + digits


def _unpacked(packed: bytes) -> int:
    return int.from_bytes(packed[1:], "big", signed=True) << 8 * packed[0]
