"""What the simulator writes down for a test to compare with: the market's truth, and every fault that happened.

Both are files of JSON lines, each written through at once. Truth, whatever reached whom:
{"kind":"trade","product","trade_id","sequence","time","price","size","side"},
{"kind":"tick","product","sequence"|null,"trade_id","time","text"} for each frame of a ticker channel, and
{"kind":"session","session","event":"opened"|"subscribed"|"closed"|"refused","at"}.
Faults: {"kind","fault","at","session"|null,"channel","product","trade_ids","sequence","time","text","sent","detail"};
`fault` counts the plan's faults from 0, `text` is the frame that was meant, `sent` what came in its place.
Times are microseconds since 1970.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from producers.exchange.errors import SimulatorError
from producers.exchange.faults import Injected
from producers.exchange.market import UNIT_DIGITS, FeedFrame, Trade, decimal
from pulsestream.core.clock import Clock

_encoder: Final = msgspec.json.Encoder()


class JsonLines:
    """A file of JSON lines, or none; a reader sees each line as soon as `write` returns."""

    def __init__(self, path: Path | None) -> None:
        """Take None to write nothing; raises SimulatorError if the file cannot be made."""
        self._path = path
        try:
            self._file: BinaryIO | None = None if path is None else path.open("wb")
        except OSError as error:
            raise SimulatorError(f"{path}: cannot be written: {error.strerror or error}") from error

    @property
    def wanted(self) -> bool:
        """Whether anything is written."""
        return self._file is not None

    def write(self, *lines: Mapping[str, object]) -> None:
        """Append lines; raises SimulatorError if the disk refuses."""
        if self._file is None or not lines:
            return
        try:
            self._file.write(b"".join(_encoder.encode(line) + b"\n" for line in lines))
            self._file.flush()
        except OSError as error:
            raise SimulatorError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._file is not None:
            self._file.close()


class Truth:
    """The market's own record, whatever faults did to it."""

    def __init__(self, path: Path | None, tick_channels: Collection[str], clock: Clock) -> None:
        """Take None to write nothing; raises SimulatorError if the file cannot be made."""
        self._lines = JsonLines(path)
        self._ticks = tick_channels
        self._clock = clock

    def happened(self, trades: Collection[Trade], frames: Collection[FeedFrame]) -> None:
        """Note trades, and the ticks among frames that were published."""
        if self._lines.wanted:
            ticks = [frame for frame in frames if frame.channel in self._ticks]
            self._lines.write(*(_trade(trade) for trade in trades), *(_tick(frame) for frame in ticks))

    def session(self, number: int | None, event: str) -> None:
        """Note what became of a connection: opened, subscribed, closed, refused."""
        self._lines.write({"kind": "session", "session": number, "event": event, "at": self._clock()})

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


class FaultLog:
    """Every fault that happened."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        """Take None to write nothing; raises SimulatorError if the file cannot be made."""
        self._lines = JsonLines(path)
        self._clock = clock

    def write(self, injected: Injected, session: int | None = None) -> None:
        """Note a fault at the moment it happens."""
        frame = injected.frame
        self._lines.write(
            {
                "kind": injected.kind,
                "fault": injected.fault,
                "at": self._clock(),
                "session": session,
                "channel": frame and frame.channel,
                "product": injected.product,
                "trade_ids": injected.trade_ids,
                "sequence": frame and frame.sequence,
                "time": frame and frame.time,
                "text": frame and frame.text,
                "sent": injected.sent,
                "detail": injected.detail,
            }
        )

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _trade(trade: Trade) -> dict[str, object]:
    return {
        "kind": "trade",
        "product": trade.product,
        "trade_id": trade.trade_id,
        "sequence": trade.sequence,
        "time": trade.time,
        "price": decimal(trade.price, trade.decimals),
        "size": decimal(trade.size, UNIT_DIGITS),
        "side": trade.side,
    }


def _tick(frame: FeedFrame) -> dict[str, object]:
    return {
        "kind": "tick",
        "product": frame.product,
        "sequence": frame.sequence,
        "trade_id": frame.trade_id,
        "time": frame.time,
        "text": frame.text,
    }
