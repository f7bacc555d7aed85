"""Ticks or trades of many record batches as columns, sorted by source and product. Pure.

What is found here equals what the row path of `streams.intake` gives, which judges all the other records.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, TypeAlias

import msgspec
import numpy as np

from schemas import registry
from schemas.codec import NAMES
from schemas.columns import Bools, ColumnDecoder, Decoded, Floats, Ints, column_decoder
from schemas.records import Tick, Trade
from schemas.sound import Products, are_buys, are_sound, by_product
from streams.blocks import Block, Frames, frame
from streams.engine.inputs import Columns, Row, digest

Kind: TypeAlias = type[Tick | Trade]
Name: TypeAlias = tuple[str, str]
"""An exchange and a product: a key within a source."""
_IDENTITY: Final[dict[Kind, str]] = {Tick: "sequence", Trade: "trade_id"}


@dataclass(frozen=True, eq=False)
class Found:
    """The records of many blocks, decoded.

    The sound ones of a product are at the places bounds[i] to before bounds[i + 1] of `order`.
    """

    kind: Kind
    frames: Frames
    decoded: Decoded
    products: Products
    order: Ints
    bounds: Ints

    @cached_property
    def uncertain(self) -> Ints:
        """The records that have to be judged one by one, in the order of the blocks."""
        sound = np.zeros(len(self.frames.offset), np.bool_)
        sound[self.order] = True
        return np.flatnonzero(~sound)

    @property
    def unnumbered(self) -> Bools:
        """Say of each product whether a sound record of it has no number of its own."""
        missing = np.flatnonzero(~self.decoded.columns[_IDENTITY[self.kind]].known[self.order])
        unnumbered = np.zeros(len(self.products.names), np.bool_)
        unnumbered[np.searchsorted(self.bounds, missing, "right") - 1] = True
        return unnumbered

    def part(self, chosen: Bools) -> tuple[list[tuple[int, Name]], Ints | slice, list[int]]:
        """Return the chosen products that hold records, each with its name, the records' places, and their bounds."""
        sizes = np.diff(self.bounds)
        wanted = chosen & (sizes > 0)
        keys = [(product, self._name(product)) for product in np.flatnonzero(wanted).tolist()]
        whole = len(keys) == len(sizes)
        bounds = [0, *np.cumsum(sizes[wanted]).tolist()]
        return keys, slice(None) if whole else np.flatnonzero(np.repeat(wanted, sizes)), bounds

    def columns(self, places: Ints | slice) -> Columns:
        """Return the records at these places."""
        chosen, decoded = self.order[places], self.decoded.columns
        time = decoded["exchange_time"].values[chosen]
        return Columns(
            self.frames.offset[chosen],
            self.frames.appended_at[chosen],
            time,
            decoded["price"].values[chosen],
            decoded["size"].values[chosen],
            are_buys(self.frames.octets, decoded["side"])[chosen],
            decoded[_IDENTITY[self.kind]].values[chosen],
            self._quoted("best_bid", chosen),
            self._quoted("best_ask", chosen),
            self._quote_time(chosen, time),
        )

    def rows(self, places: Ints | slice) -> list[Row]:
        """Return the records at these places one by one; one without a number is known by its id's digest."""
        chosen, rows = self.order[places], self.columns(places).rows()
        event_id, octets = self.decoded.columns["event_id"], self.frames.octets
        for place in np.flatnonzero(~self.decoded.columns[_IDENTITY[self.kind]].known[chosen]).tolist():
            start, stop = event_id.values[chosen[place]].item(), event_id.ends[chosen[place]].item()
            identity = digest(octets.part(start, stop).decode())
            rows[place] = msgspec.structs.replace(rows[place], identity=identity)
        return rows

    def _name(self, product: int) -> Name:
        name = self.products.names[product]
        if name is None:
            raise TypeError("no record of a product without names is sound")
        return name

    def _quoted(self, name: str, chosen: Ints) -> Floats:
        column = self.decoded.columns.get(name)
        return np.full(len(chosen), np.nan) if column is None else column.values[chosen]

    def _quote_time(self, chosen: Ints, time: Ints) -> Ints:
        column = self.decoded.columns.get("quote_time")
        return time if column is None else np.where(column.known[chosen], column.values[chosen], time)


def find(kind: Kind, blocks: Sequence[Block], sources: Ints, own: Sequence[bool | None]) -> Found:
    """Decode blocks of several sources (of each block its number) and sort out what is certain and sound.

    `own`: of each source whether it holds a tenant's own ticks; None where it may hold any exchange's records.
    """
    frames = frame(blocks)
    decoded = _decoder(kind).decode(frames.octets, frames.start, frames.stop)
    chosen = np.flatnonzero(decoded.certain & frames.certain)
    products = by_product(frames.octets, decoded, chosen, sources[frames.block], own)
    sound = are_sound(frames.octets, decoded, products)
    counted = np.concatenate((np.zeros(1, np.int64), np.cumsum(sound, dtype=np.int64)))
    return Found(kind, frames, decoded, products, products.order[sound], counted[products.bounds])


@cache
def _decoder(kind: Kind) -> ColumnDecoder:
    released = registry.current(NAMES[kind])
    decoder = column_decoder(released.json, struct.pack(">bI", 0, released.schema_id))
    if decoder is None:
        raise TypeError(f"{released.name} cannot be decoded into columns")
    return decoder
