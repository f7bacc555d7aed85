"""Every metric of PulseStream, declared once with its type, unit and meaning.

Label values come from bounded sets only (tenants are bounded by the tier's quota; never an id from outside).
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

REGISTRY = CollectorRegistry()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(f"pulsestream_{name}", meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(f"pulsestream_{name}", meaning, labels, registry=REGISTRY)


def _histogram(name: str, meaning: str, *labels: str) -> Histogram:
    return Histogram(f"pulsestream_{name}", meaning, labels, buckets=_SECONDS, registry=REGISTRY)


class CountedHistogram:
    """A histogram of values that were counted by bucket elsewhere, many at once. Safe to use from several threads."""

    BOUNDS: Final = _SECONDS
    """Seconds; the last bucket, of what is greater, goes without saying."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self._named = (f"pulsestream_{name}", meaning)
        self._labels = labels
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        REGISTRY.register(self)

    def add(self, labels: tuple[str, ...], counts: Sequence[int], seconds: float) -> None:
        """Add how many values fell into each bucket, the one without a bound last, and their sum."""
        with self._lock:
            held = self._counts.setdefault(labels, [0] * (len(self.BOUNDS) + 1))
            self._counts[labels] = [one + more for one, more in zip(held, counts, strict=True)]
            self._sums[labels] = self._sums.get(labels, 0.0) + seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Return it as Prometheus reads it."""
        family = HistogramMetricFamily(*self._named, labels=self._labels)
        with self._lock:
            for labels, counts in self._counts.items():
                reached = [sum(counts[: place + 1]) for place in range(len(counts))]
                names = [*map(floatToGoString, self.BOUNDS), "+Inf"]
                family.add_metric(labels, [*zip(names, map(float, reached), strict=True)], self._sums[labels])
        yield family


# producers
FEED_FRAMES = _counter("feed_frames_total", "Frames received from an exchange", "exchange", "kind")
FEED_CONNECTED = _gauge("feed_connected", "1 while the exchange delivers a shard's products", "exchange", "shard")
FEED_CONNECTS = _counter("feed_connects_total", "Attempts to connect to an exchange", "exchange")
FEED_SHARDS_OWNED = _gauge("feed_shards_owned", "Shards of an exchange that this producer feeds", "exchange")
FEED_PRODUCTS = _gauge("feed_products", "Products that the exchange confirmed", "exchange", "shard")
FEED_REFUSED_PRODUCTS = _gauge(
    "feed_refused_products", "Products that the exchange does not deliver", "exchange", "shard"
)
FEED_SILENT_SECONDS = _gauge(
    "feed_silent_seconds", "Since the last market data of a shard that has products", "exchange", "shard"
)
FEED_FIRST_RECORD_SECONDS = _histogram(
    "feed_first_record_seconds", "From an attempt to connect to the connection's first tick or trade", "exchange"
)
FEED_LATENCY_SECONDS = _histogram(
    "feed_latency_seconds", "From the exchange's time of a record to its receipt, never below 0", "exchange", "dataset"
)
FEED_GAPS = _counter("feed_gaps_total", "Intervals without data, opened in the ledger", "exchange", "cause")
PUBLISHED = _counter("published_total", "Records whose delivery the broker acknowledged", "exchange")
PUBLISH_FAILED = _counter("publish_failed_total", "Records that the broker did not take", "exchange", "code")
PUBLISH_PENDING = _gauge("publish_pending", "Records handed to the client, not yet acknowledged", "exchange")
PUBLISH_PARKED = _gauge("publish_parked_tenants", "Tenants whose topic takes no records", "exchange")
RECORDED_FRAMES = _counter("recorded_frames_total", "Frames of a recording that are on the disk", "exchange")
RECORDED_BYTES = _counter("recorded_bytes_total", "Bytes of a recording that are on the disk", "exchange")
SOCKET_TO_ACK = _histogram(
    "socket_to_ack_seconds", "From a record's receipt until the broker has acknowledged every tenant's copy", "exchange"
)
TRADE_GAPS_OPEN = _gauge("trade_gaps_open", "Gaps in trade ids that are being filled", "exchange")
TRADES_MISSING = _gauge("trades_missing", "Trades that are known to exist and have not reached Kafka", "exchange")
TRADES_FILLED = _counter("trades_filled_total", "Missing trades that reached Kafka later", "exchange")
TRADES_UNRECOVERABLE = _counter("trades_unrecoverable_total", "Missing trades that REST does not have", "exchange")
TRADE_DUPLICATES = _counter("trade_duplicates_total", "Trades received again and not published", "exchange")
TRADE_COMPLETENESS = _gauge(
    "trade_completeness_ratio", "Trades neither missing nor unrecoverable, of all since the process began", "exchange"
)
REST_REQUESTS = _counter("rest_requests_total", "Requests to an exchange's REST API", "exchange", "outcome")
REST_SECONDS = _histogram("rest_seconds", "Time to a REST answer, retries and waiting excluded", "exchange")
REST_CLOSED = _gauge("rest_circuit_open", "1 while an exchange's REST API counts as away", "exchange")

# streams
STREAM_RECORDS = _counter("stream_records_total", "Records folded into state", "dataset")
STREAM_SKIPPED = _counter("stream_skipped_total", "Records not folded", "reason")
STREAM_EMITTED = _counter("stream_emitted_total", "Output records acknowledged by the broker", "dataset")
STREAM_CHECKPOINT_SECONDS = _histogram("stream_checkpoint_seconds", "Duration of a state checkpoint")
STREAM_PARTITIONS = _gauge("stream_partitions", "State partitions that this worker owns")
STREAM_RULES = _gauge("stream_rules", "Rules that this worker evaluates")
STREAM_KEYS = _gauge("stream_keys", "Keys (tenant, exchange, product) held in memory")
STREAM_PARKED = _gauge("stream_parked_tenants", "Tenants held back because an output topic refuses records")
STREAM_REFUSED_TOPICS = _gauge("stream_refused_topics", "Tick topics refused for their partition count")

# sinks
SINK_ROWS = _counter("sink_rows_total", "Rows committed", "dataset")
SINK_DUPLICATES = _counter("sink_duplicates_total", "Records left out because their id is stored", "dataset")
SINK_DEAD_LETTERS = _counter("sink_dead_letters_total", "Records sent to a dead-letter topic", "reason")
SINK_DEAD_LETTERS_LOST = _counter(
    "sink_dead_letters_lost_total", "Dead letters that could not be stored (logged)", "reason"
)
SINK_BATCH_SECONDS = _histogram("sink_batch_seconds", "From a batch's first record read to its commit")
SINK_STAGE_SECONDS = CountedHistogram(
    "sink_stage_seconds",
    "Of records in committed batches, doubles too: exchange_to_receipt, receipt_to_append (by the broker),"
    " append_to_commit, exchange_to_commit",
    "dataset",
    "stage",
)
SINK_FENCED = _counter("sink_fenced_total", "Batches given up because another sink moved the offset")
SINK_RETENTION_GAPS = _counter("sink_retention_gaps_total", "Times that retention overtook this sink")
SINK_PAUSED = _gauge(
    "sink_paused", "1 while consumption rests: the database or the broker cannot be used, or is silent"
)
SINK_STORAGE = _gauge("sink_storage", "1 for the state that the database is in", "state")

# notifier
NOTIFIER_ALERTS = _counter("notifier_alerts_total", "Alerts that fired or ended, by channel that is told", "state")
NOTIFIER_SKIPPED = _counter(
    "notifier_skipped_total", "Alerts that nobody is told of: unsound, too_old, gone (removed by retention)", "reason"
)
NOTIFIER_MESSAGES = _counter("notifier_messages_total", "Messages made")
NOTIFIER_ATTEMPTS = _counter("notifier_attempts_total", "Attempts to deliver a message", "kind", "outcome")
NOTIFIER_ATTEMPT_SECONDS = _histogram("notifier_attempt_seconds", "Duration of an attempt", "kind")
NOTIFIER_WAITING = _gauge("notifier_messages_waiting", "Messages that are not delivered yet, 10,000 at most")
NOTIFIER_OLDEST = _gauge("notifier_oldest_waiting_seconds", "Age of the oldest of them")
NOTIFIER_DISABLED = _counter("notifier_channels_disabled_total", "Channels disabled since they failed for long", "kind")

# api
HTTP_REQUESTS = _counter("http_requests_total", "HTTP requests answered", "route", "status")
HTTP_SECONDS = _histogram("http_seconds", "Time to answer an HTTP request", "route")
AUDIT_DENIALS = _counter("audit_denials_total", "Refusals of known keys: recorded in the audit, or lost", "outcome")
AUDIT_MISFITS = _gauge("audit_misfits", "Tenants whose audit is not the one whose end was published")
EXPORTED_ROWS = _counter("exported_rows_total", "Rows sent by exports")
EXPORTS = _counter("exports_total", "Exports ended: complete, gone (the client left), stalled, failed", "outcome")
RULE_TRIALS = _counter(
    "rule_trials_total", "Trials of rules: done, large, slow (refused for it), away (the database), broken", "outcome"
)
RATE_LIMITED = _counter("rate_limited_total", "Requests refused with 429", "policy")
INGESTED = _counter("ingested_total", "Events acknowledged by the broker")
DEAD_LETTERS_SETTLED = _counter("dead_letters_settled_total", "Dead letters replayed or discarded", "settled")
LIVE_CLIENTS = _gauge("live_clients", "Clients of the live view that are connected")
LIVE_RECORDS = _counter("live_records_total", "Records read for clients of the live view", "dataset")
LIVE_SKIPPED = _counter(
    "live_skipped_total", "Records that no client sees: undecodable, unsound, repeat (of an alert)", "reason"
)
LIVE_CLOSED = _counter("live_closed_total", "Clients of the live view whose connection the server ended", "code")
RETENTION_ROWS = _counter("retention_rows_total", "Rows removed since nobody's tier keeps them", "table")
RETENTION_CHUNKS = _counter("retention_chunks_total", "Chunks dropped whole")
RETENTION_LAST = _gauge("retention_last_run_timestamp_seconds", "When the last run of retention that ended well began")
OUTBOX_PENDING = _gauge("outbox_pending", "Control records not yet on their topic")
