"""GET /asyncapi.json: topics and live messages (https://www.asyncapi.com/docs/reference/specification/v3.1.0).

It is made from the released Avro schemas and the types of the live messages, so that it cannot say anything else than
what is on the wire. The application that the document describes is PulseStream: it sends what tenants read, and
receives what they write.
"""

from importlib.metadata import version
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Response

from api.live import document as live
from pulsestream.core.topics import DATASETS
from schemas import registry
from schemas.codec import DATASET_RECORDS, NAMES

Json = dict[str, Any]
PATH: Final = "/asyncapi.json"

_KAFKA: Final = "kafka"
_AVRO: Final = "application/vnd.apache.avro+json;version=1.9.0"
_WRITTEN_BY_TENANTS: Final = ("events", "own-ticks")
_MEANINGS: Final = {
    "ticks": "Ticker updates of the products that the tenant is subscribed to.",
    "trades": "Their trades, one record each.",
    "own-ticks": "Ticker updates that the tenant publishes itself; their exchange begins with `x-`.",
    "events": "Events of the tenant's own, published over HTTP or directly.",
    "stats": "Rolling statistics. Of one key, window and time the record with the greatest `as_of` stands.",
    "bars": "Bars of 1 s to 1 d. Of one product, period and start the record with the greatest `as_of` stands.",
    "alerts": "Transitions of alerts. A consumer ignores a `seq` that is not above the last of its rule and product.",
    "dlq": "Records that were refused, with their original bytes.",
}
_HEADERS: Final[Json] = {
    "type": "object",
    "description": "CloudEvents in binary mode (Kafka Protocol Binding, section 3.2)",
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string", "description": "the record's event_id"},
        "ce_type": {"type": "string"},
        "ce_source": {"type": "string"},
        "ce_time": {"type": "string", "format": "date-time"},
        "content-type": {"type": "string", "const": "application/avro"},
        "traceparent": {"type": "string", "description": "W3C Trace Context, where the record has one"},
    },
}
_DESCRIPTION: Final = (
    "PulseStream's topics, and the live view over a WebSocket. Each tenant has topics of its own, "
    "`ps.{tenant}.{dataset}.v1`; the key of a record is its product in UTF-8, so one product is in order. "
    "Values are in Confluent's wire format: a zero byte, the schema's id in four bytes, the Avro body; "
    "`/registry` gives the schemas by id to Confluent's clients."
)
router = APIRouter()


@router.get(PATH, include_in_schema=False)
async def asyncapi() -> Response:
    """Return the document."""
    return Response(msgspec.json.encode(document()), media_type="application/json")


def document() -> Json:
    """Return the AsyncAPI document of this version."""
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "PulseStream topics and live view",
            "version": version("pulsestream"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/avro",
        "servers": {_KAFKA: _server(), live.SERVER: live.server()},
        "channels": {dataset: _channel(dataset) for dataset in DATASETS} | {live.CHANNEL: live.channel()},
        "operations": {_operation_name(dataset): _operation(dataset) for dataset in DATASETS} | live.operations(),
        "components": {
            "schemas": live.schemas(),
            "messages": {name: _message(name) for name in _record_names()} | live.messages(),
            "securitySchemes": {"scram": {"type": "scramSha256", "description": "user `t.{tenant}`"}},
        },
    }


def _record_names() -> list[str]:
    return sorted({NAMES[record] for record in DATASET_RECORDS.values()})


def _server() -> Json:
    return {
        "host": "{bootstrap}",
        "protocol": "kafka-secure",
        "description": "The installation's brokers; on the machine of `make up` without TLS.",
        "variables": {"bootstrap": {"default": "127.0.0.1:9092", "description": "host:port, given by the operator"}},
        "security": [{"$ref": "#/components/securitySchemes/scram"}],
    }


def _channel(dataset: str) -> Json:
    name = NAMES[DATASET_RECORDS[dataset]]
    return {
        "address": f"ps.{{tenant}}.{dataset}.v1",
        "title": dataset,
        "description": _MEANINGS[dataset],
        "servers": [{"$ref": f"#/servers/{_KAFKA}"}],
        "parameters": {"tenant": {"description": "the tenant's slug", "examples": ["acme"]}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }


def _operation_name(dataset: str) -> str:
    verb = "receive" if dataset in _WRITTEN_BY_TENANTS else "send"
    return verb + "".join(part.capitalize() for part in dataset.split("-"))


def _operation(dataset: str) -> Json:
    name = NAMES[DATASET_RECORDS[dataset]]
    return {
        "action": "receive" if dataset in _WRITTEN_BY_TENANTS else "send",
        "channel": {"$ref": f"#/channels/{dataset}"},
        "summary": _MEANINGS[dataset],
        "messages": [{"$ref": f"#/channels/{dataset}/messages/{name}"}],
    }


def _message(name: str) -> Json:
    released = registry.current(name)
    schema = released.json
    return {
        "name": str(schema["name"]),
        "title": str(schema["name"]),
        "summary": schema["doc"],
        "contentType": "application/avro",
        "headers": _HEADERS,
        "payload": {"schemaFormat": _AVRO, "schema": schema},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": "the product, such as BTC-USD"},
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "confluent",
                "bindingVersion": "0.5.0",
            }
        },
    }
