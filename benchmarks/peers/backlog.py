"""The ticks' bytes, millions in a minute: numpy writes each field of many records at once, as `schemas.codec` would.

That works because every field of these ticks has a fixed width but `side`, so buys and sells are written apart. A test
holds the bytes equal to the codec's.
"""

from collections.abc import Iterator
from itertools import cycle
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import SECOND
from benchmarks.peers.ticks import BEGIN, EXCHANGE, FIRST_SEQUENCE, FIRST_TRADE, PER_SECOND, PRODUCTS
from schemas import registry

CHUNK: Final = 50_000
"""Ticks that are written in one go: a whole number of rounds of the products."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Octets = NDArray[np.uint8]
_PRESENT: Final = b"\x02"
_NULL: Final = b"\x00"


def encoded(count: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and framed value of the first `count` ticks."""
    keys = [product.encode() for product in PRODUCTS]
    for start in range(0, count, CHUNK):
        yield from zip(cycle(keys), _values(np.arange(start, min(start + CHUNK, count))), strict=False)


def _values(numbers: Ints) -> list[bytes]:
    sells = numbers % 3 == 0
    values = np.empty(len(numbers), object)
    for side, chosen in ((b"sell", sells), (b"buy", ~sells)):
        values[chosen] = _records(numbers[chosen], side)
    listed: list[bytes] = values.tolist()
    return listed


def _records(numbers: Ints, side: bytes) -> list[bytes]:
    """Return framed ticks of one side, by number."""
    table = np.hstack([np.broadcast_to(part, (len(numbers), part.shape[1])) for part in _parts(numbers, side)])
    width, whole = table.shape[1], table.tobytes()
    return [whole[at : at + width] for at in range(0, len(whole), width)]


def _parts(numbers: Ints, side: bytes) -> Iterator[Octets]:
    turn = numbers % len(PRODUCTS)
    price = (100.0 + turn) + numbers * 7919 % 10_007 / 100
    time = BEGIN + numbers * SECOND // PER_SECOND
    exchange, product = EXCHANGE.encode(), [_text(b"P"), _digits(turn, 2), _text(b"-USD")]
    sequence = _digits(FIRST_SEQUENCE + numbers, len(str(FIRST_SEQUENCE)))
    yield _text(b"\x00" + registry.current("tick").schema_id.to_bytes(4, "big"))
    size = len(exchange) + 1 + len(PRODUCTS[0]) + 1 + sequence.shape[1]
    yield from (_length(size), _text(exchange + b":"), *product, _text(b":"), sequence)
    yield from (_length(len(exchange)), _text(exchange), _length(len(PRODUCTS[0])), *product)
    yield from (_text(_PRESENT), _varints(FIRST_SEQUENCE + numbers), _text(_PRESENT), _varints(FIRST_TRADE + numbers))
    yield from (_text(_PRESENT), _length(len(side)), _text(side), _doubles(price))
    for column in ((1 + numbers * 31 % 640) / 64, price - 0.01, np.array([12.5]), price + 0.01, np.array([0.4])):
        yield from (_text(_PRESENT), _doubles(column))
    yield _text(_NULL)
    for column in (price - 1.25, price + 3.5, price - 4.5, 94_381.0 + numbers / 100, 2_295_579.0 + numbers / 100):
        yield from (_text(_PRESENT), _doubles(column))
    yield from (_varints(time), _varints(time + 1_500))


def _text(octets: bytes) -> Octets:
    return np.frombuffer(octets, np.uint8)[np.newaxis]


def _length(size: int) -> Octets:
    return _text(bytes([size << 1]))


def _doubles(column: Floats) -> Octets:
    return np.ascontiguousarray(column, "<f8").view(np.uint8).reshape(len(column), 8)


def _digits(numbers: Ints, width: int) -> Octets:
    powers: Any = 10 ** np.arange(width - 1, -1, -1)
    digits: Octets = (numbers[:, np.newaxis] // powers % 10 + ord("0")).astype(np.uint8)
    return digits


def _varints(numbers: Ints) -> Octets:
    """Return zigzag varints of positive numbers that all take as many bytes; raises ValueError when they do not."""
    zigzag = numbers << 1
    width = _varint_width(int(zigzag[0]))
    if width != _varint_width(int(zigzag[-1])):
        raise ValueError("the numbers take a byte more from here on: choose a first one that leaves room")
    octets: Octets = (zigzag[:, np.newaxis] >> (7 * np.arange(width)) & 0x7F).astype(np.uint8)
    octets[:, :-1] |= 0x80
    return octets


def _varint_width(number: int) -> int:
    return (number.bit_length() + 6) // 7
