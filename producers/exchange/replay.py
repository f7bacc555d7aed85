"""A recording as a market: its frames at their recorded spacing, answers to the recorder's own messages left out.

The recording is read twice: once to check every line before anyone connects, and again, lazily, while it plays. In a
loop (Coinbase's frames only) it becomes a live market: times begin at the clock's start, sequences and trade ids count
from the wall clock's microseconds, so no id repeats, neither in the next round nor after a restart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from producers.exchange.dialects import Coinbase, Dialect
from producers.exchange.dialects.base import encode
from producers.exchange.history import Past
from producers.exchange.market import FeedFrame, Moment, Recorded
from producers.frames import Frame, FrameError, read_frames
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339

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

    def include(self, recorded: Frame, event: Recorded) -> None:
        frame = event.frame
        self.first = self.first if self.frames else recorded.received
        self.frames += 1
        self.last = max(self.last, recorded.received)
        self.latest = max(self.latest, frame.time or 0)
        if frame.product is not None:
            ids = self.products.setdefault(frame.product, _ProductIds())
            ids.sequences.include(frame.sequence)
            ids.trades.include(frame.trade_id)


class Replay:
    """A recording as a market."""

    def __init__(
        self,
        path: Path,
        *,
        dialect: Dialect | None = None,
        speed: float = 1.0,
        loop: bool = False,
        extra_products: Sequence[str] = (),
    ) -> None:
        """Read the whole recording once; raises FrameError for any line that cannot be played, or if none can.

        `dialect` (None: Coinbase's) reads the frames. `extra_products` can be subscribed to as well, and stay silent.
        """
        self._path = path
        self._dialect = dialect or Coinbase()
        self._speed = speed
        self._loop = loop
        self._survey = _survey(path, self._dialect)
        self.products: Sequence[str] = tuple(dict.fromkeys([*self._survey.products, *extra_products]))

    def __str__(self) -> str:
        rounds = "in a loop" if self._loop else "once"
        return f"{self._survey.frames} frames of {self._path.name} {rounds}"

    def moments(self, started: int) -> Iterator[Moment]:
        """Yield one moment for each frame, in the recording's order."""
        if not self._loop:
            yield from (Moment(at, partial(_as_recorded, event)) for at, event in self._play())
            return
        number = 0
        while True:
            yield from self._round(number, started)
            number += 1

    def pasts(self, started: int) -> Mapping[str, Past]:
        """Return nothing: before a recording nothing is known."""
        del started
        return {}

    def time(self, at: int, anchor: int) -> int:
        """Return the recording's own time, or in a loop the wall time."""
        return anchor + round(at / self._speed) if self._loop else self._survey.first + at

    def _play(self) -> Iterator[tuple[int, Recorded]]:
        at = 0
        for frame, event in _playable(self._path, self._dialect):
            at = max(at, frame.received - self._survey.first)
            yield at, event

    def _round(self, number: int, started: int) -> Iterator[Moment]:
        """Yield a round of the loop; frames older than the recording (answers to its start) only in the first."""
        survey = self._survey
        begin = number * (max(survey.last, survey.latest) - survey.first + PAUSE)
        for at, event in self._play():
            time = None if event.frame.time is None else event.frame.time - survey.first
            if number and time is not None and time < 0:
                continue
            moved = _Moved(event, None if time is None else begin + time, self._ids(event, number, started))
            yield Moment(begin + at, partial(moved.events, speed=self._speed))

    def _ids(self, event: Recorded, number: int, started: int) -> dict[str, int]:
        """Return the ids that replace the frame's own: from `started` on, each round after the one before."""
        frame = event.frame
        if frame.product is None:
            return {}
        ids = self._survey.products[frame.product]
        fields = (("sequence", frame.sequence, ids.sequences), ("trade_id", frame.trade_id, ids.trades))
        return {
            name: own - known.lowest + started + number * known.span
            for name, own, known in fields
            if own is not None and known.lowest is not None
        }


@dataclass(frozen=True, slots=True)
class _Moved:
    """A frame of a loop: `time` is its exchange time as market time, `ids` the fields that are replaced."""

    event: Recorded
    time: int | None
    ids: dict[str, int]

    def events(self, anchor: int, speed: float) -> list[Recorded]:
        """Return the frame and its trade with their time counted from the anchor."""
        recorded = self.event.frame
        fields: dict[str, object] = dict(self.ids)
        time = recorded.time
        if self.time is not None:
            time = anchor + round(self.time / speed)
            fields["time"] = format_rfc3339(time)
        sequence = self.ids.get("sequence", recorded.sequence)
        trade_id = self.ids.get("trade_id", recorded.trade_id)
        frame = FeedFrame(
            recorded.channel,
            recorded.product,
            encode({**msgspec.json.decode(recorded.text), **fields}),
            sequence,
            trade_id,
            (trade_id,) if recorded.trade_ids and trade_id is not None else (),
            time,
        )
        trades = (
            replace(trade, trade_id=trade_id or 0, sequence=sequence or 0, time=time or 0)
            for trade in self.event.trades
        )
        return [Recorded(frame, tuple(trades))]


def _as_recorded(event: Recorded, anchor: int) -> list[Recorded]:
    del anchor  # a recording played once keeps its own times
    return [event]


def _playable(path: Path, dialect: Dialect) -> Iterator[tuple[Frame, Recorded]]:
    for frame in read_frames(path):
        try:
            event = dialect.read(frame.text)
        except ValueError as error:
            raise FrameError(f"{path}: line {frame.line} {error}") from error
        if event is not None:
            yield frame, event


def _survey(path: Path, dialect: Dialect) -> _Survey:
    survey = _Survey()
    for frame, event in _playable(path, dialect):
        survey.include(frame, event)
    if not survey.frames:
        raise FrameError(f"{path}: holds no frame that can be played")
    return survey
