"""A recording as a market: its frames at their recorded spacing, answers to the recorder's own messages left out.

The recording is read twice: once to check every line before anyone connects, and again, lazily, while it plays. In a
loop it becomes a live market: times begin at the clock's start, sequences and trade ids count from the wall clock's
microseconds, so no id repeats, neither in the next round nor after a restart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from producers.exchange.market import Moment
from producers.exchange.protocol import ANSWERS, FeedFrame, Head, decode_head, encode, feed_frame
from producers.frames import Frame, FrameError, read_frames
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339, parse_rfc3339

PAUSE: Final = MICROS_PER_SECOND
"""Market time between two rounds of a loop, in microseconds."""


@dataclass(slots=True)
class _Ids:
    """The range of an id that a product's frames carry."""

    lowest: int | None = None
    highest: int = 0

    def include(self, number: int | None) -> None:
        if number is not None:
            self.lowest = number if self.lowest is None else min(self.lowest, number)
            self.highest = max(self.highest, number)

    @property
    def span(self) -> int:
        return 0 if self.lowest is None else self.highest - self.lowest + 1


@dataclass(slots=True)
class _ProductIds:
    sequences: _Ids = field(default_factory=_Ids)
    trades: _Ids = field(default_factory=_Ids)


@dataclass(slots=True)
class _Survey:
    """What the first reading of a recording finds."""

    frames: int = 0
    first: int = 0
    last: int = 0
    latest: int = 0
    products: dict[str, _ProductIds] = field(default_factory=dict)

    def include(self, frame: Frame, head: Head) -> None:
        self.first = self.first if self.frames else frame.received
        self.frames += 1
        self.last = max(self.last, frame.received)
        self.latest = max(self.latest, parse_rfc3339(head.time) if head.time else 0)
        if head.product_id is not None:
            ids = self.products.setdefault(head.product_id, _ProductIds())
            ids.sequences.include(head.sequence)
            ids.trades.include(head.trade_id)


class Replay:
    """A recording of Coinbase frames as a market."""

    def __init__(
        self, path: Path, *, speed: float = 1.0, loop: bool = False, extra_products: Sequence[str] = ()
    ) -> None:
        """Read the whole recording once; raises FrameError for any line that cannot be played, or if none can.

        `extra_products` can be subscribed to as well, and stay silent.
        """
        self._path = path
        self._speed = speed
        self._loop = loop
        self._survey = _survey(path)
        self.products: Sequence[str] = tuple(dict.fromkeys([*self._survey.products, *extra_products]))

    def __str__(self) -> str:
        rounds = "in a loop" if self._loop else "once"
        return f"{self._survey.frames} frames of {self._path.name} {rounds}"

    def moments(self, started: int) -> Iterator[Moment]:
        """Yield one moment for each frame, in the recording's order."""
        if not self._loop:
            yield from (
                Moment(at, partial(_as_recorded, feed_frame(frame.text, head))) for at, frame, head in self._play()
            )
            return
        number = 0
        while True:
            yield from self._round(number, started)
            number += 1

    def time(self, at: int, anchor: int) -> int:
        """Return the recording's own time, or in a loop the wall time."""
        return anchor + round(at / self._speed) if self._loop else self._survey.first + at

    def _play(self) -> Iterator[tuple[int, Frame, Head]]:
        at = 0
        for frame, head in _playable(self._path):
            at = max(at, frame.received - self._survey.first)
            yield at, frame, head

    def _round(self, number: int, started: int) -> Iterator[Moment]:
        """Yield a round of the loop; frames older than the recording (answers to its start) only in the first."""
        survey = self._survey
        begin = number * (max(survey.last, survey.latest) - survey.first + PAUSE)
        for at, frame, head in self._play():
            time = parse_rfc3339(head.time) - survey.first if head.time else None
            if number and time is not None and time < 0:
                continue
            moved = _Moved(frame.text, head, None if time is None else begin + time, self._ids(head, number, started))
            yield Moment(begin + at, partial(moved.frames, speed=self._speed))

    def _ids(self, head: Head, number: int, started: int) -> dict[str, int]:
        """Return the ids that replace the frame's own: from `started` on, each round after the one before."""
        if head.product_id is None:
            return {}
        ids = self._survey.products[head.product_id]
        fields = (("sequence", head.sequence, ids.sequences), ("trade_id", head.trade_id, ids.trades))
        return {
            name: own - known.lowest + started + number * known.span
            for name, own, known in fields
            if own is not None and known.lowest is not None
        }


@dataclass(frozen=True, slots=True)
class _Moved:
    """A frame of a loop: `time` is its exchange time as market time, `ids` the fields that are replaced."""

    text: str
    head: Head
    time: int | None
    ids: dict[str, int]

    def frames(self, anchor: int, speed: float) -> list[FeedFrame]:
        """Return the frame with its time counted from the anchor."""
        replaced: dict[str, object] = dict(self.ids)
        if self.time is not None:
            replaced["time"] = format_rfc3339(anchor + round(self.time / speed))
        text = encode({**msgspec.json.decode(self.text), **replaced})
        return [feed_frame(text, msgspec.structs.replace(self.head, **self.ids))]


def _as_recorded(frame: FeedFrame, anchor: int) -> list[FeedFrame]:
    del anchor  # a recording played once keeps its own times
    return [frame]


def _playable(path: Path) -> Iterator[tuple[Frame, Head]]:
    for frame in read_frames(path):
        try:
            head = decode_head(frame.text)
        except msgspec.DecodeError as error:
            raise FrameError(f"{path}: line {frame.line} is no frame of Coinbase Exchange: {error}") from error
        if head.type not in ANSWERS:
            yield frame, head


def _survey(path: Path) -> _Survey:
    survey = _Survey()
    for frame, head in _playable(path):
        try:
            survey.include(frame, head)
        except ValueError as error:
            raise FrameError(f"{path}: line {frame.line} has a wrong time: {error}") from error
    if not survey.frames:
        raise FrameError(f"{path}: holds no frame that can be played")
    return survey
