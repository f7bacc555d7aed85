"""The windows in stock Faust: a windowed table in memory with a changelog topic, its default store.

`on_window_close` is no use here: Faust closes windows by the wall clock, so those of the past would all go at once.
The agent emits a product's window when a tick of the next one comes, as users of Faust do.
"""

import sys
from typing import Any

import faust
from faust.serializers.codecs import Codec

from benchmarks.peers.job import SECOND, Job, Window, add, begin, closed, tick_reader


class _Ticks(Codec):
    """Decodes the value of a record."""

    def __init__(self, schema: str) -> None:
        super().__init__()
        self._read = tick_reader(schema)

    def loads(self, s: bytes) -> dict[str, Any]:  # the name is the library's
        return self._read(s)


def main(path: str) -> None:
    """Work until stopped."""
    job = Job.read(path)
    app = faust.App(
        job.name,
        broker=f"kafka://{job.bootstrap}",
        broker_credentials=faust.SASLCredentials(
            mechanism="SCRAM-SHA-256", username=job.username, password=job.password
        ),
        broker_commit_interval=job.commit,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        topic_partitions=1,
        topic_replication_factor=1,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        datadir=job.folder,
    )
    source = app.topic(job.source, key_type=str, key_serializer="raw", value_serializer=_Ticks(job.schema))
    sink = app.topic(job.sink, key_serializer="raw", value_serializer="raw")
    whole: Any = app.Table("windows", default=list, partitions=1)  # the library's types lack relative_to
    table = whole.tumbling(job.size).relative_to(lambda event: event.value["exchange_time"] / SECOND)
    starts: dict[str, int] = {}

    async def fold(ticks: Any) -> None:  # the library's stream
        async for tick in ticks:
            product: str = tick["product"]
            windows = table[product]
            start = tick["exchange_time"] // SECOND // job.size * job.size
            before, starts[product] = starts.get(product, start), start
            if before != start:
                window: Window = windows[float(before), before + job.size - 0.1]
                await sink.send(key=product.encode(), value=closed(product, before * SECOND, window))
            window = windows.value()
            table[product] = add(window, tick) if window else begin(tick)

    app.agent(source)(fold)
    app.finalize()
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main(sys.argv[1])
