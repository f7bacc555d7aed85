"""The one validator: what a well-formed record must also satisfy before streams fold it or the sink stores it.

Every check depends on the record alone, so both rooms always agree. The bounds keep sums finite: with prices up to
1e15 and sizes up to 1e18, no statistic over a day of any feed can overflow a double.
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Alert, Bar, Event, Record, Stat, Tick, Trade

MAX_PRICE: Final = 1e15
MAX_SIZE: Final = 1e18
MAX_TIME: Final = 4_102_444_800 * MICROS_PER_SECOND
"""2100-01-01, in microseconds."""
MAX_AHEAD: Final = 10 * MICROS_PER_SECOND
"""How far exchange_time may lie after received_time: further would freeze the product's event clock."""
MAX_EVENT_DATA: Final = 256 * 1024
"""Bytes of an event's JSON text."""
EVERY_EXCHANGE: Final = "*"
"""The exchange of an alert whose rule compares several."""
OWN_PREFIX: Final = "x-"
"""Exchanges of a tenant's own ticks begin with it, those of the platform never do."""
TICK_PRICES: Final = ("best_bid", "best_ask", "open_24h", "high_24h", "low_24h")
TICK_SIZES: Final = ("size", "best_bid_size", "best_ask_size", "volume_24h", "volume_30d")
"""The prices and sizes that a tick may be without."""

PERIODS: Final = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86_400}
"""Seconds of each period that a bar may cover."""
ORIGINS: Final = frozenset({"trades", "ticks", "exchange"})
"""What a bar may be made of."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_PRODUCT = re.compile(r"[A-Z0-9][A-Z0-9._/-]{0,63}")
_PLAIN = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_MAX_ID: Final = 256
_MAX_PRODUCT: Final = 64
_ZERO_CHARACTER = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_MAX_DIGITS: Final = 400
"""Characters of a number in an event's data, and its largest exponent: the database's numeric holds far more."""


def _bounded(number: str) -> float:
    exponent = number.lower().partition("e")[2]
    if len(number) > _MAX_DIGITS or (exponent and abs(int(exponent)) > _MAX_DIGITS):
        raise ValueError(f"the number {number[:20]}… is beyond {_MAX_DIGITS} digits")
    return 0.0


_JSON: Final = msgspec.json.Decoder(float_hook=_bounded)
_PLAIN_JSON: Final = msgspec.json.Decoder()
_SIDES: Final = frozenset({None, "buy", "sell"})


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a record is refused: a stable code for dead letters and metrics, and a sentence with the offending value."""

    code: str
    message: str


def check(record: Record, dataset: str) -> Fault | None:
    """Return what is wrong with a record of a tenant's dataset, or None."""
    if isinstance(record, Tick):
        own = dataset == "own-ticks"
        return None if _is_sound_tick(record, own=own) else _check_tick(record, own=own)
    if isinstance(record, Trade):
        return None if _is_sound_trade(record) else _check_trade(record)
    if isinstance(record, Bar):
        return _check_bar(record)
    if isinstance(record, Event):
        return check_event(record)
    if isinstance(record, Stat | Alert):
        spans = isinstance(record, Alert) and record.exchange == EVERY_EXCHANGE
        return _check_time("at", record.at) or check_names("x" if spans else record.exchange, record.product)
    return None


def _check_tick(tick: Tick, *, own: bool) -> Fault | None:
    return (
        check_names(tick.exchange, tick.product)
        or _check_owner(tick.exchange, own=own)
        or _check_identity(tick.event_id, tick.exchange, tick.product)
        or _check_price("price", tick.price)
        or _check_tick_numbers(tick)
        or _check_side(tick.side)
        or _check_times(tick.exchange_time, tick.received_time)
    )


def _check_tick_numbers(tick: Tick) -> Fault | None:
    for name in TICK_PRICES:
        price = getattr(tick, name)
        if price is not None and (fault := _check_price(name, price)):
            return fault
    for name in TICK_SIZES:
        size = getattr(tick, name)
        if size is not None and (fault := _check_size(name, size)):
            return fault
    return None if tick.quote_time is None else _check_time("quote_time", tick.quote_time)


def _check_trade(trade: Trade) -> Fault | None:
    return (
        check_names(trade.exchange, trade.product)
        or _check_identity(trade.event_id, trade.exchange, trade.product)
        or _check_price("price", trade.price)
        or _check_size("size", trade.size)
        or _check_side(trade.side)
        or _check_times(trade.exchange_time, trade.received_time)
    )


def _check_bar(bar: Bar) -> Fault | None:
    return (
        check_names(bar.exchange, bar.product)
        or _check_identity(bar.event_id, bar.exchange, bar.product)
        or _check_period(bar)
        or _check_bar_prices(bar)
        or _check_bar_amounts(bar)
        or _check_times(bar.start, bar.received_time, "start")
    )


