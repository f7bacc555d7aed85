"""What client and server say to each other: the first message, the answers, and the codes of a close.

The client sends one message, which says who it is and what it wants. Everything else goes the other way:

snapshot    rows of one dataset as they are when the client comes; several messages, then `live`
live        the snapshot is whole, everything missed since the resume token was sent
ticks       rows since the last message; a slow client gets the newest of each product only
stats       likewise, the newest of each product and window
alerts      rows in order, none left out, and `resume`: the token of what is behind them
position    `resume` alone: alerts that the client did not ask for have gone by
gap         alerts that left the topic before the client came back: how many records of it, at most
status      whether the broker can be read
bye         why the connection is about to be closed

Each is a type below; `/asyncapi.json` shows their schemas. Those that come often are put together as text, of rows that
are JSON already.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, Final, Literal

import msgspec

from api.live.rows import Key

MAX_MESSAGE: Final = 16 * 1024
"""Bytes of the client's message."""
_LISTED: Final = 1_000
"""Names that a filter may hold."""

Dataset = Literal["ticks", "stats", "alerts"]
DATASETS: Final[tuple[Dataset, ...]] = ("ticks", "stats", "alerts")
BrokerState = Literal["live", "away"]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Names = Annotated[list[_Name], msgspec.Meta(min_length=1, max_length=_LISTED)]


class Close(IntEnum):
    """Why the server closes a connection (RFC 6455, section 7.4: 4000 and above are the application's)."""

    RESTART = 1012
    TRY_AGAIN = 1013
    BAD_MESSAGE = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    NO_MESSAGE = 4408
    BAD_TOKEN = 4409
    TOO_MANY = 4429


class CloseError(Exception):
    """The connection is to be closed, with a code and a sentence of at most 123 bytes."""

    def __init__(self, code: Close, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Subscribe(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="subscribe"):
    """The client's message. A filter that is left out lets everything through."""

    key: Annotated[str, msgspec.Meta(max_length=200)] = ""
    datasets: Annotated[tuple[Dataset, ...], msgspec.Meta(min_length=1, max_length=len(DATASETS))] = DATASETS
    products: _Names | None = None
    exchanges: _Names | None = None
    windows: _Names | None = None
    resume: Annotated[str, msgspec.Meta(max_length=2_000)] | None = None


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A message of the server's."""


def _row(*records: str) -> Any:  # a type, made for msgspec's schemas
    shown = [{"$ref": f"#/components/schemas/{record}"} for record in records]
    schema = shown[0] if len(shown) == 1 else {"anyOf": shown}
    return Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=schema)]


class Snapshot(_Said, frozen=True, tag="snapshot"):
    """Rows of one dataset as they are when the client comes: one message of several, before `live`."""

    dataset: Dataset
    rows: list[_row("tick", "stat", "alert")]  # type: ignore[valid-type] # made for msgspec


class Ticks(_Said, frozen=True, tag="ticks"):
    """Ticks since the last message; a slow client gets the newest of each product only."""

    rows: list[_row("tick")]  # type: ignore[valid-type] # likewise


class Stats(_Said, frozen=True, tag="stats"):
    """Statistics since the last message; a slow client gets the newest of each product and window only."""

    rows: list[_row("stat")]  # type: ignore[valid-type] # likewise


class Alerts(_Said, frozen=True, tag="alerts"):
    """Alerts in order, none left out."""

    rows: list[_row("alert")]  # type: ignore[valid-type] # likewise
    resume: Annotated[str, msgspec.Meta(description="the token of what is behind the last of them")]


class Position(_Said, frozen=True, tag="position"):
    """The token has moved: alerts that the client did not ask for have gone by."""

    resume: str


class Live(_Said, frozen=True, tag="live"):
    """The snapshot is whole, and everything missed since the resume token was sent."""

    resume: Annotated[str | None, msgspec.Meta(description="null: alerts were not asked for")]


class Gap(_Said, frozen=True, tag="gap"):
    """Alerts left the topic (retention) before the client came back."""

    dataset: Literal["alerts"]
    records: Annotated[int, msgspec.Meta(ge=1, description="how many records of the topic, at most")]


class Status(_Said, frozen=True, tag="status"):
    """Whether the broker can be read; while it is away nothing comes."""

    broker: BrokerState


class Bye(_Said, frozen=True, tag="bye"):
    """Why the connection is about to be closed."""

    code: Annotated[int, msgspec.Meta(description="that of the close")]
    reason: str


SAID: Final = (Snapshot, Live, Ticks, Stats, Alerts, Position, Gap, Status, Bye)
"""Every message of the server's, in the order in which a client meets them."""


@dataclass(frozen=True, slots=True)
class Interest:
    """What a client wants to see; None: everything."""

    datasets: frozenset[str] = frozenset(DATASETS)
    products: frozenset[str] | None = None
    exchanges: frozenset[str] | None = None
    windows: frozenset[str] | None = None

    def wants(self, key: Key) -> bool:
        """Return whether rows under this key are wanted; only those of statistics name a window."""
        return (
            (self.products is None or key.product in self.products)
            and (self.exchanges is None or key.exchange in self.exchanges)
            and (self.windows is None or key.window is None or key.window in self.windows)
        )


_decoder: Final = msgspec.json.Decoder(Subscribe)
_text: Final = msgspec.json.Encoder()


def parse_subscribe(message: str | bytes) -> Subscribe:
    """Return the client's message; raises CloseError that says what is wrong with it."""
    try:
        return _decoder.decode(message)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CloseError(Close.BAD_MESSAGE, f"not a subscribe message: {error}") from error


def interest(asked: Subscribe) -> Interest:
    """Return what a client asked for."""
    return Interest(frozenset(asked.datasets), _set(asked.products), _set(asked.exchanges), _set(asked.windows))


def rows_message(kind: str, texts: Iterable[str]) -> str:
    """Return a message of rows that are JSON already."""
    return f'{{"type":"{kind}","rows":[{",".join(texts)}]}}'


def snapshot_message(dataset: str, texts: Iterable[str]) -> str:
    """Return a part of the snapshot."""
    return f'{{"type":"snapshot","dataset":"{dataset}","rows":[{",".join(texts)}]}}'


def alerts_message(texts: Iterable[str], token: str) -> str:
    """Return alerts with the token of what is behind them."""
    return f'{{"type":"alerts","rows":[{",".join(texts)}],"resume":"{token}"}}'


def position_message(token: str) -> str:
    """Return a token alone."""
    return f'{{"type":"position","resume":"{token}"}}'


def live_message(token: str | None) -> str:
    """Return the end of the snapshot."""
    return _said(Live(token))


def gap_message(records: int) -> str:
    """Return how many records of the alerts' topic are gone that the client has not seen."""
    return _said(Gap("alerts", records))


def status_message(broker: BrokerState) -> str:
    """Return whether the broker can be read: live or away."""
    return _said(Status(broker))


def bye_message(code: int, reason: str) -> str:
    """Return why the connection is about to be closed."""
    return _said(Bye(code, reason))


def shortened(reason: str, most: int = 123) -> str:
    """Return as much of a sentence as a close frame can hold."""
    return reason.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def _said(message: _Said) -> str:
    return _text.encode(message).decode()


def _set(names: Sequence[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
