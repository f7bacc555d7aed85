"""Records to bytes and back: Confluent's wire format around an Avro body.

Byte 0 is zero, bytes 1 to 4 are the schema id (big-endian), the rest is the Avro body (Confluent, "Wire format" of
the Schema Registry documentation). Each writer's schema is resolved to the newest one by its id, never by position.
Times stay integers: the logical type is for other readers, and datetime objects would cost more than the decoding.
"""

import io
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import fastavro
import msgspec

from schemas import records, registry
from schemas.columns import ColumnDecoder, column_decoder
from schemas.errors import DecodeError
from schemas.row_decoder import row_decoder
from schemas.row_encoder import row_encoder

R = TypeVar("R", bound=records.Record)
_PREFIX: Final = struct.Struct(">bI")
_MAGIC: Final = 0

NAMES: Final[dict[type[records.Record], str]] = {
    records.Tick: "tick",
    records.Trade: "trade",
    records.Event: "event",
    records.Stat: "stat",
    records.Bar: "bar",
    records.Alert: "alert",
    records.DeadLetter: "dead_letter",
    records.Feed: "feed",
    records.Tenant: "tenant",
    records.Subscription: "subscription",
    records.Rule: "rule",
    records.ProductList: "product_list",
}
DATASET_RECORDS: Final[dict[str, type[records.Record]]] = {
    "ticks": records.Tick,
    "own-ticks": records.Tick,
    "trades": records.Trade,
    "events": records.Event,
    "stats": records.Stat,
    "bars": records.Bar,
    "alerts": records.Alert,
    "dlq": records.DeadLetter,
}


class RecordCodec(Protocol[R]):
    """Encodes and decodes one kind of record."""

    def encode(self, record: R) -> bytes:
        """Return the framed bytes of a record."""

    def decode(self, value: bytes | None) -> R:
        """Return the record in framed bytes; raises DecodeError for anything that is not one, whole."""


class FastavroCodec(Generic[R]):
    """The row codec over fastavro, for any schema: the reference that the quicker functions for flat records equal."""

    def __init__(self, record_type: type[R]) -> None:
        self._type = record_type
        self._name = NAMES[record_type]
        self._schema_id = registry.current(self._name).schema_id
        self._reader = _parsed(self._schema_id)
        self._prefix = _PREFIX.pack(_MAGIC, self._schema_id)

    def encode(self, record: R) -> bytes:
        """Return the framed bytes of a record."""
        buffer = io.BytesIO()
        buffer.write(self._prefix)
        fastavro.schemaless_writer(buffer, self._reader, msgspec.to_builtins(record, builtin_types=(bytes,)))
        return buffer.getvalue()

    def decode(self, value: bytes | None) -> R:
        """Return the record in framed bytes; raises DecodeError for anything that is not one, whole."""
        if value is None or len(value) < _PREFIX.size or value[0] != _MAGIC:
            raise DecodeError("undecodable", f"no Confluent wire format: {_shown(value)}")
        schema_id = _PREFIX.unpack_from(value)[1]
        name = registry.by_id(schema_id).name
        if name != self._name:
            raise DecodeError("wrong_schema", f"schema id {schema_id} is {name}, expected {self._name}")
        body = io.BytesIO(value)
        body.seek(_PREFIX.size)
        try:
            fields = fastavro.schemaless_reader(body, _parsed(schema_id), self._reader)
        except Exception as error:  # fastavro raises whatever malformed bytes lead it into
            raise DecodeError("undecodable", f"not a {self._name}: {error!r}") from error
        if body.tell() != len(value):
            raise DecodeError("undecodable", f"{len(value) - body.tell()} bytes follow the {self._name}")
        return msgspec.convert(fields, self._type, builtin_types=(bytes,))


class RowCodec(Generic[R]):
    """The row codec in use: functions written for the schema of a flat record, fastavro for all others."""

    def __init__(self, record_type: type[R]) -> None:
        plain = FastavroCodec(record_type)
        released = registry.current(NAMES[record_type])
        prefix = _PREFIX.pack(_MAGIC, released.schema_id)
        self.encode: Callable[[R], bytes] = row_encoder(released.json, prefix, plain.encode)
        self.decode: Callable[[bytes | None], R] = row_decoder(released.json, prefix, record_type, plain.decode)


@cache
def codec(record_type: type[R]) -> RecordCodec[R]:
    """Return the codec of a record type; one object a process."""
    return RowCodec(record_type)


@cache
def column_codec(record_type: type[records.Record]) -> ColumnDecoder:
    """Return the decoder of many records of a type at once; raises TypeError for one that has none."""
    released = registry.current(NAMES[record_type])
    decoder = column_decoder(released.json, _PREFIX.pack(_MAGIC, released.schema_id))
    if decoder is None:
        raise TypeError(f"{released.name} cannot be decoded into columns")
    return decoder


def schema_id(value: bytes | None) -> int | None:
    """Return the schema id that framed bytes name, None where they are none."""
    framed = value is not None and len(value) >= _PREFIX.size and value[0] == _MAGIC
    return int(_PREFIX.unpack_from(value)[1]) if framed and value is not None else None


def decode_any(value: bytes | None) -> records.Record:
    """Return the record that the bytes' schema id says they are; raises DecodeError."""
    if value is None or len(value) < _PREFIX.size or value[0] != _MAGIC:
        raise DecodeError("undecodable", f"no Confluent wire format: {_shown(value)}")
    name = registry.by_id(_PREFIX.unpack_from(value)[1]).name
    record: records.Record = codec(_TYPES[name]).decode(value)
    return record


_TYPES: Final = {name: record_type for record_type, name in NAMES.items()}


@cache
def _parsed(schema_id: int) -> dict[str, Any]:
    schema = fastavro.parse_schema(_without_logical_types(registry.by_id(schema_id).json))
    return cast(dict[str, Any], schema)


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without_logical_types(value) for name, value in node.items() if name != "logicalType"}
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node


def _shown(value: bytes | None) -> str:
    return "null" if value is None else f"{len(value)} bytes beginning {value[:8].hex(' ')}"
