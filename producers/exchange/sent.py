"""What the simulator sent, as recordings: the measure against which a test compares what arrived."""

from pathlib import Path

from producers.frames import FrameWriter
from pulsestream.core.clock import Clock

_SESSION = "{session}"


class SentFrames:
    """Writes each frame sent, with its time, to one file, or to one a session if the name holds `{session}`."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        """Take None to write nothing; raises FrameError if the one file cannot be made."""
        self._path = path
        self._clock = clock
        self._shared = FrameWriter(path) if path is not None and _SESSION not in path.name else None
        self._writers: dict[int, FrameWriter] = {}

    def write(self, session: int, text: str) -> None:
        """Note a frame that was sent to a session; raises FrameError if the disk refuses."""
        if self._path is not None:
            (self._shared or self._of(self._path, session)).write(self._clock(), text)

    def close(self) -> None:
        """Close the files."""
        for writer in (self._shared, *self._writers.values()):
            if writer is not None:
                writer.close()

    def _of(self, path: Path, session: int) -> FrameWriter:
        if session not in self._writers:
            self._writers[session] = FrameWriter(path.with_name(path.name.replace(_SESSION, str(session))))
        return self._writers[session]
