"""A self-made market in one exchange's language, driven without a socket or a clock."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from producers.exchange.board import Board
from producers.exchange.dialects import Dialect, speak
from producers.exchange.dialects.base import Answer, Query
from producers.exchange.dialects.base import Session as Served
from producers.exchange.market import FeedFrame, Moment, Print, Recorded, Ticker
from producers.exchange.synthetic import SyntheticMarket, listings
from producers.venues.protocol import Outcome, RestRequest, Session
from pulsestream.core.clock import parse_rfc3339

NOON = parse_rfc3339("2026-01-31T12:00:00Z")
PRODUCTS = {
    "coinbase": ("BTC-USD", "ETH-USD", "MONA-USD"),
    "binance": ("BTC-USDT", "ETH-USDT", "MONA-USDT"),
    "kraken": ("BTC-USD", "ETH-USD", "MONA-USD"),
}
"""Of each exchange two that trade and one that never does."""


@dataclass
class Venue:
    """A market whose time goes on by `play`; `prints` and `frames` are what happened so far."""

    name: str
    rate: float = 20.0
    prints: list[Print] = field(default_factory=list)
    frames: list[FeedFrame] = field(default_factory=list)
    now: int = NOON

    def __post_init__(self) -> None:
        self.products: Sequence[str] = PRODUCTS[self.name]
        self.dialect: Dialect = speak(self.name)
        self.market = SyntheticMarket(7, listings(self.products[:2], 7, self.name), rate=self.rate)
        self.board = Board(self.market.products, lambda: self.now)
        self.board.history.begin(self.market.pasts(NOON))
        self._moments: Iterator[Moment] = self.market.moments(NOON)

    def play(self, moments: int) -> list[FeedFrame]:
        """Let so many things happen, and return the frames of them."""
        made: list[FeedFrame] = []
        for _ in range(moments):
            moment = next(self._moments)
            self.now = NOON + moment.at
            events = moment.events(NOON)
            self.board.happen(events)
            self.prints += [event for event in events if isinstance(event, Print)]
            frames = [frame for event in events if not isinstance(event, Recorded) for frame in self._render(event)]
            frames += self.dialect.due(self.now)
            self.board.publish(frames)
            made += frames
        self.frames += made
        return made

    def _render(self, event: Print | Ticker) -> list[FeedFrame]:
        return self.dialect.render(event)

    def connect(self, path: str = "/stream") -> Served:
        """Return the exchange's side of a new connection."""
        return self.dialect.session(self.board, path)

    def get(self, request: RestRequest) -> Answer:
        """Answer a request of the client, its parameters as they would be on the wire."""
        return self.dialect.answer(Query(request.path, dict(parse_qsl(urlencode(request.query)))), self.board)


def converse(client: Session, served: Served, messages: Sequence[str], now: int) -> list[Outcome]:
    """Send a client's messages and return what it makes of the answers."""
    outcomes: list[Outcome] = []
    for message in messages:
        answer = served.receive(message, now)
        assert answer.close is None, answer.close
        outcomes += [outcome for frame in answer.frames for outcome in client.receive(served.text(frame), now)]
    return outcomes