def _check_period(bar: Bar) -> Fault | None:
    seconds = PERIODS.get(bar.period)
    if seconds is None:
        return Fault("invalid_period", f"period {bar.period[:60]!r} is none of {', '.join(PERIODS)}")
    if bar.start % (seconds * MICROS_PER_SECOND):
        return Fault("invalid_time", f"start {bar.start} is not aligned to {bar.period}")
    if bar.origin not in ORIGINS:
        return Fault("invalid_origin", f"origin {bar.origin[:60]!r} is none of {', '.join(sorted(ORIGINS))}")
    return None


def _check_bar_prices(bar: Bar) -> Fault | None:
    for name in ("open", "high", "low", "close", "vwap"):
        price = getattr(bar, name)
        if price is not None and (fault := _check_price(name, price)):
            return fault
    if bar.low <= min(bar.open, bar.close) and max(bar.open, bar.close) <= bar.high:
        return None
    return Fault("invalid_price", f"open {bar.open!r} and close {bar.close!r} leave {bar.low!r} to {bar.high!r}")


def _check_bar_amounts(bar: Bar) -> Fault | None:
    for name, limit in (("volume", MAX_SIZE), ("buy_volume", MAX_SIZE), ("quote_volume", MAX_SIZE * MAX_PRICE)):
        amount = getattr(bar, name)
        if amount is not None and (fault := _check_size(name, amount, limit)):
            return fault
    if bar.trades is not None and bar.trades < 0:
        return Fault("invalid_size", f"trades {bar.trades} is below 0")
    return None


def check_event(event: Event, *, is_sound_json: bool = False) -> Fault | None:
    """Return what is wrong with an event, or None; `is_sound_json`: its data is JSON of which `is_plain` is true."""
    return None if _is_sound_event(event, is_sound_json=is_sound_json) else _check_event(event)


def _check_event(event: Event) -> Fault | None:
    for name in ("type", "source", "event_id"):
        value = getattr(event, name)
        if not _PLAIN.fullmatch(value.replace(":", "", 1) if name == "event_id" else value):
            return Fault("invalid_name", f"{name} {value[:60]!r} is not 1 to 256 printable characters")
    if event.product is not None and not _PRODUCT.fullmatch(event.product):
        return Fault("invalid_name", f"product {event.product[:60]!r} is not a product name such as BTC-USD")
    return (
        _check_data(event.data) or _check_time("time", event.time) or _check_time("received_time", event.received_time)
    )


def _check_data(data: str) -> Fault | None:
    if len(data) > MAX_EVENT_DATA:
        return Fault("too_large", f"data has {len(data)} characters, at most {MAX_EVENT_DATA} are taken")
    try:
        _JSON.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        return Fault("invalid_json", f"data is not JSON: {error}")
    if _ZERO_CHARACTER.search(data):
        return Fault("invalid_json", "data holds \\u0000, which the database refuses")
    return None


def check_names(exchange: str, product: str) -> Fault | None:
    """Return what is wrong with the name of an exchange or a product, or None."""
    if not _NAME.fullmatch(exchange):
        return Fault("invalid_name", f"exchange {exchange[:60]!r} is not a name such as coinbase")
    if not _PRODUCT.fullmatch(product):
        return Fault("invalid_name", f"product {product[:60]!r} is not a product name such as BTC-USD")
    return None


def _check_owner(exchange: str, *, own: bool) -> Fault | None:
    if exchange.startswith(OWN_PREFIX) is not own:
        rule = "must" if own else "must not"
        return Fault("wrong_exchange", f"exchange {exchange!r}: in this dataset it {rule} begin with {OWN_PREFIX}")
    return None


def _check_identity(event_id: str, exchange: str, product: str) -> Fault | None:
    prefix = f"{exchange}:{product}:"
    if not event_id.startswith(prefix) or not _PLAIN.fullmatch(event_id):
        return Fault("invalid_id", f"event_id {event_id[:60]!r} must begin with {prefix!r}")
    return None


def _check_price(name: str, price: float) -> Fault | None:
    if 0.0 < price <= MAX_PRICE:
        return None
    return Fault("invalid_price", f"{name} {price!r} is not a finite number above 0 and at most {MAX_PRICE:g}")


def _check_size(name: str, size: float, limit: float = MAX_SIZE) -> Fault | None:
    if 0.0 <= size <= limit and not math.isnan(size):
        return None
    return Fault("invalid_size", f"{name} {size!r} is not a finite number from 0 to {limit:g}")


def _check_side(side: str | None) -> Fault | None:
    return None if side in _SIDES else Fault("invalid_side", f"side {side[:60]!r} is neither buy nor sell")  # type: ignore[index]


def _check_times(exchange_time: int, received_time: int, name: str = "exchange_time") -> Fault | None:
    fault = _check_time(name, exchange_time) or _check_time("received_time", received_time)
    if fault is None and exchange_time > received_time + MAX_AHEAD:
        seconds = (exchange_time - received_time) / MICROS_PER_SECOND
        return Fault("time_ahead", f"{name} lies {seconds:.1f} s after received_time, at most 10 s are taken")
    return fault


