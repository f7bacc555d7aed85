"""The JSON Schema of a record as `schemas.render` shows it, made from its Avro schema. Pure."""

from typing import Any, Final

from schemas import registry

Json = dict[str, Any]
_PLAIN: Final[dict[str, Json]] = {
    "string": {"type": "string"},
    "bytes": {"type": "string", "contentEncoding": "base64"},
    "double": {"type": "number"},
    "long": {"type": "integer"},
    "int": {"type": "integer"},
    "boolean": {"type": "boolean"},
}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}


def rendered_schema(record: str) -> Json:
    """Return the schema of a record's JSON; `record` is the name of its .avsc, such as tick."""
    return _schema(registry.current(record).json)


def _schema(avro: Any) -> Json:  # parsed JSON
    if isinstance(avro, str):
        return dict(_PLAIN[avro])
    if isinstance(avro, list):
        inner = _schema(next(branch for branch in avro if branch != "null"))
        return inner | {"type": [inner["type"], "null"]}
    if avro.get("logicalType") == "timestamp-micros":
        return dict(_TIME)
    return {"record": _record, "array": _array, "map": _map}[avro["type"]](avro)


def _array(avro: Json) -> Json:
    return {"type": "array", "items": _schema(avro["items"])}


def _map(avro: Json) -> Json:
    return {"type": "object", "additionalProperties": _schema(avro["values"])}


def _record(avro: Json) -> Json:
    fields = avro["fields"]
    return {
        "type": "object",
        "description": avro["doc"],
        "required": [field["name"] for field in fields],
        "properties": {field["name"]: _schema(field["type"]) | _documented(field) for field in fields},
    }


def _documented(field: Json) -> Json:
    return {"description": field["doc"]} if "doc" in field else {}
