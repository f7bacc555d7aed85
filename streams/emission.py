"""What the engine gives as records for a tenant's topics: key, value and headers. Pure.

One is made for each statistic, bar and alert, so what they have in common is made once a key.
"""

from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from pulsestream.core.clock import format_rfc3339
from pulsestream.core.headers import Headers, cloud_event
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Alert, Bar, Stat
from streams.engine.fold import Folded
from streams.entries import PendingAlert
from streams.intake import parts_of
from streams.kinds import Step

_STAT: Final = codec(Stat)
_ALERT: Final = codec(Alert)
_BAR: Final = codec(Bar)
_KEYS: Final = 20_000


class Output(msgspec.Struct, frozen=True, gc=False):
    """A record for one of a tenant's topics; `alert` is its number when it is a pending alert."""

    tenant: str
    dataset: str
    topic: str
    key: bytes
    value: bytes
    headers: Headers
    alert: int | None = None


class _Envelope(NamedTuple):
    """What the records of one dataset that come of one key have in common."""

    tenant: str
    dataset: str
    topic: str
    key: bytes
    specversion: tuple[str, bytes]
    type: tuple[str, bytes]
    source: tuple[str, bytes]
    content: tuple[str, bytes]

    def headers(self, event_id: str, time: int) -> Headers:
        """Return the headers of a record."""
        return [
            self.specversion,
            ("ce_id", event_id.encode()),
            self.type,
            self.source,
            ("ce_time", _rfc3339(time)),
            self.content,
        ]


def emitted(key: str, step: Folded | Step) -> list[Output]:
    """Return the statistics and bars of a step of a key as records."""
    outputs: list[Output] = []
    if step.bars:
        shared = _envelope(key, "bars")
        for bar in step.bars:
            headers = shared.headers(bar.event_id, bar.start)
            outputs.append(Output(shared.tenant, "bars", shared.topic, shared.key, _BAR.encode(bar), headers))
    if step.stats:
        shared = _envelope(key, "stats")
        for stat in step.stats:
            headers = shared.headers(stat.event_id, stat.at)
            outputs.append(Output(shared.tenant, "stats", shared.topic, shared.key, _STAT.encode(stat), headers))
    return outputs


def alert_output(key: str, alert: Alert) -> Output:
    """Return an alert of a key as a record."""
    shared = _envelope(key, "alerts")
    headers = shared.headers(alert.alert_id, alert.at)
    return Output(shared.tenant, "alerts", shared.topic, shared.key, _ALERT.encode(alert), headers)


def pending_output(alert: PendingAlert, number: int) -> Output:
    """Return a pending alert as a record."""
    shared = _envelope(alert.key, "alerts")
    return Output(shared.tenant, "alerts", shared.topic, alert.record_key, alert.value, alert.headers, number)


@lru_cache(maxsize=_KEYS)
def _envelope(key: str, dataset: str) -> _Envelope:
    tenant, _, exchange, product = parts_of(key)
    headers = cloud_event("", f"pulsestream.{dataset.removesuffix('s')}.v1", f"/{exchange}", 0)
    specversion, _, kind, source, _, content = headers
    return _Envelope(
        tenant, dataset, tenant_topic(tenant, dataset), product.encode(), specversion, kind, source, content
    )


@lru_cache(maxsize=_KEYS)
def _rfc3339(time: int) -> bytes:
    return format_rfc3339(time).encode()
