"""From record batches to records of the engine: decode, validate, group by key. Pure.

Many records are decoded and validated by columns, those of several sources in one pass; few of them, and whatever the
columns are not certain of, one by one. A record that cannot be taken is left out and counted by reason; it never stops
the ones beside it. The sink, which reads the same records through the same validator, keeps it as a dead letter.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, TypeAlias

import numpy as np

from pulsestream.core.log import logger
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.columns import Bools, Ints
from schemas.errors import DecodeError
from schemas.records import Tick, Trade
from schemas.validate import check
from streams.blocks import BACKFILL_HEADER, MICROS, Block, BlockRecord
from streams.engine.cut import KeyBatch, cut
from streams.engine.inputs import Row, Table, row_of
from streams.tables import Found, Kind, Name, find

DATASETS: Final = ("ticks", "own-ticks", "trades")
"""What is folded."""
CROSSOVER: Final = 120
"""Records that take as long by columns as one by one (measured: benchmarks/streams_decode.py)."""
FEW: Final = 8
"""Records of a key that take as long cut into panes as one by one (likewise)."""
SHOWN: Final = 10
"""Offsets of skipped records in one line of the log."""
_KINDS: Final[dict[str, Kind]] = {"ticks": Tick, "own-ticks": Tick, "trades": Trade}
_OWN: Final[dict[str, bool | None]] = {"ticks": False, "own-ticks": True, "trades": None}
"""Whether a dataset holds a tenant's own ticks; trades may be anybody's."""
_OFFSET: Final = attrgetter("offset")
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """One partition of a tenant's input topic."""

    tenant: str
    dataset: str
    topic: str
    partition: int
    topic_id: str


Records: TypeAlias = dict[Name, KeyBatch | list[Row]]
"""Of each key, in offset order."""


@dataclass(frozen=True, slots=True)
class Intake:
    """The records of a source by key, those left out by reason, and the offset after the last one."""

    next_offset: int
    records: Records = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


Batch: TypeAlias = tuple[Source, Sequence[Block]]
"""Blocks of a source, in offset order; at least one."""


def take_in(source: Source, blocks: Sequence[Block]) -> Intake:
    """Decode and validate the records of blocks of one source and group them by key."""
    return take_in_many([(source, blocks)])[0]


def take_in_many(batches: Sequence[Batch]) -> list[Intake]:
    """Do the same for each of several batches, of different sources, in one pass."""
    intakes: dict[int, Intake] = {}
    for kind in (Tick, Trade):
        chosen = [number for number, (source, _) in enumerate(batches) if _KINDS[source.dataset] is kind]
        intakes.update(zip(chosen, _take_in(kind, [batches[number] for number in chosen]), strict=True))
    return [intakes[number] for number in range(len(batches))]


def take_in_rows(source: Source, blocks: Sequence[Block]) -> Intake:
    """Do the same for one source, record by record."""
    intake = Intake(blocks[-1].next_offset)
    intake.records.update(_rows(intake.skipped, source, (record for block in blocks for record in block.records())))
    return intake


def _take_in(kind: Kind, batches: Sequence[Batch]) -> list[Intake]:
    if sum(len(block) for _, blocks in batches for block in blocks) >= CROSSOVER:
        try:
            return _by_columns(kind, batches)
        except Exception:  # noqa: BLE001 - whatever bytes lead the columns into: one by one, only those that do are left out
            _log.error("records are taken one by one: their columns failed", exc_info=True)
    return [take_in_rows(source, blocks) for source, blocks in batches]


def key_of(tenant: str, dataset: str, exchange: str, product: str) -> str:
    """Return the name of a source of a product. The product is last: it may hold slashes, the others cannot."""
    return f"{tenant}/{dataset}/{exchange}/{product}"


def parts_of(key: str) -> tuple[str, str, str, str]:
    """Return the tenant, dataset, exchange and product of a key."""
    tenant, dataset, exchange, product = key.split("/", 3)
    return tenant, dataset, exchange, product


def source_topic(key: str) -> str:
    """Return the topic that a key's records come from."""
    tenant, dataset, _, _ = parts_of(key)
    return tenant_topic(tenant, dataset)


# ---- one by one ----


