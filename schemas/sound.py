"""The validator for columns: of which ticks or trades among many `schemas.validate.check` finds nothing wrong. Pure.

Records of one product of one source come together on the way, since names are checked once for all of them. A record
that is not found sound here is not refused: `check` has to look at it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np

from schemas.columns import Bools, Column, Decoded, Floats, Ints, Octets, Words, are_plain, masks, words_of
from schemas.validate import (
    MAX_AHEAD,
    MAX_PRICE,
    MAX_SIZE,
    MAX_TIME,
    OWN_PREFIX,
    TICK_PRICES,
    id_prefix,
)

_LONGEST: Final = 64
"""Bytes of both names and the sizes before them, at most."""
_MULTIPLIERS: Final = np.random.default_rng(0).integers(1 << 62, (1 << 63) - 1, _LONGEST // 8).astype(np.uint64)
_BUY: Final = int.from_bytes(b"\x06buy", "little")
_SELL: Final = int.from_bytes(b"\x08sell", "little")


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """Records sorted by source and product, in the order given within each.

    `order`: the record at each place; those of `names[i]` are from place bounds[i] to before bounds[i + 1], and come
    from the source `sources[i]`. Names are None where they cannot be right or records of several products lie there.
    """

    order: Ints
    bounds: Ints
    sources: list[int]
    names: list[tuple[str, str] | None]

    def each(self, of_products: Ints) -> Ints:
        """Return of each record, in order, what is given of each product."""
        return np.repeat(of_products, np.diff(self.bounds))


def by_product(octets: Octets, decoded: Decoded, chosen: Ints, sources: Ints, own: Sequence[bool | None]) -> Products:
    """Sort the `chosen` records by source (their numbers in `sources`, of all) and product, comparing every byte.

    `own`: of each source whether it holds a tenant's own ticks; None where it may hold any exchange's records.
    """
    starts = decoded.columns["exchange"].values[chosen] - 1
    sizes = decoded.columns["product"].ends[chosen] - starts
    texts = octets.texts(starts, np.minimum(sizes, _LONGEST))
    places, begins = _sorted(_hashed(texts), sources[chosen], len(own))
    bounds = np.append(np.flatnonzero(begins), len(places))
    differs = _differs(texts[places]) & ~begins[1:]
    mixed = np.zeros(len(bounds) - 1, np.bool_)
    mixed[np.searchsorted(bounds, np.flatnonzero(differs) + 1, "right") - 1] = True
    firsts = places[bounds[:-1]]
    groups = zip(
        sources[chosen[firsts]].tolist(), starts[firsts].tolist(), sizes[firsts].tolist(), mixed.tolist(), strict=True
    )
    found = [
        (source, None if several or size > _LONGEST else _names(octets.part(start, start + size), own=own[source]))
        for source, start, size, several in groups
    ]
    return Products(chosen[places], bounds, [source for source, _ in found], [names for _, names in found])


def are_sound(octets: Octets, decoded: Decoded, products: Products) -> Bools:
    """Say of each record, in the products' order, whether nothing is wrong with it."""
    sound = _numbers(decoded) & _times(decoded.columns) & _sides(octets, decoded.columns["side"])
    return sound[products.order] & _identities(octets, decoded.columns["event_id"], products)


def are_buys(octets: Octets, side: Column) -> Bools:
    """Say of each record whether its side, if sound, is buy."""
    buys: Bools = side.known & (octets.words(side.values - 1) & np.uint64(0xFFFFFFFF) == _BUY)
    return buys


# ---- sorting ----


def _hashed(texts: Words) -> Words:
    hashed: Words = np.zeros(len(texts), np.uint64)
    for column, multiplier in zip(texts.T, _MULTIPLIERS, strict=False):
        hashed ^= hashed >> np.uint64(29)
        hashed += column
        hashed *= multiplier
    return hashed


