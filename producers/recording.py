"""Files of a recording: zstd frames one after the other, each a block of whole lines, and an index beside the file.

A block is compressed alone, checksummed, and on the disk when `store` returns, so that whatever ends the process costs
at most what was not stored. The index (`<file>.index.jsonl`: first and last receipt time, byte offset, count) is
written after its block and only helps to start at a time: a reader does without it. Blocks are in time order.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from io import FileIO
from itertools import accumulate, pairwise
from pathlib import Path
from typing import BinaryIO, Final, Self

import msgspec
import zstandard

from producers.errors import FrameError
from pulsestream.core.clock import MICROS_PER_SECOND, to_datetime
from pulsestream.core.log import logger

SUFFIX: Final = ".frames.zst"
INDEX_SUFFIX: Final = ".index.jsonl"
MAX_BLOCK: Final = 64 * 1024 * 1024
"""Bytes of a block before compression; the writer's are much smaller."""
_MAGIC: Final = zstandard.FRAME_HEADER
_HEADER: Final = 18
"""Bytes of the longest header of a zstd frame (RFC 8878, section 3.1.1)."""
_CHUNK: Final = 16 * 1024
_log = logger(__name__)


class Entry(msgspec.Struct, frozen=True):
    """One block in the index: receipt times of its first and last frame (micros), its byte offset, its frames."""

    first: int
    last: int
    offset: int
    count: int


_entries: Final = msgspec.json.Decoder(Entry)


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines that belong together, not yet compressed."""

    first: int
    last: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Rotation:
    """When the next file begins: after so many bytes on the disk, or so many seconds of receipt times."""

    size: int = 256 * 1024 * 1024
    seconds: float = 3600.0


class RecordingWriter:
    """Writes a recording into a folder. `write` only buffers; `cut` and `store` bring the buffer to the disk.

    `store` may run in another thread, one call at a time, while `write` and `cut` go on. Receipt times never go back:
    a clock that is set back stands still in the recording.
    """

    def __init__(self, folder: Path, name: str, rotation: Rotation | None = None) -> None:
        self.buffered = 0
        self.frames = 0
        self.files = 0
        self.bytes = 0
        self._folder = folder
        self._name = name
        self._rotation = rotation or Rotation()
        self._lines: list[bytes] = []
        self._first = 0
        self._last = 0
        self._file: _File | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error

    def moment(self, received: int) -> int:
        """Return the receipt time that a frame gets: `received`, unless an earlier frame has a later one."""
        return max(received, self._last)

    def write(self, received: int, line: bytes) -> None:
        """Buffer one line, its line end included; `received` as `moment` returned it."""
        if not self._lines:
            self._first = received
        self._last = received
        self._lines.append(line)
        self.buffered += len(line)

    def cut(self) -> Block | None:
        """Take what is buffered; None if nothing is."""
        lines, self._lines, self.buffered = self._lines, [], 0
        return Block(self._first, self._last, len(lines), b"".join(lines)) if lines else None

    def store(self, block: Block) -> None:
        """Bring a block to the disk; when this returns, it survives the machine. FrameError if the disk refuses."""
        try:
            if self._file is None or self._file.is_full(block, self._rotation):
                self._next_file(block.first)
            if self._file is not None:
                self.bytes += self._file.append(block)
        except OSError as error:
            self._leave_file()  # its tail is torn now: what follows belongs into a file of its own
            raise _unwritable(self._folder, error) from error
        self.frames += block.count

    def close(self) -> None:
        """Store what is buffered and close the file; may be called twice."""
        block = self.cut()
        if block is not None:
            self.store(block)
        self._leave_file()

    def _next_file(self, first: int) -> None:
        self._leave_file()
        self._file = _File.make(self._folder, self._name, first)
        self.files += 1

    def _leave_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _File:
    """One file of a recording and its index."""

    def __init__(self, data: FileIO, index: FileIO, first: int) -> None:
        self._data = data
        self._index = index
        self._first = first
        self._size = 0
        self._compressor = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True)

    @classmethod
    def make(cls, folder: Path, name: str, first: int) -> Self:
        """Create a file named after the time of its first frame; the name is free."""
        moment = first
        while True:
            path = folder / f"{name}-{to_datetime(moment).astimezone(UTC):%Y%m%dT%H%M%S.%fZ}{SUFFIX}"
            try:
                data = path.open("xb", buffering=0)
            except FileExistsError:
                moment += 1
                continue
            index = index_path(path).open("wb", buffering=0)
            _sync_folder(folder)
            return cls(data, index, first)

    def is_full(self, block: Block, rotation: Rotation) -> bool:
        """Say whether a block belongs into the next file."""
        return self._size >= rotation.size or block.first - self._first >= rotation.seconds * MICROS_PER_SECOND

    def append(self, block: Block) -> int:
        """Write a block, then its entry; returns its bytes on the disk."""
        compressed = self._compressor.compress(block.data)
        _write_through(self._data, compressed)
        entry = Entry(block.first, block.last, self._size, block.count)
        _write_through(self._index, msgspec.json.encode(entry) + b"\n")
        self._size += len(compressed)
        return len(compressed)

    def close(self) -> None:
        self._data.close()
        self._index.close()


def index_path(path: Path) -> Path:
    """Return where the index of a file stands."""
    return path.with_name(path.name + INDEX_SUFFIX)


def read_index(path: Path) -> list[Entry]:
    """Return the index of a file; empty when there is none or it cannot be used, which costs time only."""
    try:
        lines = index_path(path).read_bytes().splitlines()
        size = path.stat().st_size
    except OSError:
        return []
    entries: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(_entries.decode(line))
        except msgspec.DecodeError as error:
            if number < len(lines):
                _log.warning("index not used", file=str(index_path(path)), line=number, reason=str(error))
                return []
    ordered = all(one.offset < other.offset and one.last <= other.first for one, other in pairwise(entries))
    return [entry for entry in entries if entry.offset < size] if ordered else []


def read_blocks(path: Path, start: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield each block as (frames before it in the file, its lines), from the one that holds `start` on.

    A tail that a crash left incomplete ends the file, with a warning. Raises FrameError for a file that cannot be
    opened or is no recording, and for damage within what was stored.
    """
    entries = read_index(path)
    known = entries[-1].offset if entries else -1
    before, offset = _place(entries, start)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            blocks = _Blocks(path, file, offset, known)
            while (data := blocks.next()) is not None:
                yield before, data
                before += data.count(b"\n")
    except OSError as error:
        raise FrameError(f"{path}: cannot be read: {error.strerror or error}") from error


