"""What the feed needs of an exchange's protocol, and what a frame can turn out to be.

A protocol core has no I/O: frames in, outcomes out. Adding an exchange means one more class with these methods.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from schemas.records import Tick

Frame: TypeAlias = bytes | str


@dataclass(frozen=True, slots=True)
class TickFrame:
    """A ticker update that passes `schemas.validate.check`."""

    tick: Tick


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The exchange says that a product's feed is alive. `time` in microseconds; `last_trade_id` 0 means unknown."""

    product: str
    sequence: int
    last_trade_id: int
    time: int


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """Every product that this connection now receives ticks of, after a subscribe or unsubscribe message."""

    products: frozenset[str]


@dataclass(frozen=True, slots=True)
class ExchangeError:
    """The exchange refused something that the client sent."""

    message: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A well-formed frame that carries nothing for us. `kind` is the frame's type; `alive` if it is market data."""

    kind: str
    alive: bool = False


@dataclass(frozen=True, slots=True)
class Malformed:
    """A frame that breaks the protocol, or a ticker that no validator would take; `reason` says what is wrong."""

    reason: str


Outcome: TypeAlias = TickFrame | Heartbeat | Subscriptions | ExchangeError | Ignored | Malformed


class ExchangeProtocol(Protocol):
    """One exchange's language."""

    def subscribe(self, products: Collection[str]) -> str:
        """Return the message that asks for these products."""

    def unsubscribe(self, products: Collection[str]) -> str:
        """Return the message that ends these products."""

    def receive(self, frame: Frame, received_time: int) -> Outcome:
        """Return what a frame is; never raises. `received_time` in microseconds, UTC."""

    def is_fatal(self, error: ExchangeError) -> bool:
        """Say whether no new connection can cure this error."""
