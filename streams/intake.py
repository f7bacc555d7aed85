"""From the records of a fetch to inputs of the engine: decode, validate, group by key. Pure.

A record that cannot be taken is left out and counted by reason; it never stops the ones beside it. The sink, which
reads the same records through the same validator, keeps it as a dead letter.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from pulsestream.core.log import logger
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.records import Tick
from schemas.validate import check
from streams.blocks import BACKFILL_HEADER
from streams.engine.inputs import Row, row_of

DATASETS: Final = ("ticks", "own-ticks")
"""What is folded."""
_TICK: Final = codec(Tick)
_log = logger(__name__)


class RawRecord(Protocol):
    """What is read of a consumer's record; `timestamp` is the broker's append time in milliseconds."""

    @property
    def offset(self) -> int:
        """The record's offset."""

    @property
    def timestamp(self) -> int:
        """The append time, milliseconds since 1970."""

    @property
    def value(self) -> bytes | None:
        """The framed record."""

    @property
    def headers(self) -> Iterable[tuple[str, bytes | None]]:
        """The headers."""


@dataclass(frozen=True, slots=True)
class Source:
    """One partition of a tenant's input topic."""

    tenant: str
    dataset: str
    topic: str
    partition: int
    topic_id: str


@dataclass(frozen=True, slots=True)
class Intake:
    """The inputs of a batch by key, each in offset order, and the records left out by reason."""

    inputs: dict[str, list[Row]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def take_in(source: Source, records: Iterable[RawRecord]) -> Intake:
    """Decode and validate the records of one batch and group them by key."""
    intake = Intake()
    for record in records:
        taken = _tick(source, record)
        if isinstance(taken, str):
            intake.skipped[taken] += 1
            continue
        key = key_of(source.tenant, source.dataset, taken.exchange, taken.product)
        intake.inputs.setdefault(key, []).append(row_of(taken, record.offset, record.timestamp * 1000))
    return intake


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


def _tick(source: Source, record: RawRecord) -> Tick | str:
    if any(name == BACKFILL_HEADER for name, _ in record.headers):
        return "backfill"
    try:
        tick = _TICK.decode(record.value)
        fault = check(tick, source.dataset)
    except DecodeError as error:
        return error.code
    except Exception:  # noqa: BLE001 - no bytes of a tenant's may end the worker, which every tenant needs
        _log.error(
            "record skipped", topic=source.topic, partition=source.partition, offset=record.offset, exc_info=True
        )
        return "undecodable"
    return tick if fault is None else fault.code
