"""Recordings: the frames of an exchange as received, one a line, `<epoch seconds of receipt> <JSON text>`.

The text is the exchange's own, character by character, so a recording can prove what was sent. Reading is lazy and
bounded: a file of any size costs the memory of one line. Feeds record with it, the exchange simulator replays it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TextIO

import msgspec

from pulsestream.core.clock import MICROS_PER_SECOND
from pulsestream.core.errors import UsageError

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of a line; exchanges' largest frames (book snapshots) stay below a quarter of it."""

_SECONDS: Final = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
_LINE_BREAKS: Final = str.maketrans("\r\n", "  ")
_SHOWN: Final = 60
_json: Final = msgspec.json.Decoder(msgspec.Raw)


class FrameError(UsageError):
    """A recording cannot be read or written; the message names file, line and fault."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it arrived: microseconds since 1970 (UTC) of its receipt, its JSON text, its line in the file."""

    received: int
    text: str
    line: int = 0


def read_frames(path: Path) -> Iterator[Frame]:
    """Yield the frames of a recording in the file's order; blank lines are skipped.

    Raises FrameError, when the fault is reached, for a file that cannot be opened, a line that is too long, is not
    UTF-8, has no receipt time, or whose text is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in _lines(path, file):
                if text := line.strip():
                    yield _parse(path, number, text)
    except OSError as error:
        raise FrameError(f"{path}: cannot be read: {error.strerror or error}") from error


def format_frame(received: int, text: str) -> str:
    """Return the line of a frame, with its line end; line breaks between JSON tokens become spaces."""
    seconds, micros = divmod(received, MICROS_PER_SECOND)
    return f"{seconds}.{micros:06d} {text.translate(_LINE_BREAKS)}\n"


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


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise _fault(path, number, f"is longer than {MAX_LINE} bytes: this is no recording of frames")
        yield number, line


def _parse(path: Path, number: int, line: bytes) -> Frame:
    try:
        stamp, _, text = line.decode().partition(" ")
    except UnicodeDecodeError as error:
        raise _fault(path, number, f"is not UTF-8: {error.reason} at byte {error.start}") from error
    seconds = _SECONDS.fullmatch(stamp)
    if seconds is None:
        shown = stamp[:_SHOWN]
        raise _fault(path, number, f"does not begin with epoch seconds such as 1618677817.061845 but with {shown!r}")
    text = text.strip()
    if not text.startswith("{"):
        raise _fault(path, number, f"has no JSON object after the time but {text[:_SHOWN]!r}")
    try:
        _json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _fault(path, number, f"holds broken JSON ({error}): {text[:_SHOWN]!r}") from error
    return Frame(_micros(seconds), text, number)


def _micros(seconds: re.Match[str]) -> int:
    whole, fraction = seconds.groups(default="")
    return int(whole) * MICROS_PER_SECOND + int(fraction[:6].ljust(6, "0"))


def _fault(path: Path, number: int, what: str) -> FrameError:
    return FrameError(f"{path}: line {number} {what}")
