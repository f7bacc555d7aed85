"""What the OpenAPI document says of what search answers: rows by the records' Avro schemas, pages, exports. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from api.search.collections import COLLECTIONS, Collection
from api.search.encoding import MEDIA_TYPES, encoded, first_bytes
from api.search.series import CCXT, FIELDS

Json = dict[str, Any]

_KINDS: Final[Mapping[str, Json]] = {
    "string": {"type": "string"},
    "double": {"type": "number"},
    "long": {"type": "integer"},
    "int": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "timestamp-micros": {"type": "string", "format": "date-time"},
}
_BAR: Final = {
    "product": "BTC-USD",
    "exchange": "coinbase",
    "period": "4h",
    "start": "2026-01-31T12:00:00.000000Z",
    "open": 61902.5,
    "high": 61950.0,
    "low": 61800.25,
    "close": 61900.0,
    "volume": 12.5,
    "complete": True,
    "bars": 4,
    "filled": False,
}
_ANY_JSON: Final = {("events", "data")}
"""Columns that hold JSON of any kind."""
_PAGE_MEMBERS: Final[Json] = {
    "next_cursor": {
        "type": ["string", "null"],
        "description": "for the next page; null after the last row, never with order=ingested",
    },
    "count": {
        "type": "object",
        "description": "with count=true: rows in all",
        "required": ["rows", "exact"],
        "properties": {
            "rows": {"type": "integer"},
            "exact": {"type": "boolean", "description": "false: an estimate from the database's statistics"},
        },
    },
}


def rows_of(name: str, example: Json) -> Json:
    """Return the answer with rows of one collection."""
    return answer(_row(COLLECTIONS[name]), example)


def rows_of_any(example: Json) -> Json:
    """Return the answer with rows of every collection, each with its dataset and id."""
    kinds = []
    for collection in COLLECTIONS.values():
        row = _row(collection)
        named = {"dataset": {"const": collection.name}, "event_id": {"type": "string"}}
        kinds.append(row | {"properties": named | row["properties"], "title": collection.name})
    return answer({"anyOf": kinds}, example)


def series() -> Json:
    """Return the answer with bars: as stored, of a series, or in ccxt's columns."""
    stored = _row(COLLECTIONS["bars"])
    own = {"bars": {"type": "integer", "description": "stored bars in it"}, "filled": {"type": "boolean"}}
    shared = {name: _nullable(stored["properties"][name]) for name in FIELDS if name in stored["properties"]}
    gathered = {"type": "object", "title": "series", "properties": shared | own}
    ccxt = {
        "type": "array",
        "title": "ccxt",
        "description": ", ".join(CCXT) + "; start in milliseconds since 1970",
        "items": {"type": ["number", "null"]},
        "minItems": len(CCXT),
        "maxItems": len(CCXT),
    }
    return answer({"anyOf": [stored, gathered, ccxt]}, _BAR)


def _nullable(schema: Json) -> Json:
    kind = schema["type"]
    return schema | {"type": kind if isinstance(kind, list) else [kind, "null"]}


def answer(row: Json, example: Json | list[Any]) -> Json:
    """Return the description of an answer with such rows, as a page and as exports."""
    page = {
        "type": "object",
        "required": ["rows", "next_cursor"],
        "properties": {"rows": {"type": "array", "items": row}} | _PAGE_MEMBERS,
    }
    content: Json = {
        "application/json": {
            "schema": page,
            "examples": {"page": {"value": {"rows": [example], "next_cursor": "Vd3sTg…"}}},
        }
    }
    return {"description": "A page of rows, or all of them as a stream", "content": content | exports(example)}


def exports(example: Json | list[Any]) -> Json:
    """Return what an export has in it, by its media type: the example as its only line."""
    header = list(example)
    return {
        media_type: {
            "schema": {"type": "string", "description": "a line a row"},
            "example": (first_bytes(form, header) + encoded(form, header, [example])).decode(),
        }
        for form, media_type in MEDIA_TYPES.items()
    }


def _row(collection: Collection) -> Json:
    properties = {name: _field(collection.name, one) for name, one in collection.schema.items()}
    return {"type": "object", "title": collection.name, "properties": properties}


def _field(collection: str, avro: Mapping[str, Any]) -> Json:
    described = {"description": avro["doc"]} if "doc" in avro else {}
    return ({} if (collection, avro["name"]) in _ANY_JSON else _type(avro["type"])) | described


def _type(avro: Any) -> Json:  # parsed JSON
    if isinstance(avro, list):
        inner = _type(next(branch for branch in avro if branch != "null"))
        return inner | {"type": [inner["type"], "null"]}
    if isinstance(avro, str):
        return dict(_KINDS[avro])
    if "logicalType" in avro:
        return dict(_KINDS[avro["logicalType"]])
    return {"map": _map, "array": _array, "record": _record}[avro["type"]](avro)


def _map(avro: Any) -> Json:
    return {"type": "object", "additionalProperties": _type(avro["values"])}


def _array(avro: Any) -> Json:
    return {"type": "array", "items": _type(avro["items"])}


def _record(avro: Any) -> Json:
    return {"type": "object", "properties": {one["name"]: _stored(one["type"]) for one in avro["fields"]}}


def _stored(avro: Any) -> Json:
    """Within JSON that was stored, times are what they are on the wire: microseconds."""
    if isinstance(avro, dict) and avro.get("logicalType") == "timestamp-micros":
        return {"type": "integer", "description": "microseconds since 1970"}
    return _type(avro)
