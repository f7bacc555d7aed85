"""What every peer's program shares: its orders, how a tick is read, and what a window holds.

Runs in the environments of the peers, so it imports nothing of this project and of others only fastavro, which is
what a user of Quix Streams, Faust or Bytewax decodes Avro with.
"""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import fastavro

FRAME: Final = 5
"""Bytes before an Avro body: zero and the schema's id."""
SECOND: Final = 1_000_000
MILLISECOND: Final = 1_000

Window = list[Any]
"""count, open, high, low, close, volume; a list, since state is kept as JSON."""


@dataclass(frozen=True)
class Job:
    """A broker, the topic to read from its beginning and the one to write, and the windows wanted (seconds).

    `name` is the consumer group or application; `folder` is for state on disk; `commit` the seconds between two
    commits of state and positions; `schema` the ticks' Avro schema as JSON.
    """

    bootstrap: str
    username: str
    password: str
    source: str
    sink: str
    name: str
    folder: str
    size: int
    step: int
    commit: float
    schema: str

    def write(self, path: Path) -> None:
        """Leave the orders in a file."""
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @staticmethod
    def read(path: str) -> "Job":
        """Return the orders in a file."""
        return Job(**json.loads(Path(path).read_text("utf-8")))


def tick_reader(schema: str) -> Callable[[bytes], dict[str, Any]]:
    """Return a function that decodes a framed tick whole.

    Logical types are left out: times stay integers (micros), which is the quicker way.
    """
    parsed = fastavro.parse_schema(json.loads(schema.replace("logicalType", "ignoredType")))

    def read(value: bytes) -> dict[str, Any]:
        body = io.BytesIO(value)
        body.seek(FRAME)
        tick: dict[str, Any] = fastavro.schemaless_reader(body, parsed, None)  # type: ignore[assignment] # a record's schema gives a dict
        return tick

    return read


def begin(tick: dict[str, Any]) -> Window:
    """Return the window that holds one tick."""
    price = tick["price"]
    return [1, price, price, price, price, tick["size"]]


def add(window: Window, tick: dict[str, Any]) -> Window:
    """Return `window` with one tick more."""
    count, first, high, low, _, volume = window
    price = tick["price"]
    return [count + 1, first, max(high, price), min(low, price), price, volume + tick["size"]]


def closed(product: str, start: int, window: Window) -> bytes:
    """Return the record of a closed window; `start` in micros."""
    count, first, high, low, last, volume = window
    return json.dumps(
        {
            "product": product,
            "start": start,
            "count": count,
            "open": first,
            "high": high,
            "low": low,
            "close": last,
            "volume": volume,
        }
    ).encode()
