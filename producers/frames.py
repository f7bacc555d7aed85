"""Recordings: the frames of an exchange as received, one a line, `<epoch seconds of receipt> <JSON text>`.

Plain (`.frames`: tests, the simulator's notes) or in compressed blocks (`.frames.zst`: `pulsestream record`, see
producers.recording), or a folder of both as one recording. The text is the exchange's own, character by character, so
a recording can prove what was sent; `#2` after the time is the number of its connection, if it is not the first.
Reading is lazy and bounded: a recording of any size costs the memory of one line or block of each file that overlaps.
"""

import base64
import binascii
import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TextIO

import msgspec

from producers import recording
from producers.errors import FrameError
from pulsestream.core.clock import MICROS_PER_SECOND
from pulsestream.core.log import logger

__all__ = ["Frame", "FrameError", "FrameWriter", "format_frame", "format_received", "read_frames"]

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of a line; exchanges' largest frames (book snapshots) stay below a quarter of it."""

_STAMP: Final = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?(?:#(\d{1,9}))?", re.ASCII)
_LINE_BREAKS: Final = str.maketrans("\r\n", "  ")
_SHOWN: Final = 60
_json: Final = msgspec.json.Decoder(msgspec.Raw)
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it arrived: microseconds since 1970 (UTC) of its receipt, its text, its line in the file.

    `connection` counts from 1. Bytes that are no UTF-8 stand in `text` as lone surrogates, and are whole in `raw`.
    """

    received: int
    text: str
    line: int = 0
    connection: int = 1

    @property
    def raw(self) -> bytes:
        """The frame's bytes."""
        return self.text.encode("utf-8", "surrogateescape")


def read_frames(
    path: Path, start: int | None = None, end: int | None = None, *, everything: bool = False
) -> Iterator[Frame]:
    """Yield the frames of a file in its order, or of a folder's files in time order, received in [start, end).

    `start` and `end` in microseconds since 1970, UTC; None: no bound. Blank lines are skipped. A recorder writes down
    also what is no JSON object; such frames are left out, with a warning, unless `everything` is asked for.
    Raises FrameError, when the fault is reached, for a file or folder that cannot be read, damage, a line that is too
    long, is not UTF-8, has no receipt time, or whose text is not a JSON object (in a plain file).
    """
    frames = _of_folder(path, start, end) if path.is_dir() else _of_file(path, start, end)
    return frames if everything else _understood(path, frames)


def format_frame(received: int, text: str) -> str:
    """Return the line of a frame, with its line end; line breaks between JSON tokens become spaces."""
    return f"{_stamp(received)} {text.translate(_LINE_BREAKS)}\n"


def format_received(received: int, frame: bytes | str, connection: int = 1) -> bytes:
    """Return the line of a frame in a recording, with its line end, from which the frame is read again exactly.

    What would not survive as it is becomes a JSON string, and what is no UTF-8 becomes base64 with a `b` before it.
    """
    raw = frame.encode() if isinstance(frame, str) else frame
    stamp = _stamp(received) if connection == 1 else f"{_stamp(received)}#{connection}"
    return b"%s %s\n" % (stamp.encode(), raw if _is_plain(raw) else _escaped(raw))


def _stamp(received: int) -> str:
    seconds, micros = divmod(received, MICROS_PER_SECOND)
    return f"{seconds}.{micros:06d}"


def _is_plain(raw: bytes) -> bool:
    if raw[:1] != b"{" or raw[-1:] != b"}" or b"\n" in raw or b"\r" in raw:
        return False
    return raw.isascii() or _decoded(raw) is not None


def _escaped(raw: bytes) -> bytes:
    text = _decoded(raw)
    return b"b" + base64.b64encode(raw) if text is None else msgspec.json.encode(text)


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


class FrameWriter:
    """Writes a recording, each frame visible to readers as soon as `write` returns; a context manager.

    Opening raises FrameError if the file cannot be made; an existing file is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: TextIO = path.open("w", encoding="utf-8", newline="\n", buffering=1)
        except OSError as error:
            raise FrameError(f"{path}: cannot be written: {error.strerror or error}") from error

    def write(self, received: int, text: str) -> None:
        """Append one frame received (or sent) at `received` microseconds since 1970; FrameError if the disk refuses."""
        try:
            self._file.write(format_frame(received, text))
        except OSError as error:
            raise FrameError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ---- folders and files ----


def _of_folder(folder: Path, start: int | None, end: int | None) -> Iterator[Frame]:
    """Merge a folder's files by receipt time; a file is opened when its time has come."""
    try:
        paths = [path for path in folder.iterdir() if path.name.endswith((".frames", recording.SUFFIX))]
    except OSError as error:
        raise FrameError(f"{folder}: cannot be read: {error.strerror or error}") from error
    if not paths:
        raise FrameError(f"{folder}: holds no recording: no file ends with .frames or {recording.SUFFIX}")
    begins = [(first, path) for path in paths if (first := _begin(path)) is not None]
    waiting = sorted(begins, reverse=True)
    ready: list[tuple[int, int, Frame, Iterator[Frame]]] = []
    opened = 0
    while waiting or ready:
        while waiting and (not ready or waiting[-1][0] <= ready[0][0]):
            opened += 1
            _queue(ready, opened, _of_file(waiting.pop()[1], start, end))
        if ready:
            _, number, frame, frames = heapq.heappop(ready)
            yield frame
            _queue(ready, number, frames)


def _queue(ready: list[tuple[int, int, Frame, Iterator[Frame]]], number: int, frames: Iterator[Frame]) -> None:
    frame = next(frames, None)
    if frame is not None:
        heapq.heappush(ready, (frame.received, number, frame, frames))


def _begin(path: Path) -> int | None:
    """Return a moment not after a file's first frame; None if it has no frame."""
    entries = recording.read_index(path)
    if entries:
        return entries[0].first
    first = next(_of_file(path, None, None), None)
    return None if first is None else first.received


def _of_file(path: Path, start: int | None, end: int | None) -> Iterator[Frame]:
    if path.name.endswith(".zst"):
        yield from _of_recording(path, start, end)
        return
    for frame in _of_plain(path):
        if (start is None or frame.received >= start) and (end is None or frame.received < end):
            yield frame


def _of_recording(path: Path, start: int | None, end: int | None) -> Iterator[Frame]:
    for before, block in recording.read_blocks(path, start):
        for number, line in enumerate(block.splitlines(), start=before + 1):
            frame = _parse_received(path, number, line)
            if end is not None and frame.received >= end:
                return
            if start is None or frame.received >= start:
                yield frame


def _of_plain(path: Path) -> Iterator[Frame]:
    try:
        with path.open("rb") as file:
            for number, line in _lines(path, file):
                if text := line.strip():
                    yield _parse(path, number, text)
    except OSError as error:
        raise FrameError(f"{path}: cannot be read: {error.strerror or error}") from error


def _understood(path: Path, frames: Iterator[Frame]) -> Iterator[Frame]:
    left_out = 0
    for frame in frames:
        if _fault_of(frame.text) is None:
            yield frame
        else:
            left_out += 1
    if left_out:
        _log.warning("frames that are no JSON object were left out", recording=str(path), frames=left_out)


# ---- lines ----


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise _fault(path, number, f"is longer than {MAX_LINE} bytes: this is no recording of frames")
        yield number, line


def _parse(path: Path, number: int, line: bytes) -> Frame:
    """Read a line of a plain file; its text has to be a JSON object."""
    try:
        stamp, _, text = line.decode().partition(" ")
    except UnicodeDecodeError as error:
        raise _fault(path, number, f"is not UTF-8: {error.reason} at byte {error.start}") from error
    received, connection = _moment(path, number, stamp)
    text = text.strip()
    fault = _fault_of(text)
    if fault is not None:
        raise _fault(path, number, fault)
    return Frame(received, text, number, connection)


def _parse_received(path: Path, number: int, line: bytes) -> Frame:
    """Read a line of a recording, as `format_received` wrote it."""
    stamp, _, rest = line.partition(b" ")
    received, connection = _moment(path, number, stamp.decode(errors="replace"))
    try:
        text = _unescaped(rest)
    except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError) as error:
        raise _fault(path, number, f"does not hold a frame ({error}): {rest[:_SHOWN]!r}") from error
    return Frame(received, text, number, connection)


def _unescaped(rest: bytes) -> str:
    if rest[:1] == b'"':
        return msgspec.json.decode(rest, type=str)
    if rest[:1] == b"b":
        return base64.b64decode(rest[1:], validate=True).decode("utf-8", "surrogateescape")
    return rest.decode()


def _fault_of(text: str) -> str | None:
    """Say why a text is no JSON object, or None."""
    if not text.startswith("{"):
        return f"has no JSON object after the time but {text[:_SHOWN]!r}"
    try:
        _json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        return f"holds broken JSON ({error}): {text[:_SHOWN]!r}"
    return None


def _moment(path: Path, number: int, stamp: str) -> tuple[int, int]:
    match = _STAMP.fullmatch(stamp)
    if match is None:
        shown = stamp[:_SHOWN]
        raise _fault(path, number, f"does not begin with epoch seconds such as 1618677817.061845 but with {shown!r}")
    whole, fraction, connection = match.groups(default="")
    received = int(whole) * MICROS_PER_SECOND + int(fraction[:6].ljust(6, "0"))
    return received, int(connection or 1)


def _fault(path: Path, number: int, what: str) -> FrameError:
    return FrameError(f"{path}: line {number} {what}")
