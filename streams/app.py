"""The Faust application of the streams: settings, the batch transport, and one agent that hands batches on.

Faust brings the consumer group, its rebalances and the flow; it creates no topics, keeps no tables and serves no web.
"""

from collections.abc import Callable
from typing import Any, Final

import faust

from pulsestream.core.kafka import tls
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic_pattern
from streams.intake import DATASETS
from streams.transport import BatchTransport, Owner, batch_topic

SESSION_TIMEOUT: Final = 6.0
"""Seconds without a heartbeat after which the group gives a worker's partitions to another."""
MAX_POLL_RECORDS: Final = 2000
"""Records of one fetch that are folded in one go: more would keep the event loop from the clock."""
METADATA_MAX_AGE_MS: Final = 60_000


def build(
    settings: Settings, owner: Owner, reads: Callable[[str], bool], fail: Callable[[Exception], None]
) -> faust.App:
    """Return the application, its agent in place; starting it joins the group `settings.stream_app`.

    `owner` folds; `reads` says which of the tenants' topics are read, and is asked on another thread; `fail` ends the
    process.
    """
    folder = settings.home.absolute() / "streams"
    folder.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        settings.stream_app,
        broker=[f"kafka://{address.strip()}" for address in settings.kafka_bootstrap.split(",")],
        broker_credentials=_credentials(settings),
        broker_session_timeout=SESSION_TIMEOUT,
        broker_heartbeat_interval=1.0,
        broker_max_poll_records=MAX_POLL_RECORDS,
        consumer_metadata_max_age_ms=METADATA_MAX_AGE_MS,
        stream_recovery_delay=0.0,
        stream_wait_empty=False,  # a revocation waits for our checkpoint instead
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        autodiscover=False,
        store="memory://",
        datadir=str(folder),
    )
    app.transport = BatchTransport(app, owner, settings.partitions, reads)
    channel = batch_topic(app, tenant_topic_pattern(*DATASETS))

    async def fold(stream: Any) -> None:  # Faust's stream type is generic over what it does not know
        async for event in stream.noack().events():
            try:
                await owner.take(event.value)
                event.ack()
            except Exception as error:  # Faust would skip the batch and go on
                fail(error)
                raise

    app.agent(channel)(fold)
    return app


def _credentials(settings: Settings) -> faust.SASLCredentials | None:
    context = tls(settings)
    if settings.kafka_security.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism="SCRAM-SHA-256",
            username=settings.kafka_username,
            password=settings.kafka_password.get_secret_value(),
            ssl_context=context,
        )
    return None