def _sorted(hashed: Words, sources: Ints, count: int) -> tuple[Ints, Bools]:
    """Return the places in order of source, hash and place, and at which of them a source or hash begins.

    One number holds all three: of the hash as many bits as there is room for. What then looks alike is compared.
    """
    place_bits, source_bits = np.uint64(len(hashed).bit_length()), np.uint64(count.bit_length())
    room = source_bits + place_bits
    keys = (sources.astype(np.uint64) << (np.uint64(64) - source_bits)) | (hashed >> room << place_bits)
    keys = np.sort(keys | np.arange(len(hashed), dtype=np.uint64))
    places = (keys & ((np.uint64(1) << place_bits) - np.uint64(1))).view(np.int64)
    begins = np.ones(len(keys), np.bool_)
    keys >>= place_bits
    begins[1:] = keys[1:] != keys[:-1]
    return places, begins


def _differs(texts: Words) -> Bools:
    """Say of each text but the first whether it is another than the one before."""
    differs: Bools = np.logical_or.reduce(texts[1:] != texts[:-1], axis=1)
    return differs


@lru_cache(maxsize=4096)
def _names(key: bytes, *, own: bool | None) -> tuple[str, str] | None:
    """Return exchange and product, each behind its size; None when something is wrong with them."""
    end = 1 + (key[0] >> 1)
    try:
        names = key[1:end].decode(), key[end + 1 :].decode()
        id_prefix(*names)
    except ValueError:
        return None
    return names if own in {None, names[0].startswith(OWN_PREFIX)} else None


# ---- checking ----


def _identities(octets: Octets, event_id: Column, products: Products) -> Bools:
    """Say of each record, in the products' order, whether its id is right; of a product without names none is."""
    prefixes = [b"" if names is None else id_prefix(*names).encode() for names in products.names]
    sizes = np.array([len(prefix) for prefix in prefixes], np.int64)
    at = event_id.values[products.order]
    lengths = event_id.ends[products.order] - at
    width = max(words_of(lengths), words_of(sizes))
    texts = octets.texts(at, lengths, width)
    expected = Octets(prefix.ljust(_LONGEST, b"\0") for prefix in prefixes)
    expected_texts = expected.texts(np.arange(len(prefixes)) * _LONGEST, sizes, width)
    group = products.each(np.arange(len(prefixes)))
    begin: Bools = np.logical_and.reduce((texts & masks(sizes, width)[group]) == expected_texts[group], axis=1)
    return begin & are_plain(texts, lengths) & (sizes > 0)[group]


@cache
def _bounds(names: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Return of each double of a record the largest number that is too small, and the largest that is taken."""
    prices, below_zero = {"price", *TICK_PRICES}, np.nextafter(0.0, -1.0)
    too_small = np.array([0.0 if name in prices else below_zero for name in names])
    return too_small[:, None], np.array([MAX_PRICE if name in prices else MAX_SIZE for name in names])[:, None]


def _numbers(decoded: Decoded) -> Bools:
    too_small, largest = _bounds(decoded.names)
    bad: Bools = np.logical_or.reduce((decoded.doubles <= too_small) | (decoded.doubles > largest), axis=0)
    return ~bad


def _times(columns: Mapping[str, Column]) -> Bools:
    exchange_time, received_time = columns["exchange_time"].values, columns["received_time"].values
    sound = _in_range(exchange_time) & _in_range(received_time) & (exchange_time - MAX_AHEAD <= received_time)
    quote_time = columns.get("quote_time")
    return sound if quote_time is None else sound & (_in_range(quote_time.values) | ~quote_time.known)


def _in_range(times: Ints) -> Bools:
    return (times > 0) & (times < MAX_TIME)


def _sides(octets: Octets, side: Column) -> Bools:
    sells: Bools = octets.words(side.values - 1) & np.uint64(0xFFFFFFFFFF) == _SELL
    return are_buys(octets, side) | sells | ~side.known
