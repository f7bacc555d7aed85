"""What a dialect is to the server: how one exchange writes its frames, converses with a client, and answers GET. Pure.

Three objects: the Dialect writes what the market does as frames of channels, a Session is one client's conversation
and chooses the frames that are the client's, and `answer` tells history. Channels have the exchange's own names; what
faults call trades, ticks and heartbeats are the channels in `kinds`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from producers.exchange.board import Board
from producers.exchange.market import FeedFrame, Print, Recorded, Ticker
from pulsestream.core.clock import MICROS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Reply:
    """Frames that answer a client, in order; `close` ends the connection after them (code, reason)."""

    frames: Sequence[FeedFrame] = ()
    close: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A GET request: its path, and its parameters (of each name the last)."""

    path: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: int) -> int:
        """Return a whole-number parameter; raises BadQueryError for anything else."""
        text = self.parameters.get(name)
        if text is None:
            return default
        try:
            return int(text)
        except ValueError as error:
            raise BadQueryError(name) from error


class BadQueryError(Exception):
    """A parameter that is missing or wrong; its text is the parameter's name."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a GET request is answered with: a JSON document."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestLimit:
    """Requests that the exchange takes a second from one address, and at once."""

    per_second: float
    burst: int


class Session(Protocol):
    """One client's conversation."""

    @property
    def subscribed(self) -> bool:
        """Whether a subscription was ever accepted."""

    def opened(self, now: int) -> Reply:
        """Return what the exchange says to a new connection."""

    def receive(self, message: str | bytes, now: int) -> Reply:
        """Take a client's message and return the answer. Never raises, whatever the message."""

    def wants(self, frame: FeedFrame) -> bool:
        """Whether a frame of the market belongs to this session."""

    def text(self, frame: FeedFrame) -> str:
        """Return a frame's text as this connection gets it."""

    def beat(self, now: int) -> Sequence[FeedFrame]:
        """Return what this session is sent every second."""

    def ending(self, now: int) -> Reply:
        """Return what the exchange says before it ends a connection that has reached its greatest age."""

    def closed(self) -> None:
        """Note that the connection is gone."""


class Dialect(Protocol):
    """One exchange's language."""

    kinds: Mapping[str, Collection[str]]
    """The channels that carry trades, ticks and heartbeats."""
    rest_limit: RestLimit
    max_age: float | None
    """Seconds after which the exchange ends a connection, None: never."""
    subscribe_within: float | None
    """Seconds until a client that has subscribed to nothing is disconnected, None: never."""

    def session(self, board: Board, path: str, *, unfiltered: bool = False) -> Session:
        """Return the conversation of a new connection to this path with its query."""

    def render(self, event: Print | Ticker) -> list[FeedFrame]:
        """Return the frames of what happened, in order."""

    def due(self, now: int) -> list[FeedFrame]:
        """Return the frames that time alone makes due; asked several times a second."""

    def read(self, text: str) -> Recorded | None:
        """Return a recorded frame, None for an answer to the recorder; ValueError for no frame of this exchange."""

    def shifted(self, text: str, micros: int) -> str:
        """Return a frame of `render` with all its times moved."""

    def prologue(self, products: Collection[str]) -> str | None:
        """Return the frame that a recording of these products begins with."""

    def heartbeat_requests(self, products: Collection[str]) -> list[str]:
        """Return a client's messages that ask for the heartbeats of these products."""

    def answer(self, query: Query, board: Board) -> Answer:
        """Answer a GET request."""


def encode(fields: object) -> str:
    """Return a frame's JSON text, fields in their order."""
    return msgspec.json.encode(fields).decode()


def reply(*texts: str, close: tuple[int, str] | None = None) -> Reply:
    """Return frames that answer one client and are nobody else's."""
    return Reply([FeedFrame("answer", None, text) for text in texts], close)


def document(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a JSON document."""
    return Answer(status, msgspec.json.encode(content), headers or {})


class MessageRate:
    """Counts a client's messages in each second of the exchange's clock."""

    def __init__(self, per_second: int) -> None:
        self._limit = per_second
        self._window: list[int] = []

    def exceeded(self, now: int) -> bool:
        """Note a message, and return whether it is one too many within a second."""
        self._window = [time for time in self._window if time > now - MICROS_PER_SECOND]
        self._window.append(now)
        return len(self._window) > self._limit
