"""What the exchanges' languages share: numbers as they write them, pages of history, a bounded text of what is wrong.

Numbers that exchanges write as JSON text are decoded by msgspec in its lax mode (`strict=False`): it takes plain
decimal numbers only, but for `nan` and `inf`, which `schemas.validate.check` refuses. Each function is pure.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from producers.venues.protocol import Malformed, ProtocolError
from schemas.records import Bar, Tick, Trade, bar_id
from schemas.validate import MAX_PRICE, MAX_SIZE, Fault, check, check_names

Decoded = TypeVar("Decoded")
Stored = TypeVar("Stored", Trade, Bar)

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

PERIODS: Final[Mapping[str, int]] = MappingProxyType({"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86400})
"""The candle periods that this platform knows as bars, in seconds."""
_SHOWN: Final = 200
_BEGIN: Final = 80


class Candle(Protocol):
    """What every exchange says of a period."""

    open: float
    high: float
    low: float
    close: float
    volume: float


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


def list_of_products(names: Iterable[str]) -> list[str]:
    """Return products in order, without those that no record may carry; raises ProtocolError where none is left."""
    products = sorted({name for name in names if check_names("x", name) is None})
    if not products:
        raise ProtocolError("products: the answer holds none")
    return products


def page_of_trades(product: str, trades: Iterable[Trade]) -> list[Trade]:
    """Return trades in rising order of their ids; raises ProtocolError for one that cannot be made or stored."""
    return _page(f"trades of {product}", trades, lambda trade: trade.trade_id, lambda trade: check(trade, "trades"))


def page_of_bars(product: str, bars: Iterable[Bar]) -> list[Bar]:
    """Return candles in rising order of start; raises ProtocolError for one that cannot be made or stored."""

    def fault(bar: Bar) -> Fault | None:
        return check(msgspec.structs.replace(bar, received_time=bar.start), "bars")

    return _page(f"candles of {product}", bars, lambda bar: bar.start, fault)


def _page(
    what: str, records: Iterable[Stored], place: Callable[[Stored], int], check_one: Callable[[Stored], Fault | None]
) -> list[Stored]:
    try:
        page = sorted(records, key=place)
    except (ValueError, OverflowError) as error:
        raise ProtocolError(shown(f"{what}: {error}")) from error
    for record in page:
        if fault := check_one(record):
            raise ProtocolError(shown(f"{what}: {fault.code}: {fault.message}"))
    return page


def exchanges_bar(
    exchange: str,
    product: str,
    period: str,
    start: int,
    said: Candle,
    *,
    quote_volume: float | None = None,
    vwap: float | None = None,
    trades: int | None = None,
    buy_volume: float | None = None,
) -> Bar:
    """Return a candle that an exchange made, `start` in microseconds; completeness and receipt are the caller's."""
    return Bar(
        event_id=bar_id(exchange, product, period, start, "exchange"),
        exchange=exchange,
        product=product,
        period=period,
        start=start,
        open=said.open,
        high=said.high,
        low=said.low,
        close=said.close,
        volume=said.volume,
        quote_volume=quote_volume,
        vwap=vwap,
        trades=trades,
        buy_volume=buy_volume,
        complete=False,
        revision=0,
        origin="exchange",
        received_time=0,
    )
