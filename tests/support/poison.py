"""Records that nobody can take: every way in which a tick's bytes, names, numbers or times can be wrong."""

import random
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from schemas.codec import codec
from schemas.records import Tick, Trade

Sendable = tuple[str, bytes | None, Mapping[str, bytes]]
"""Key, value and headers of a record."""
_STAND_IN: Final = "QQQQQQ"
"""As long in UTF-8 as a lone surrogate twice."""
_SURROGATES: Final = b"\xed\xa0\x80\xed\xbf\xbf"
_LONG: Final = 450_000
"""Letters; the name stands in the product and in the id, and the record still fits a message."""


def _with(**fields: object) -> Callable[[Tick], bytes]:
    return lambda tick: codec(Tick).encode(msgspec.structs.replace(tick, **fields))


def _named(product: str) -> Callable[[Tick], bytes]:
    def encode(tick: Tick) -> bytes:
        named = msgspec.structs.replace(tick, product=product, event_id=f"{tick.exchange}:{product}:1")
        return codec(Tick).encode(named)

    return encode


def _surrogates(tick: Tick) -> bytes:
    return _named(_STAND_IN)(tick).replace(_STAND_IN.encode(), _SURROGATES)


def _of_another_schema(tick: Tick) -> bytes:
    trade = Trade(
        event_id=f"{tick.exchange}:{tick.product}:t1",
        exchange=tick.exchange,
        product=tick.product,
        trade_id=1,
        price=tick.price,
        size=1.0,
        side="buy",
        exchange_time=tick.exchange_time,
        received_time=tick.received_time,
    )
    return codec(Trade).encode(trade)


KINDS: Final[Mapping[str, Callable[[Tick], bytes | None]]] = {
    "null": lambda _: None,
    "empty": lambda _: b"",
    "truncated": lambda tick: codec(Tick).encode(tick)[:-7],
    "too long": lambda tick: codec(Tick).encode(tick) + b"\x00",
    "wrong first byte": lambda tick: b"\x01" + codec(Tick).encode(tick)[1:],
    "unknown schema": lambda tick: b"\x00" + struct.pack(">I", 999_999) + codec(Tick).encode(tick)[5:],
    "another schema": _of_another_schema,
    "no number": _with(price=float("nan")),
    "infinite": _with(price=float("inf")),
    "1e308": _with(price=1e308),
    "negative": _with(price=-1.0),
    "size 1e308": _with(size=1e308),
    "before 1970": _with(exchange_time=-1),
    "year 200000": _with(exchange_time=6_249_222_000_000_000_000, received_time=6_249_222_000_000_000_000),
    "ahead": lambda tick: _with(exchange_time=tick.received_time + 11_000_000)(tick),
    "another side": _with(side="both"),
    "zero character": _named("BTC\x00USD"),
    "lone surrogates": _surrogates,
    "long name": _named("A" * _LONG),
    "another id": _with(event_id="x"),
}


def poisoned(ticks: Iterable[Tick], share: float, seed: int) -> Iterator[tuple[Sendable, bool]]:
    """Yield records to send and whether each is sound: of `share` of the ticks a bad one takes the place.

    Kinds follow each other; long names, a megabyte each, are few.
    """
    chance, turn = random.Random(seed), 0
    kinds = [name for name in KINDS if name != "long name"]
    for tick in ticks:
        if chance.random() >= share:
            yield (tick.product, codec(Tick).encode(tick), {}), True
            continue
        kind = "long name" if turn % 200 == 0 else kinds[turn % len(kinds)]
        turn += 1
        yield (tick.product, KINDS[kind](tick), {}), False