def _place(entries: list[Entry], start: int | None) -> tuple[int, int]:
    """Return how many frames to leave out, and the offset of the first block that may hold `start`."""
    if start is None or not entries:
        return 0, 0
    number = min(bisect_left(entries, start, key=lambda entry: entry.last), len(entries) - 1)
    before = [0, *accumulate(entry.count for entry in entries)]
    return before[number], entries[number].offset


class _Blocks:
    """Reads blocks from an open file. `known`: the offset of the last block that was certainly stored."""

    def __init__(self, path: Path, file: BinaryIO, offset: int, known: int) -> None:
        self._path = path
        self._file = file
        self._offset = offset
        self._known = known
        self._ahead = b""

    def next(self) -> bytes | None:
        """Return the next block's lines; None at the end of the file, or of what can be read of it."""
        self._fill(_HEADER)
        if not self._ahead:
            return None
        try:
            size = zstandard.get_frame_parameters(self._ahead).content_size
        except zstandard.ZstdError as error:
            self._broken(str(error))
            return None
        if not 0 < size <= MAX_BLOCK:
            raise FrameError(
                f"{self._path}: the block at byte {self._offset} is larger than {MAX_BLOCK} bytes, or "
                "does not say its size: it was not written by `pulsestream record`"
            )
        return self._decompressed(size)

    def _decompressed(self, size: int) -> bytes | None:
        inflating = zstandard.ZstdDecompressor().decompressobj()
        parts, consumed, inflated = [], 0, 0
        while not inflating.eof:
            chunk, self._ahead = self._ahead or self._file.read(_CHUNK), b""
            if not chunk:
                self._broken("the file ends within it")
                return None
            consumed += len(chunk)
            try:
                parts.append(inflating.decompress(chunk))
            except zstandard.ZstdError as error:
                self._broken(str(error))
                return None
            inflated += len(parts[-1])
            if inflated > size:
                self._broken("it is longer than it says")
                return None
        self._ahead = inflating.unused_data
        self._offset += consumed - len(self._ahead)
        return b"".join(parts)

    def _fill(self, wanted: int) -> None:
        while len(self._ahead) < wanted and (chunk := self._file.read(_CHUNK)):
            self._ahead += chunk

    def _broken(self, reason: str) -> None:
        """Tell a tail that a crash tore from damage to what was stored."""
        if self._offset == 0 and not self._ahead.startswith(_MAGIC[: len(self._ahead)]) and self._known < 0:
            raise FrameError(f"{self._path}: is no zstd recording ({reason})")
        if self._offset <= self._known:
            raise FrameError(f"{self._path}: the block at byte {self._offset} is damaged ({reason})")
        _log.warning(
            "recording ends torn: its tail is left out", file=str(self._path), offset=self._offset, reason=reason
        )


def _write_through(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a new file's name survive the machine; folders cannot be opened everywhere, and need not be."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _unwritable(path: Path, error: OSError) -> FrameError:
    return FrameError(f"{path}: cannot be written: {error.strerror or error}")
