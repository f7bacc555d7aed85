"""Does a producer's memory grow? A synthetic market for an hour: simulator -> producer -> broker, all real processes.

`make soak` (SECONDS=900 for less). Prints progress, and as its last line one JSON object. Exit code 0: the producer's
resident memory grew by less than 1 MB a minute after the warm-up; 1: it grew more, or a process died; 2: the machine
was too slow to send at least half of the ticks, so that the figure says little.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import httpx
import psutil
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.broker import running_broker
from pulsestream.core import topics
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin, client_config
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import environment
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Subscription

TENANT: Final = "soak"
EXCHANGE: Final = "simulator"
LIMIT: Final = 1.0
"""Megabytes a minute."""
SAMPLE_EVERY: Final = 5.0
WARM_UP: Final = 180.0
MEGABYTE: Final = 1_000_000
TOPIC_BYTES: Final = 64 * 1024 * 1024
"""What a partition keeps: the soak's disk stays small."""


@dataclass(frozen=True)
class Sample:
    """Seconds since the start, the producer's resident bytes, records acknowledged so far, records on their way."""

    at: float
    rss: int
    published: float
    pending: float


@dataclass
class Soak:
    """Samples of one run."""

    warm_up: float
    samples: list[Sample] = field(default_factory=list)

    def warm(self) -> list[Sample]:
        """Return the samples that count."""
        return [sample for sample in self.samples if sample.at >= self.warm_up]

    def slope(self) -> float | None:
        """Return the growth after the warm-up in megabytes a minute (least squares); None before three samples."""
        warm = self.warm()
        if len(warm) < 3:
            return None
        line = statistics.linear_regression([s.at / 60 for s in warm], [s.rss / MEGABYTE for s in warm])
        return line.slope

    def per_second(self) -> float:
        """Return the records acknowledged a second."""
        first, last = self.samples[0], self.samples[-1]
        return (last.published - first.published) / max(last.at - first.at, 1e-9)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak and print what came of it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rate", type=float, default=5000.0, help="ticks a second of all products together")
    parser.add_argument("--products", type=int, default=200)
    chosen = parser.parse_args(arguments)
    soak = Soak(warm_up=min(WARM_UP, chosen.seconds / 3))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pulsestream-soak-")))
        broker = stack.enter_context(running_broker())
        products = [f"C{number:03d}-USD" for number in range(chosen.products)]
        _prepare(broker, products)
        url = stack.enter_context(_market(folder, products, chosen.rate / chosen.products))
        producer, metrics = stack.enter_context(_producer(folder, broker, url))
        _watch(soak, psutil.Process(producer), metrics, chosen.seconds)
    return _report(soak, chosen.seconds, chosen.rate)


def _prepare(broker: EmbeddedKafka, products: Sequence[str]) -> None:
    settings = broker.settings()
    small = {"retention.bytes": str(TOPIC_BYTES), "segment.bytes": str(TOPIC_BYTES // 4)}
    specs = [tenant_topic_spec(settings, TENANT, dataset) for dataset in ("ticks", "trades")]
    Admin(settings).create([replace(spec, config={**spec.config, **small}) for spec in specs])
    relay = Producer(client_config(settings, "soak-relay"))
    for product in products:
        record = Subscription(
            tenant=TENANT,
            exchange=EXCHANGE,
            product=product,
            datasets=["ticks", "trades"],
            since=wall_clock(),
            version=1,
        )
        relay.produce(topics.SUBSCRIPTIONS, codec(Subscription).encode(record), f"{TENANT}:{EXCHANGE}:{product}")
    if relay.flush(30):
        raise SystemExit("the subscriptions could not be written")


@contextmanager
def _market(folder: Path, products: Sequence[str], rate: float) -> Iterator[str]:
    port = process.free_port()
    options = ["--synthetic", "1", "--products", ",".join(products), "--rate", str(rate), "--port", str(port)]
    with _running(folder, "exchange", options, {}):
        yield f"ws://127.0.0.1:{port}"


@contextmanager
def _producer(folder: Path, broker: EmbeddedKafka, url: str) -> Iterator[tuple[int, str]]:
    port = process.free_port()
    settings: dict[str, object] = {
        "kafka_bootstrap": broker.bootstrap,
        "kafka_username": "ps-producer",
        "kafka_password": broker.password("ps-producer"),
        "exchange": EXCHANGE,
        "venue": "coinbase",
        "exchange_url": url,
        "ops_port": port,
    }
    with _running(folder, "producer", [], settings) as number:
        yield number, f"http://127.0.0.1:{port}/metrics"


@contextmanager
def _running(folder: Path, name: str, options: Sequence[str], settings: dict[str, object]) -> Iterator[int]:
    """Run one of our commands; shows the end of its log if it dies."""
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", "pulsestream.cli", name, *options]
    started = process.spawn(command, log=log, env=environment(settings))
    try:
        yield started.pid
        if started.poll() is not None:
            raise SystemExit(f"{name} died:\n{process.last_lines(log, 20)}")
    except (httpx.TransportError, psutil.NoSuchProcess) as error:
        raise SystemExit(f"{error}: the end of {name}'s log:\n{process.last_lines(log, 20)}") from error
    finally:
        process.stop(started, grace=20)


def _watch(soak: Soak, producer: psutil.Process, metrics: str, seconds: float) -> None:
    begun = _first_acknowledgement(metrics)
    while (at := time.monotonic() - begun) < seconds:
        soak.samples.append(
            Sample(
                at,
                producer.memory_info().rss,
                _metric(metrics, "pulsestream_published_total"),
                _metric(metrics, "pulsestream_publish_pending"),
            )
        )
        _progress(soak)
        time.sleep(SAMPLE_EVERY)


def _first_acknowledgement(metrics: str) -> float:
    """Wait until records flow; returns that moment."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):  # it does not listen yet
            if _metric(metrics, "pulsestream_published_total") > 0:
                return time.monotonic()
        time.sleep(0.5)
    raise SystemExit("no record reached the broker within a minute")


def _metric(url: str, name: str) -> float:
    text = httpx.get(url, timeout=10, trust_env=False).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


def _progress(soak: Soak) -> None:
    newest, slope = soak.samples[-1], soak.slope()
    grows = "warming up" if slope is None else f"{slope:+.2f} MB/min"
    print(
        f"{newest.at:7.0f} s  {newest.rss / MEGABYTE:7.1f} MB  {soak.per_second():7.0f} records/s  "
        f"{newest.pending:6.0f} pending  {grows}",
        flush=True,
    )


def _report(soak: Soak, seconds: float, rate: float) -> int:
    slope, per_second = soak.slope(), soak.per_second()
    if slope is None:
        raise SystemExit(f"{seconds:g} s are too few: give at least {6 * SAMPLE_EVERY:g}")
    figures = {
        "seconds": seconds,
        "records_per_second": round(per_second),
        "slope_mb_per_minute": round(slope, 3),
        "first_mb": round(soak.warm()[0].rss / MEGABYTE, 1),
        "last_mb": round(soak.samples[-1].rss / MEGABYTE, 1),
    }
    print(json.dumps(figures))
    if slope >= LIMIT:
        return 1
    return 0 if per_second >= rate else 2  # each tick comes with a trade, so this is half of what was asked for


if __name__ == "__main__":
    sys.exit(main())
