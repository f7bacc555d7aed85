"""A broker for one benchmark: real Kafka in a folder of its own, gone afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs
from pulsestream.local.kafka import EmbeddedKafka


@contextmanager
def running_broker(partitions: int = 3) -> Iterator[EmbeddedKafka]:
    """Yield a broker with the platform's topics, for so many partitions; raises JavaMissingError or StartError."""
    with tempfile.TemporaryDirectory(prefix="pulsestream-benchmark-", ignore_cleanup_errors=True) as home:
        broker = EmbeddedKafka(Path(home))
        try:
            broker.start()
            settings = broker.settings().model_copy(update={"partitions": partitions})
            Admin(settings).create(platform_topic_specs(settings))
            yield broker
        finally:
            broker.stop()
