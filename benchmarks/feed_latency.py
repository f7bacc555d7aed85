"""From the socket to the broker's acknowledgement: a real producer, the exchange simulator and a real broker.

Simulator and broker are processes of their own; the producer is `producers.feed_process.run` in this one, each
latency taken where its metric takes it (a record's receipt until the last copy is acknowledged). Before and after it,
the same number of records a second goes through a bare produce() of the same client settings: what remains of the
latency there is the client's and the broker's.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from benchmarks.feed_codec import RECEIVED, ticker_frames
from benchmarks.rounds import percentile
from producers import feed_process
from producers.source import SIMULATOR
from producers.venues.protocol import load
from pulsestream.core import log, topics
from pulsestream.core.kafka import Admin, client_config, producer_config
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.metrics import SOCKET_TO_ACK
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Subscription, Tick

RATE: Final = 2_000
"""Ticks a second, over all products; as many trades arrive beside them, which nobody is subscribed to."""
PRODUCTS: Final = tuple(f"B{number:02}-USD" for number in range(100))
TENANT: Final = "bench-latency"
WARM_UP: Final = 5.0
"""Seconds of connecting, first metadata and first batches, which are not counted."""
_START: Final = 60.0
_P99: Final = 0.99


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds, and records a second as they arrived."""

    p50: float
    p99: float
    rate: float


def measure(broker: EmbeddedKafka, seconds: float) -> tuple[Latency, list[Latency]]:
    """Return the feed's latency over `seconds`, and that of bare produce() calls before and after."""
    _prepare(broker)
    before = _bare(broker, seconds / 2)
    with _exchange() as url:
        fed = _feed(broker, url, seconds)
    return fed, [before, _bare(broker, seconds / 2)]


def _prepare(broker: EmbeddedKafka) -> None:
    settings = broker.settings()
    Admin(settings).create([tenant_topic_spec(settings, TENANT, "ticks")])
    relay = Producer(client_config(settings, "bench-relay"))
    for product in PRODUCTS:
        wanted = Subscription(
            tenant=TENANT, exchange=SIMULATOR, product=product, datasets=["ticks"], since=RECEIVED, version=1
        )
        relay.produce(topics.SUBSCRIPTIONS, codec(Subscription).encode(wanted), f"{TENANT}:{SIMULATOR}:{product}")
    if relay.flush(_START):
        raise AssertionError("the broker does not take subscriptions")


@contextmanager
def _exchange() -> Iterator[str]:
    """Yield the URL of a simulator that plays a synthetic market at RATE."""
    port = process.free_port()
    rate = RATE / len(PRODUCTS)
    market = ["--synthetic", "7", "--products", ",".join(PRODUCTS), "--rate", f"{rate:g}", "--port", str(port)]
    with tempfile.TemporaryDirectory(prefix="pulsestream-benchmark-") as folder:
        output = Path(folder) / "exchange.log"
        running = process.spawn([sys.executable, "-m", "pulsestream.cli", "exchange", *market], log=output)
        try:
            deadline = time.monotonic() + _START
            while process.port_is_free(port):
                if running.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError("\n".join(process.last_lines(output)))
                time.sleep(0.05)
            yield f"ws://127.0.0.1:{port}"
        finally:
            process.stop(running)


def _feed(broker: EmbeddedKafka, url: str, seconds: float) -> Latency:
    """Run the producer in this process until its measured time is over; SIGTERM ends it, as it ends any."""
    log.configure("benchmark", "error")
    settings = broker.settings("ps-producer").model_copy(
        update={"exchange": SIMULATOR, "venue": "coinbase", "exchange_url": url, "ops_port": 0}
    )
    observed: list[tuple[float, float]] = []
    began = threading.Event()

    def observe(latency: float) -> None:
        observed.append((time.monotonic(), latency))
        began.set()

    def end() -> None:
        if began.wait(_START):
            time.sleep(WARM_UP + seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    setattr(SOCKET_TO_ACK.labels(SIMULATOR), "observe", observe)  # noqa: B010 - each value, not only its bucket
    threading.Thread(target=end, daemon=True).start()
    feed_process.run(settings)
    first = observed[0][0] + WARM_UP if observed else 0.0
    return _latency([latency for at, latency in observed if first <= at < first + seconds], seconds)


def _bare(broker: EmbeddedKafka, seconds: float) -> Latency:
    """Produce at RATE for `seconds`, evenly, with the publisher's own client settings."""
    session, encode = load("coinbase", SIMULATOR).session(), codec(Tick).encode
    outcomes = [outcome for frame in ticker_frames(RATE) for outcome in session.receive(frame, RECEIVED)]
    records = [(tick.product.encode(), encode(tick)) for tick in outcomes if isinstance(tick, Tick)]
    producer = Producer(producer_config(broker.settings("ps-producer"), "bench-bare") | {"log_level": 2})
    topic = topics.tenant_topic(TENANT, "ticks")
    observed: list[tuple[float, float]] = []

    def report(error: KafkaError | None, message: Message) -> None:
        if error is None:
            observed.append((time.monotonic(), message.latency() or 0.0))

    began = time.monotonic()
    for number in range(int((WARM_UP + seconds) * RATE)):
        key, value = records[number % len(records)]
        while time.monotonic() < began + number / RATE:
            producer.poll(0.0005)
        producer.produce(topic, value, key, on_delivery=report)
    producer.flush(_START)
    return _latency([latency for at, latency in observed if at >= began + WARM_UP], seconds)


def _latency(seconds: list[float], span: float) -> Latency:
    if not seconds:
        raise AssertionError("nothing was acknowledged")
    return Latency(percentile(seconds, 0.5) * 1e3, percentile(seconds, _P99) * 1e3, len(seconds) / span)