def _check_time(name: str, micros: int) -> Fault | None:
    if 0 < micros < MAX_TIME:
        return None
    return Fault("invalid_time", f"{name} {micros} is not between 1970 and 2100")


# ---- the same in one expression: nearly all records are sound, and each is checked three times ----


def _is_sound_tick(tick: Tick, *, own: bool) -> bool:
    """Say whether nothing is wrong with a tick; False means that `_check_tick` has to look."""
    return (
        _is_sound_identity(tick.event_id, tick.exchange, tick.product)
        and tick.exchange.startswith(OWN_PREFIX) is own
        and 0.0 < tick.price <= MAX_PRICE
        and (tick.best_bid is None or 0.0 < tick.best_bid <= MAX_PRICE)
        and (tick.best_ask is None or 0.0 < tick.best_ask <= MAX_PRICE)
        and (tick.open_24h is None or 0.0 < tick.open_24h <= MAX_PRICE)
        and (tick.high_24h is None or 0.0 < tick.high_24h <= MAX_PRICE)
        and (tick.low_24h is None or 0.0 < tick.low_24h <= MAX_PRICE)
        and (tick.size is None or 0.0 <= tick.size <= MAX_SIZE)
        and (tick.best_bid_size is None or 0.0 <= tick.best_bid_size <= MAX_SIZE)
        and (tick.best_ask_size is None or 0.0 <= tick.best_ask_size <= MAX_SIZE)
        and (tick.volume_24h is None or 0.0 <= tick.volume_24h <= MAX_SIZE)
        and (tick.volume_30d is None or 0.0 <= tick.volume_30d <= MAX_SIZE)
        and (tick.quote_time is None or 0 < tick.quote_time < MAX_TIME)
        and tick.side in _SIDES
        and are_sound_times(tick.exchange_time, tick.received_time)
    )


def _is_sound_trade(trade: Trade) -> bool:
    """Say whether nothing is wrong with a trade; False means that `_check_trade` has to look."""
    return (
        _is_sound_identity(trade.event_id, trade.exchange, trade.product)
        and 0.0 < trade.price <= MAX_PRICE
        and 0.0 <= trade.size <= MAX_SIZE
        and trade.side in _SIDES
        and are_sound_times(trade.exchange_time, trade.received_time)
    )


_KIND_OF: Final = bytes.maketrans(b"123456789.E-", b"0000000000e+")
"""Every digit and point to 0, every E to e, every sign to +."""
_LONG_NUMBER: Final = b"0" * 300
_ZERO: Final = b"\\u0000"


def _is_sound_event(event: Event, *, is_sound_json: bool) -> bool:
    """Say whether nothing is wrong with an event; False means that `_check_event` has to look."""
    event_id, product, data = event.event_id, event.product, event.data
    return (
        0 < len(event.type) <= _MAX_ID
        and 0 < len(event.source) <= _MAX_ID
        and 0 < len(event_id) <= _MAX_ID
        and event_id not in {"", ":"}
        and event.type.isprintable()
        and event.source.isprintable()
        and event_id.isprintable()
        and (product is None or (len(product) <= _MAX_PRODUCT and _is_product(product)))
        and 0 < event.time < MAX_TIME
        and 0 < event.received_time < MAX_TIME
        and len(data) <= MAX_EVENT_DATA
        and (is_sound_json or _is_sound_data(data))
    )


def is_plain(text: bytes) -> bool:
    """Say whether no number in a JSON text is beyond _MAX_DIGITS, and no character zero, by the look of it alone."""
    kinds = text.translate(_KIND_OF)
    is_long = len(text) >= len(_LONG_NUMBER) and _LONG_NUMBER in kinds
    return not is_long and b"0e000" not in kinds and b"0e+000" not in kinds and _ZERO not in text


def _is_sound_data(data: str) -> bool:
    try:
        return is_plain(data.encode()) and _is_json(data)
    except UnicodeEncodeError:
        return False


def _is_json(data: str) -> bool:
    try:
        _PLAIN_JSON.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


@lru_cache(maxsize=4096)
def _is_product(product: str) -> bool:
    return _PRODUCT.fullmatch(product) is not None


def are_sound_times(exchange_time: int, received_time: int) -> bool:
    """Say whether nothing is wrong with a record's times."""
    return 0 < exchange_time < MAX_TIME and 0 < received_time < MAX_TIME and exchange_time <= received_time + MAX_AHEAD


def _is_sound_identity(event_id: str, exchange: str, product: str) -> bool:
    """Say whether names and id are right; an id that is not printable, or longer than usual, is left to `_PLAIN`."""
    try:
        prefix = id_prefix(exchange, product)
    except ValueError:
        return False
    return event_id.startswith(prefix) and event_id.isprintable() and len(event_id) <= _MAX_ID


@lru_cache(maxsize=4096)
def id_prefix(exchange: str, product: str) -> str:
    """Return how the ids of a product begin; raises ValueError, which no cache keeps, for names that cannot be."""
    if fault := check_names(exchange, product):
        raise ValueError(f"{fault.code}: {fault.message}")
    return f"{exchange}:{product}:"
