"""The SOURCE arguments of the offline commands: which reader each is for, and all of them read as one.

A SOURCE is a recording (`.frames`, `.frames.zst`, or a folder of them), bars of a day
(`btcusd-second-20161007-trade.csv`, or a folder of them), or `db:TENANT`, what is stored. A record that cannot be used
is skipped and counted, with its file and line; a source that is not what its name says is refused.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pulsestream.commands.bar_source import BAR_FILES, BarSource, is_bar_file
from pulsestream.commands.frame_source import FrameSource, is_recording
from pulsestream.commands.reading import Skipped, Source, SourceError
from pulsestream.commands.row_source import RowSource
from streams.engine.reading import Slice, Span

DATABASE: Final = "db:"
"""Begins the name of a source that is a tenant's stored records."""
LARGE: Final = 32 * 1024 * 1024
"""Bytes of bars from which on it pays to read them in several processes."""
KINDS: Final = (
    "a recording (.frames, .frames.zst), bars such as btcusd-second-20161007-trade.csv, a folder of either, "
    "or db:TENANT"
)


class Sources:
    """Every source of a command, merged by time; all recordings are one source, and all files of bars."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    @classmethod
    def open(cls, names: Sequence[str], span: Span, database_url: Callable[[], str]) -> "Sources":
        """Find the reader of each name; raises SourceError. `database_url` is asked only where a name is `db:…`."""
        stored = [name.removeprefix(DATABASE) for name in dict.fromkeys(names) if name.startswith(DATABASE)]
        paths = [Path(name) for name in dict.fromkeys(names) if not name.startswith(DATABASE)]
        bars, recordings = _sorted_out(paths)
        sources: list[Source] = [RowSource(database_url(), tenant, span) for tenant in stored]
        if bars:
            sources.append(BarSource(bars, span))
        if recordings:
            sources.append(FrameSource(recordings, span))
        return cls(sources)

    @property
    def skipped(self) -> Skipped:
        """What the last reading skipped."""
        whole = Skipped()
        for source in self._sources:
            whole.include(source.skipped)
        return whole

    def divided(self, parts: int) -> list["Sources"]:
        """Return sources that can be read apart, of whole products; one, if there is little or if it is not bars."""
        [first, *others] = self._sources
        if others or not isinstance(first, BarSource) or first.size < LARGE:
            return [self]
        return [Sources([part]) for part in first.divided(parts)]

    def traded(self) -> set[tuple[str, str]]:
        """Return the (exchange, product) pairs of which there are trades."""
        return set().union(*(source.traded() for source in self._sources))

    def slices(self, span: int | None) -> Iterator[Slice]:
        """Yield all records in slices (see Source)."""
        return heapq.merge(*(source.slices(span) for source in self._sources), key=_at)


def _at(part: Slice) -> int:
    return part.at


def _sorted_out(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files of bars, and the recordings."""
    bars: list[Path] = []
    recordings: list[Path] = []
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path} is not there; a source is {KINDS}")
        if is_bar_file(path):
            bars.append(path)
        elif path.is_dir() and (held := sorted(path.glob(BAR_FILES))):
            bars += held
        elif is_recording(path):
            recordings.append(path)
        else:
            raise SourceError(f"{path}: its name says neither recording nor bars; a source is {KINDS}")
    return bars, recordings
