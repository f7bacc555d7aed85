"""Recorded frames as a source: parsed by the sessions of the live feed, so that ticks and trades are the live ones.

Files and folders are merged by time of receipt. A frame that breaks its exchange's protocol is skipped and counted, as
the live feed does; a line that is no frame at all is refused, with file and line, as by everybody who reads recordings.
"""

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from producers.frames import Frame, read_frames
from producers.recording import SUFFIX
from producers.venues.protocol import AggregatingExchange, Exchange, Malformed, Outcome, Session, load, venues
from pulsestream.commands.reading import Skipped, SourceError, product_of
from schemas.records import Tick, Trade
from streams.engine.reading import SLICE_RECORDS, Gathering, Slice, Span

PLAIN_SUFFIX: Final = ".frames"
LOOKED_AT: Final = 2_000
"""Frames that are looked at to find out whose they are."""
SIMULATOR: Final = "simulator"
"""The exchange that speaks another one's language."""

_FILE: Final = re.compile(r"([a-z0-9][a-z0-9-]*?)-\d{8}T\d{6}\.\d{6}Z" + re.escape(SUFFIX))
"""A file of `pulsestream record`: its exchange and the time of its first frame."""
_SYMBOL: Final = re.compile(r'"stream"\s*:\s*"([a-z0-9]+)@([a-zA-Z]+)')


class _Marks(msgspec.Struct):
    """The members by which exchanges' frames differ."""

    type: msgspec.Raw = msgspec.Raw()
    stream: msgspec.Raw = msgspec.Raw()
    channel: msgspec.Raw = msgspec.Raw()
    method: msgspec.Raw = msgspec.Raw()


_marks: Final = msgspec.json.Decoder(_Marks)


@dataclass(frozen=True, slots=True)
class _Recording:
    """A file or folder, and the exchange whose frames it holds."""

    path: Path
    exchange: Exchange


class FrameSource:
    """Recordings, read as one."""

    def __init__(self, paths: Sequence[Path], span: Span) -> None:
        self.skipped = Skipped()
        self._recordings = [_recording(path) for path in paths]
        self._span = span

    def traded(self) -> set[tuple[str, str]]:
        """Return the products of which there are trades; reads the recordings once."""
        return {
            (outcome.exchange, outcome.product)
            for _, _, outcome in self._outcomes(("trades",))
            if isinstance(outcome, Trade) and self._span.holds(outcome.exchange_time)
        }

    def slices(self, span: int | None) -> Iterator[Slice]:  # noqa: ARG002 - frames are counted, whatever time they cover
        """Yield slices of a number of records, in the order of receipt."""
        self.skipped = Skipped()
        gathering, offset, begun = Gathering(), 0, 0
        for path, frame, outcome in self._outcomes(("ticks", "trades")):
            if isinstance(outcome, Malformed):
                self.skipped.add(f"{path}: line {frame.line}", outcome.reason)
            elif isinstance(outcome, Tick | Trade) and self._span.holds(outcome.exchange_time):
                begun = begun if gathering.count else frame.received
                gathering.add(outcome, offset, frame.received)
                offset += 1
                if gathering.count == SLICE_RECORDS:
                    yield Slice(begun, gathering.take())
        if gathering.count:
            yield Slice(begun, gathering.take())

    def _outcomes(self, datasets: Sequence[str]) -> Iterator[tuple[Path, Frame, Outcome]]:
        streams = [_outcomes(recording, datasets) for recording in self._recordings]
        return heapq.merge(*streams, key=_received)


def is_recording(path: Path) -> bool:
    """Tell whether a path names a recording."""
    return path.is_dir() or path.name.endswith((PLAIN_SUFFIX, SUFFIX))


def _received(item: tuple[Path, Frame, Outcome]) -> int:
    return item[1].received


def _outcomes(recording: _Recording, datasets: Sequence[str]) -> Iterator[tuple[Path, Frame, Outcome]]:
    """Yield what each frame is; each connection is a conversation of its own."""
    conversations: dict[int, _Conversation] = {}
    for frame in read_frames(recording.path):
        conversation = conversations.get(frame.connection)
        if conversation is None:
            conversation = conversations[frame.connection] = _Conversation(recording.exchange.session(datasets))
        for outcome in conversation.receive(frame):
            yield recording.path, frame, outcome


class _Conversation:
    """A session that is asked for whatever turns up: Binance's knows only the products that it was asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._asked: set[str] = set()

    def receive(self, frame: Frame) -> Sequence[Outcome]:
        """Return what a frame is."""
        named = _SYMBOL.search(frame.text)
        if named is not None and named[1] not in self._asked:
            self._asked.add(named[1])
            self._session.subscribe([product_of(named[1]) or named[1].upper()])
        return self._session.receive(frame.raw, frame.received)


def _recording(path: Path) -> _Recording:
    name = _exchange_named(path)
    frames = list(islice(read_frames(path), LOOKED_AT))
    venue = next((venue for frame in frames if (venue := _venue_of(frame.text)) is not None), None)
    if venue is None:
        raise SourceError(
            f"{path}: none of its first {len(frames)} frames is one of {', '.join(venues())}: "
            "record one with `pulsestream record`"
        )
    exchange = load(venue, name if name == SIMULATOR else venue)
    streams = {named[2] for frame in frames if (named := _SYMBOL.search(frame.text)) is not None}
    if isinstance(exchange, AggregatingExchange) and "aggTrade" in streams and "trade" not in streams:
        exchange = exchange.aggregated()
    return _Recording(path, exchange)


def _venue_of(text: str) -> str | None:
    """Return whose a frame is, by the members that only one exchange's have; None: it does not say."""
    marks = _marks.decode(text)
    if bytes(marks.stream):
        return "binance"
    if bytes(marks.channel) or bytes(marks.method):
        return "kraken"
    return "coinbase" if bytes(marks.type) else None


def _exchange_named(path: Path) -> str | None:
    """Return the exchange that the recorder put into the names; one folder is one exchange's."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    names = {match[1] for file in files if (match := _FILE.fullmatch(file.name)) is not None}
    if len(names) > 1:
        raise SourceError(f"{path} holds recordings of {' and '.join(sorted(names))}: name the files of each instead")
    return next(iter(names), None)
