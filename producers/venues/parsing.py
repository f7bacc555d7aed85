"""What the exchanges' languages share: numbers as they write them, pages of history, a bounded text of what is wrong.

Numbers that exchanges write as JSON text are decoded by msgspec in its lax mode (`strict=False`): it takes plain
decimal numbers only, but for `nan` and `inf`, which `schemas.validate.check` refuses. Each function is pure.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec

from producers.venues.protocol import Malformed, ProtocolError
from schemas.records import Bar, Tick, Trade
from schemas.validate import MAX_PRICE, MAX_SIZE, check

Decoded = TypeVar("Decoded")

Number: TypeAlias = float | Literal[""] | None
"""A number that may be missing: an empty text and null both mean that the exchange did not say."""
Unsaid: TypeAlias = Literal[""] | None
Price: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=MAX_PRICE)]
"""A price as the validator takes it, or zero; no `nan` or `inf`, which satisfy no bound."""
Size: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=MAX_SIZE)]
"""A size or a volume as the validator takes it."""
Side: TypeAlias = Literal["buy", "sell"]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A sequence number or an id: it fits Avro's long."""

_SHOWN: Final = 200
_BEGIN: Final = 80


def price(number: Number) -> float | None:
    """Return a quote or a price of the day; zero means that there is none."""
    return number or None


def size(number: Number) -> float | None:
    """Return a size or a volume; zero is one."""
    return None if number == "" else number


def checked(record: Tick | Trade) -> Tick | Trade | Malformed:
    """Return the record, or what the one validator has against it."""
    fault = check(record, "ticks")
    return record if fault is None else Malformed(shown(f"{fault.code}: {fault.message}"))


def shown(text: str) -> str:
    """Return a text bounded in length, without lone surrogates: fit for logs."""
    return text[:_SHOWN].encode("utf-8", "backslashreplace").decode()


def answer(decode: Callable[[bytes], Decoded], body: bytes, what: str) -> Decoded:
    """Return what an answer over REST holds; raises ProtocolError: what was asked for, the fault, how it begins."""
    try:
        return decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        begin = body[:_BEGIN].decode("utf-8", "backslashreplace")
        raise ProtocolError(shown(f"{what}: {error}: {begin}")) from error


def page_of_trades(product: str, trades: Iterable[Trade]) -> list[Trade]:
    """Return trades in rising order of their ids; raises ProtocolError for one that cannot be made or stored."""
    what = f"trades of {product}"
    try:
        page = sorted(trades, key=lambda trade: trade.trade_id)
    except (ValueError, OverflowError) as error:
        raise ProtocolError(shown(f"{what}: {error}")) from error
    for trade in page:
        if fault := check(trade, "trades"):
            raise ProtocolError(shown(f"{what}: {fault.code}: {fault.message}"))
    return page


def page_of_bars(product: str, bars: Iterable[Bar]) -> list[Bar]:
    """Return candles in rising order of start; raises ProtocolError for one that cannot be made or stored."""
    what = f"candles of {product}"
    try:
        page = sorted(bars, key=lambda bar: bar.start)
    except (ValueError, OverflowError) as error:
        raise ProtocolError(shown(f"{what}: {error}")) from error
    for bar in page:
        if fault := check(msgspec.structs.replace(bar, received_time=bar.start), "bars"):
            raise ProtocolError(shown(f"{what}: {fault.code}: {fault.message}"))
    return page
