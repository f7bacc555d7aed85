"""What an exchange is to the rest of the producers: its languages over WebSocket and REST, and its limits. No I/O.

To add an exchange, write one module in this package with a class that satisfies `Exchange` and the module constant
`EXCHANGE = ThatClass`, and add its row to the table in docs/feeds.md. `load` finds it by its module's name.

Names: a product is normalised (`BTC-USD`: base, hyphen, quote), a symbol is the exchange's own (`BTCUSDT`,
`BTC/USD`). Times are microseconds since 1970, UTC. Nothing that an exchange sends makes any of these methods raise,
but for `Rest.parse_*`, whose ProtocolError says what is wrong with the answer.
"""

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, cast, runtime_checkable

from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.errors import PulseStreamError, UsageError
from schemas.records import Bar, Tick, Trade
from schemas.validate import OWN_PREFIX, check_names

Frame: TypeAlias = bytes | str
_NOT_VENUES: Final = frozenset({"protocol", "parsing"})


class ProtocolError(PulseStreamError):
    """An exchange's answer is not what its documents say."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The exchange says that a product's feed (None: the connection) is alive; `last_trade_id` None means unknown."""

    product: str | None
    time: int
    last_trade_id: int | None = None


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """Every product that this connection now receives, whole: on all channels that were asked for."""

    products: frozenset[str]


@dataclass(frozen=True, slots=True)
class Refused:
    """The exchange refused something.

    products: those it names (it may name one that was never asked for); empty: the whole connection is concerned.
    fatal: no new connection can cure it (credentials, a banned address).
    """

    reason: str
    products: frozenset[str] = frozenset()
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Closing:
    """The exchange will end this connection soon; another one should take over first."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A well-formed frame that carries nothing for us. `alive` if it is market data."""

    kind: str
    alive: bool = False


@dataclass(frozen=True, slots=True)
class Malformed:
    """A frame that breaks the protocol, or market data that no validator would take; `reason` says what is wrong."""

    reason: str


Outcome: TypeAlias = Tick | Trade | Heartbeat | Subscriptions | Refused | Closing | Ignored | Malformed
"""What a frame can turn out to be; ticks and trades pass `schemas.validate.check`."""


class Session(Protocol):
    """One connection's conversation: what was asked for, what was confirmed, and what arrived."""

    def subscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that ask for these products (beside those already asked for), in order."""

    def unsubscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that end these products, in order."""

    def receive(self, frame: Frame, received_time: int) -> Sequence[Outcome]:
        """Return what a frame holds, in order; never raises."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an exchange allows one client.

    messages_per_second: sent on one connection, subscriptions included.
    products: on one connection.
    connects_per_minute: attempts of one host.
    max_age: seconds after which a connection is replaced, by one that overlaps it; None: never.
    requests_per_second: of one host over REST, as this platform uses it; below the exchange's own limit.
    """

    messages_per_second: float
    products: int
    connects_per_minute: float
    requests_per_second: float
    max_age: float | None = None


@dataclass(frozen=True, slots=True)
class RestRequest:
    """A GET request below the exchange's REST address."""

    path: str
    query: Mapping[str, str] = field(default_factory=dict)


class Rest(Protocol):
    """What an exchange tells over REST: history, in pages."""

    @property
    def url(self) -> str:
        """Address of the public API, without a slash at its end."""

    @property
    def page(self) -> int:
        """Trades that one page holds, at most."""

    @property
    def candles_page(self) -> int:
        """Candles that one page holds, at most."""

    @property
    def candles_kept(self) -> int | None:
        """How many of the newest candles of a period there are; None: all."""

    @property
    def periods(self) -> Mapping[str, int]:
        """Candle periods by bar.v1's name (1m, 5m, 15m, 1h, 1d), in seconds."""

    def trades(self, product: str, from_id: int, since: int) -> RestRequest:
        """Ask for the page of trades that begins with `from_id`.

        `since`: a time (micros) at or before that trade, for exchanges that page by time.
        """

    def latest_trades(self, product: str) -> RestRequest:
        """Ask for the newest page of trades."""

    def trades_at(self, product: str, at: int) -> RestRequest | None:
        """Ask for a page of trades from a time on; None where the exchange has ids only (then bisect by id)."""

    def parse_trades(self, product: str, body: bytes, received_time: int) -> list[Trade]:
        """Return a page's trades in rising order of their ids; raises ProtocolError."""

    def candles(self, product: str, period: str, start: int, end: int) -> RestRequest:
        """Ask for the candles that start in [start, end); the caller keeps within `candles_page`."""

    def products(self) -> RestRequest:
        """Ask for the exchange's products."""

    def parse_products(self, body: bytes) -> list[str]:
        """Return the products that can be subscribed to, in order of their names; raises ProtocolError."""

    def parse_candles(self, product: str, period: str, body: bytes) -> list[Bar]:
        """Return a page's candles in rising order of start, `complete` as of then unknown (False); ProtocolError."""


class Exchange(Protocol):
    """One exchange."""

    name: str
    """As in the records; the simulator speaks an exchange's language under a name of its own."""
    url: str
    """Address of the public WebSocket."""
    limits: Limits
    rest: Rest

    def symbol(self, product: str) -> str:
        """Return the exchange's own name of a product."""

    def session(self, channels: Collection[str] = ("ticks", "trades")) -> Session:
        """Return the conversation of a new connection that delivers these datasets."""


@runtime_checkable
class SignedExchange(Protocol):
    """An exchange that can sign its subscriptions with a client's credentials (Coinbase); the others cannot."""

    def signed(self, key: str, secret: str, passphrase: str, clock: Clock = wall_clock) -> Exchange:
        """Return the exchange with signed subscriptions; raises UsageError for credentials that cannot be."""


@runtime_checkable
class AggregatingExchange(Protocol):
    """An exchange that also offers its trades in an aggregated series with ids of its own (Binance)."""

    def aggregated(self) -> Exchange:
        """Return the exchange with aggregated trades in place of single ones."""


def venues() -> list[str]:
    """Return the names of all exchanges that are spoken."""
    package = importlib.import_module("producers.venues")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in _NOT_VENUES)


def load(venue: str, name: str = "") -> Exchange:
    """Return an exchange that speaks the language `venue`; `name` goes into its records (default: the venue's own).

    Raises UsageError for a venue that is not there, and for a name that no record of the platform may carry.
    """
    if venue not in venues():
        raise UsageError(f"exchange {venue!r} is not spoken here: choose one of {', '.join(venues())}")
    if check_names(name or venue, "ANY") or name.startswith(OWN_PREFIX):
        raise UsageError(f"exchange {name!r} is not a name such as coinbase; {OWN_PREFIX} begins tenants' own")
    module = importlib.import_module(f"producers.venues.{venue}")
    make = cast(Callable[[str], Exchange], module.EXCHANGE)
    return make(name or venue)
