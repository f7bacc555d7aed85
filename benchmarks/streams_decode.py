"""What it costs to get records from a Kafka fetch to the engine: by columns, one by one, and of many sources at once.

Microseconds of CPU a record, the least of several runs: what disturbs a run only adds to it. Nothing is sent anywhere.
"""

import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from benchmarks.table import show
from pulsestream.core.headers import cloud_event
from schemas import registry
from schemas.codec import codec
from schemas.columns import column_decoder
from schemas.records import Tick
from schemas.sound import are_sound, by_product
from streams.blocks import Block, FetchedBytes, frame
from streams.engine.cut import cut
from streams.engine.inputs import Table
from streams.intake import Batch, Source, take_in, take_in_many, take_in_rows
from streams.tables import find

SIZES: Final = (2000, 500, 200, 120, 80, 20)
PRODUCTS: Final = 5
SOURCES: Final = 600
"""200 tenants with 3 partitions each."""
TICK: Final = Tick(
    event_id="",
    exchange="coinbase",
    product="",
    sequence=0,
    trade_id=881_613,
    side="buy",
    price=60_000.5,
    size=0.1,
    best_bid=59_999.0,
    best_bid_size=1.0,
    best_ask=60_001.0,
    best_ask_size=2.0,
    open_24h=61_000.0,
    high_24h=62_000.0,
    low_24h=59_000.0,
    volume_24h=10_000.0,
    volume_30d=300_000.0,
    exchange_time=1_700_000_000_000_000,
    received_time=1_700_000_000_050_000,
)


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - as all benchmarks are called
    """Print both tables; return the cost of a record in batches of 2,000 and of many sources."""
    seconds = 0.05 if quick else 0.5
    stages = {size: _stages(size, seconds) for size in SIZES}
    names = list(stages[SIZES[0]])
    rows = [(name, *(f"{stages[size][name]:.3f}" for size in SIZES)) for name in names]
    show("us a tick, by records in a batch", ["", *map(str, SIZES)], rows)
    spread = {count: _many(count, seconds) for count in (1, 3, 10, 30)}
    show(
        f"us a tick, by records of each of {SOURCES} sources",
        ["", *map(str, spread)],
        [(name, *(f"{spread[count][name]:.3f}" for count in spread)) for name in spread[1]],
    )
    return {
        "fetch_to_engine_us": stages[2000]["take in"] + stages[2000]["fetch: checksum, block"],
        "row_path_us": stages[2000]["take in by rows"],
        "sources_600_us": spread[3]["all in one pass"],
    }


def _stages(size: int, seconds: float) -> dict[str, float]:
    raw = _batch(size)
    [block] = _blocks(raw)
    released = registry.current("tick")
    decoder = column_decoder(released.json, struct.pack(">bI", 0, released.schema_id))
    if decoder is None:
        raise AssertionError("the schema of ticks has columns")
    frames, sources, own = frame([block]), np.zeros(1, np.int64), [False]
    octets, everything = frames.octets, np.arange(size)
    decoded = decoder.decode(octets, frames.start, frames.stop)
    products = by_product(octets, decoded, everything, sources[frames.block], own)
    found = find(Tick, [block], sources, own)
    names = [name for name in products.names if name]
    stages: dict[str, Callable[[], object]] = {
        "aiokafka: an object a record": lambda: _by_library(raw),
        "fetch: checksum, block": lambda: _blocks(raw),
        "frame": lambda: frame([block]),
        "decode": lambda: decoder.decode(octets, frames.start, frames.stop),
        "group": lambda: by_product(octets, decoded, everything, sources[frames.block], own),
        "validate": lambda: are_sound(octets, decoded, products),
        "columns": lambda: found.columns(slice(None)),
        "cut into panes": lambda: cut(Table(found.columns(slice(None)), names, found.bounds.tolist())),
        "take in": lambda: take_in(_source(0), [block]),
        "take in by rows": lambda: _by_rows([(_source(0), [block])]),
    }
    return {name: _cost(stage, size, seconds) for name, stage in stages.items()}


def _many(count: int, seconds: float) -> dict[str, float]:
    """Return the cost a tick when each of many sources has so many."""
    batches = [(_source(number), _blocks(_batch(count))) for number in range(SOURCES)]
    stages: dict[str, Callable[[], object]] = {
        "all in one pass": lambda: take_in_many(batches),
        "one after the other": lambda: [take_in(source, blocks) for source, blocks in batches],
        "one by one": lambda: _by_rows(batches),
    }
    return {name: _cost(stage, SOURCES * count, seconds) for name, stage in stages.items()}


def _by_rows(batches: Sequence[Batch]) -> None:
    for source, blocks in batches:
        take_in_rows(source, blocks)


def _by_library(raw: bytes) -> int:
    batch = DefaultRecordBatch(raw)
    batch.validate_crc()
    return sum(1 for _ in batch)


def _cost(stage: Callable[[], object], records: int, seconds: float) -> float:
    """Return the least CPU microseconds a record over repetitions that take so many seconds."""
    least, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.process_time_ns()
        stage()
        least = min(least, (time.process_time_ns() - begun) / 1000 / records)
    return least


def _source(number: int) -> Source:
    return Source(f"t{number}", "ticks", f"ps.t{number}.ticks.v1", 0, f"id{number}")


def _blocks(raw: bytes) -> list[Block]:
    fetched, blocks = FetchedBytes(raw), []
    while fetched.has_next():
        batch = fetched.next_batch()
        if not batch.validate_crc():
            raise AssertionError("the batch is damaged")
        blocks.append(batch.block())
    return blocks


def _batch(size: int) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for number in range(size):
        product, sequence = f"P{number % PRODUCTS}-USD", 90_000_000_000 + number
        event_id, time_ = f"coinbase:{product}:{sequence}", TICK.exchange_time + number * 1000
        tick = msgspec.structs.replace(
            TICK, event_id=event_id, product=product, sequence=sequence, exchange_time=time_, received_time=time_
        )
        headers = cloud_event(event_id, "pulsestream.tick.v1", "/coinbase", time_)
        builder.append(number, time_ // 1000, product.encode(), codec(Tick).encode(tick), headers=headers)
    return bytes(builder.build())
