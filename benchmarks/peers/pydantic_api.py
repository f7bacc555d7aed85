"""Batches through FastAPI as one would write it: pydantic models, fastavro, confluent-kafka, 202 after delivery.

`python -m benchmarks.peers.pydantic_api PORT TOPIC`, the broker from PULSESTREAM_* as for any process of ours. It takes
the bodies of `POST /api/v1/ingestion/events/batch`, checks the same members, writes the same Avro record with the same
headers by a producer with the same settings, waits for every delivery report, and answers a result for each event. It
leaves out what the API does besides: a look at the nesting, JSON of `data` as the client wrote it, metrics, the bound
of what is under way.
"""

import asyncio
import io
import json
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import uuid4

import fastavro
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from fastapi import FastAPI, Header, HTTPException
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from benchmarks.peers.serving import serve
from pulsestream.core.kafka import producer_config
from pulsestream.core.settings import load_settings
from schemas import registry

PATH: Final = "/batch"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_AHEAD: Final = timedelta(minutes=5)
Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]


class EventIn(BaseModel):
    """An event as a client sends it."""

    model_config = ConfigDict(extra="forbid")

    id: Name | None = None
    type: Name
    source: Name
    product: Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9._/-]{0,63}$")] | None = None
    time: AwareDatetime | None = None
    data: Any


class BatchIn(BaseModel):
    """A batch of them."""

    model_config = ConfigDict(extra="forbid")

    events: Annotated[list[EventIn], Field(min_length=1, max_length=1000)]


class Result(BaseModel):
    """What became of an event."""

    id: str
    event_id: str
    status: Literal["accepted", "unknown"]


class BatchResult(BaseModel):
    """What became of a batch."""

    accepted: int
    results: list[Result]


class Sender:
    """A producer whose delivery reports come to the event loop, as confluent-kafka's asyncio example has it."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(producer_config(load_settings(), "pydantic-peer"))
        threading.Thread(target=self._poll, daemon=True).start()

    def send(self, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> asyncio.Future[None]:
        """Queue a record; the future ends with its delivery, or raises KafkaException."""
        delivered: asyncio.Future[None] = self._loop.create_future()

        def report(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self._loop.call_soon_threadsafe(delivered.set_result, None)
            else:
                self._loop.call_soon_threadsafe(delivered.set_exception, KafkaException(error))

        self._producer.produce(self._topic, value, key, headers=headers, on_delivery=report)  # type: ignore[arg-type] # bytes are right
        return delivered

    def _poll(self) -> None:
        while True:
            self._producer.poll(0.1)


app = FastAPI()
released = registry.current("event")
schema = fastavro.parse_schema(json.loads(released.text.replace("logicalType", "ignoredType")))
prefix = bytes((0, *released.schema_id.to_bytes(4, "big")))


@app.post(PATH, status_code=202)
async def ingest(batch: BatchIn, x_api_key: Annotated[str, Header()]) -> BatchResult:
    """Send a batch to Kafka, and answer once all of it is there."""
    if not x_api_key.startswith("ps_live_"):
        raise HTTPException(401, "send your API key")
    now = datetime.now(UTC)
    records = [record_of(event, now) for event in batch.events]
    sender: Sender = app.state.sender
    try:
        await asyncio.gather(*(sender.send(key_of(record), encoded(record), headers(record)) for record in records))
    except (KafkaException, BufferError) as error:
        raise HTTPException(503, f"not every event was confirmed: {error}") from error
    results = [
        Result(id=record["event_id"].partition(":")[2], event_id=record["event_id"], status="accepted")
        for record in records
    ]
    return BatchResult(accepted=len(results), results=results)


def record_of(event: EventIn, now: datetime) -> dict[str, Any]:
    """Return the record of an event."""
    when = event.time or now
    if when > now + _AHEAD:
        raise HTTPException(422, f"time {when} lies ahead")
    return {
        "event_id": f"{event.source}:{event.id or uuid4()}",
        "type": event.type,
        "source": event.source,
        "product": event.product,
        "time": (when - _EPOCH) // _MICROSECOND,
        "received_time": time.time_ns() // 1000,
        "data": json.dumps(event.data),
    }


def key_of(record: dict[str, Any]) -> bytes:
    """Return the record's key."""
    key: str = record["product"] or record["source"]
    return key.encode()


def encoded(record: dict[str, Any]) -> bytes:
    """Return the record in Confluent's wire format."""
    body = io.BytesIO()
    body.write(prefix)
    fastavro.schemaless_writer(body, schema, record)
    return body.getvalue()


def headers(record: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Return the CloudEvents headers."""
    when = (_EPOCH + timedelta(microseconds=record["time"])).isoformat(timespec="microseconds")
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", record["event_id"].encode()),
        ("ce_type", record["type"].encode()),
        ("ce_source", record["source"].encode()),
        ("ce_time", when.replace("+00:00", "Z").encode()),
        ("content-type", b"application/avro"),
    ]


def _start() -> None:
    app.state.sender = Sender(sys.argv[2])


if __name__ == "__main__":
    serve(app, int(sys.argv[1]), before=_start)