def _rows(skipped: Counter[str], source: Source, records: Iterable[BlockRecord]) -> dict[Name, list[Row]]:
    rows: dict[Name, list[Row]] = {}
    left_out: dict[str, list[int]] = {}
    for record in records:
        taken = _taken(source, record)
        if isinstance(taken, str):
            left_out.setdefault(taken, []).append(record.offset)
        else:
            row = row_of(taken, record.offset, record.timestamp * MICROS)
            rows.setdefault((taken.exchange, taken.product), []).append(row)
    for reason, offsets in left_out.items():
        skipped[reason] += len(offsets)
        where = {"partition": source.partition, "offsets": offsets[:SHOWN], "records": len(offsets)}
        _log.debug("records skipped", topic=source.topic, reason=reason, **where)
    return rows


def _taken(source: Source, record: BlockRecord) -> Tick | Trade | str:
    """Return what a record holds, or the reason why it is left out."""
    if any(name == BACKFILL_HEADER for name, _ in record.headers):
        return "backfill"
    try:
        taken = codec(_KINDS[source.dataset]).decode(record.value)
        fault = check(taken, source.dataset)
    except DecodeError as error:
        return error.code
    except Exception:  # noqa: BLE001 - no bytes of a tenant's may end the worker, which every tenant needs
        where = {"partition": source.partition, "offset": record.offset}
        _log.error("record skipped", topic=source.topic, **where, exc_info=True)
        return "undecodable"
    return taken if fault is None else fault.code


# ---- by columns ----


def _by_columns(kind: Kind, batches: Sequence[Batch]) -> list[Intake]:
    intakes = [Intake(theirs[-1].next_offset) for _, theirs in batches]
    blocks = [(number, block) for number, (_, theirs) in enumerate(batches) for block in theirs]
    numbers = np.array([number for number, _ in blocks], np.int64)
    found = find(kind, [block for _, block in blocks], numbers, [_OWN[source.dataset] for source, _ in batches])
    _judge(found, [block for _, block in blocks], numbers, batches, intakes)
    theirs = [intakes[number].records for number in found.products.sources]
    singly = found.unnumbered | (np.diff(found.bounds) < FEW)
    singly |= np.array([name in records for records, name in zip(theirs, found.products.names, strict=True)], np.bool_)
    _add_rows(found, singly, theirs)
    _add_batches(found, ~singly, theirs)
    return intakes


def _add_rows(found: Found, chosen: Bools, theirs: Sequence[Records]) -> None:
    """Add the chosen products' records as rows to those of their sources."""
    keys, places, bounds = found.part(chosen)
    rows = found.rows(places)
    for (product, name), first, last in zip(keys, bounds, bounds[1:], strict=False):
        others = theirs[product].get(name)
        if not isinstance(others, list):
            theirs[product][name] = rows[first:last]
        else:
            theirs[product][name] = sorted([*others, *rows[first:last]], key=_OFFSET)


def _add_batches(found: Found, chosen: Bools, theirs: Sequence[Records]) -> None:
    """Add the chosen products' records, cut into panes."""
    keys, places, bounds = found.part(chosen)
    batches = cut(Table(found.columns(places), [name for _, name in keys], bounds))
    for (product, name), batch in zip(keys, batches, strict=True):
        theirs[product][name] = batch


def _judge(
    found: Found, blocks: Sequence[Block], numbers: Ints, batches: Sequence[Batch], intakes: Sequence[Intake]
) -> None:
    """Take the records one by one that columns are not certain of."""
    uncertain: dict[int, list[BlockRecord]] = {}
    block_of = found.frames.block[found.uncertain]
    for block in np.unique(block_of).tolist():
        places = found.frames.place[found.uncertain[block_of == block]].tolist()
        uncertain.setdefault(numbers[block].item(), []).extend(_picked(blocks[block], places))
    for number, records in uncertain.items():
        intakes[number].records.update(_rows(intakes[number].skipped, batches[number][0], records))


def _picked(block: Block, places: Sequence[int]) -> Iterable[BlockRecord]:
    """Return some records of a block: all are read at once (a backfill's), or few by themselves."""
    return block.records() if len(places) == len(block) else map(block.record, places)
