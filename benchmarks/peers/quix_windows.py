"""The windows in Quix Streams: RocksDB with a changelog topic, closed by each product's own ticks. Runs in its venv."""

import sys
from typing import Any

from quixstreams import Application
from quixstreams.kafka import ConnectionConfig
from quixstreams.models import Deserializer

from benchmarks.peers.job import MILLISECOND, Job, add, begin, closed, tick_reader


class _Ticks(Deserializer):  # type: ignore[misc] # the library is in an environment of its own
    """Decodes the value of a record."""

    def __init__(self, schema: str) -> None:
        super().__init__()
        self._read = tick_reader(schema)

    def __call__(self, value: bytes, ctx: Any) -> dict[str, Any]:  # noqa: ARG002 - the library's signature
        return self._read(value)


def main(path: str) -> None:
    """Work until stopped."""
    job = Job.read(path)
    app = Application(
        ConnectionConfig(
            bootstrap_servers=job.bootstrap,
            security_protocol="sasl_plaintext",
            sasl_mechanism="SCRAM-SHA-256",
            sasl_username=job.username,
            sasl_password=job.password,
        ),
        consumer_group=job.name,
        auto_offset_reset="earliest",
        commit_interval=job.commit,
        state_dir=job.folder,
        loglevel="WARNING",
    )
    source = app.topic(
        job.source,
        key_deserializer="str",
        value_deserializer=_Ticks(job.schema),
        timestamp_extractor=lambda tick, _headers, _timestamp, _kind: tick["exchange_time"] // MILLISECOND,
    )
    sink = app.topic(job.sink, key_serializer="str", value_serializer="bytes")
    size, step = job.size * 1000, job.step * 1000
    ticks = app.dataframe(source)
    windows = ticks.tumbling_window(size) if step == size else ticks.hopping_window(size, step)
    windows.reduce(add, begin).final().apply(
        lambda window, key, _timestamp, _headers: closed(key, window["start"] * MILLISECOND, window["value"]),
        metadata=True,
    ).to_topic(sink)
    app.run()


if __name__ == "__main__":
    main(sys.argv[1])
