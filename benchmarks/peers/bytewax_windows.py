"""The windows in Bytewax: recovery in SQLite files on this machine, a snapshot each commit interval. Runs in its venv.

Its event clock runs on with the system's between two ticks of a product, and what is older is late. Records are read
many times faster than they happened, so waiting 10 s changes nothing but lets a pause of the process drop none.
"""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kafka
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, SlidingWindower, TumblingWindower, fold_window
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from benchmarks.peers.job import SECOND, Job, Window, add, begin, closed, tick_reader

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WAIT: Final = timedelta(seconds=10)


def flow(job: Job) -> Dataflow:
    """Return the dataflow of one job."""
    access = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": job.username,
        "sasl.password": job.password,
    }
    read = tick_reader(job.schema)
    whole = Dataflow("windows")
    records = kafka.input("in", whole, brokers=[job.bootstrap], topics=[job.source], add_config=access)
    ticks = op.map("decode", records.oks, lambda record: read(record.value))
    keyed = op.key_on("key", ticks, lambda tick: tick["product"])
    clock: Any = EventClock(lambda tick: _EPOCH + timedelta(microseconds=tick["exchange_time"]), _WAIT)
    windows = fold_window("fold", keyed, clock, _windower(job), list, _fold, _merge, ordered=False)

    def record(item: tuple[str, tuple[int, Window]]) -> Any:
        product, (number, window) = item
        return KafkaSinkMessage(product.encode(), closed(product, number * job.step * SECOND, window))

    kafka.output(
        "out", op.map("encode", windows.down, record), brokers=[job.bootstrap], topic=job.sink, add_config=access
    )
    return whole


def _windower(job: Job) -> Any:
    size, step = timedelta(seconds=job.size), timedelta(seconds=job.step)
    return TumblingWindower(size, _EPOCH) if size == step else SlidingWindower(size, step, _EPOCH)


def _fold(window: Window, tick: dict[str, Any]) -> Window:
    return add(window, tick) if window else begin(tick)


def _merge(_: Window, __: Window) -> Window:
    raise AssertionError("only session windows merge")


def main(path: str) -> None:
    """Work until stopped."""
    job = Job.read(path)
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    init_db_dir(Path(job.folder), 1)
    cli_main(flow(job), epoch_interval=timedelta(seconds=job.commit), recovery_config=RecoveryConfig(job.folder))


if __name__ == "__main__":
    main(sys.argv[1])
