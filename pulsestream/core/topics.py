"""Topic names: the one place that builds and reads them.

`ps.{tenant}.{dataset}.v{n}` for tenants, `ps._platform.{control}.v1` for control records, `ps._state.{app}.v1` for
the streams' checkpoints. Dots delimit, so `ps.acme.` as an ACL prefix never covers tenant acme2; a slug cannot begin
with an underscore, so no tenant can be `_platform`.
"""

import re
from dataclasses import dataclass
from typing import Final

from pulsestream.core.errors import InvalidNameError

DATASETS: Final = ("ticks", "trades", "own-ticks", "events", "stats", "bars", "alerts", "dlq")
OUTPUT_DATASETS: Final = ("stats", "bars", "alerts", "dlq")
"""Created before the input topics, so that whoever reads an input can always write its outputs."""

TENANTS: Final = "ps._platform.tenants.v1"
SUBSCRIPTIONS: Final = "ps._platform.subscriptions.v1"
RULES: Final = "ps._platform.rules.v1"
FEEDS: Final = "ps._platform.feeds.v1"
PRODUCTS: Final = "ps._platform.products.v1"
"""Which products each exchange has, as its producer is told."""
FEED_SHARDS: Final = "ps._platform.feed-shards.v1"
"""Holds no records: its partitions, one a shard, are what the producers' consumer group divides."""
AUDIT_HEADS: Final = "ps._platform.audit-heads.v1"
"""Where each tenant's audit ends, by slug; nobody acts on it."""
CONTROL_TOPICS: Final = (TENANTS, SUBSCRIPTIONS, RULES, FEEDS, PRODUCTS)

RESERVED_SLUGS: Final = frozenset({
    "admin", "api", "audit", "internal", "kafka", "operator", "platform", "postgres", "ps", "public", "pulsestream",
    "relay", "root", "security", "sink", "stream", "support", "system", "www",
})  # fmt: skip
"""Names that would be taken for the platform's own, or for nobody's."""
RESERVED_PREFIXES: Final = ("ps-", "xn--")
"""How the names of services and the encodings of other scripts begin."""

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{1,30}[a-z0-9]")
_TENANT_TOPIC = re.compile(rf"ps\.({_SLUG.pattern})\.({'|'.join(DATASETS)})\.v([1-9][0-9]*)")
_EXAMPLE = "3 to 32 characters of a-z, 0-9 and inner hyphens, such as acme or acme-2"


@dataclass(frozen=True, slots=True)
class TenantTopic:
    """A tenant's topic, taken apart."""

    tenant: str
    dataset: str
    version: int = 1

    @property
    def name(self) -> str:
        """The topic's name on the broker."""
        return f"ps.{self.tenant}.{self.dataset}.v{self.version}"

    def sibling(self, dataset: str) -> str:
        """Return the name of the same tenant's topic for another dataset."""
        return f"ps.{self.tenant}.{dataset}.v1"


def check_slug(slug: str) -> str:
    """Return `slug` if it can name a new tenant; raises InvalidNameError otherwise."""
    if not _SLUG.fullmatch(slug):
        raise InvalidNameError(f"{slug!r} is not a tenant slug: use {_EXAMPLE}")
    if slug in RESERVED_SLUGS:
        raise InvalidNameError(f"the slug {slug!r} is reserved: choose another")
    if slug.startswith(RESERVED_PREFIXES):
        reserved = " and ".join(RESERVED_PREFIXES)
        raise InvalidNameError(f"the slug {slug!r} is reserved, as all that begin with {reserved}: choose another")
    return slug


def tenant_topic(tenant: str, dataset: str) -> str:
    """Return the topic of a tenant's dataset; raises InvalidNameError for a name that cannot be."""
    if not _SLUG.fullmatch(tenant):
        raise InvalidNameError(f"{tenant!r} is not a tenant slug: use {_EXAMPLE}")
    if dataset not in DATASETS:
        raise InvalidNameError(f"{dataset!r} is not a dataset: choose one of {', '.join(DATASETS)}")
    return f"ps.{tenant}.{dataset}.v1"


def parse_tenant_topic(name: str) -> TenantTopic | None:
    """Take a tenant topic's name apart; None for a topic that is not a tenant's."""
    match = _TENANT_TOPIC.fullmatch(name)
    return TenantTopic(match[1], match[2], int(match[3])) if match else None


def tenant_topic_pattern(*datasets: str) -> str:
    """Return a regular expression (no anchors) that matches version 1 of these datasets of every tenant."""
    return rf"ps\.{_SLUG.pattern}\.(?:{'|'.join(datasets)})\.v1"


def state_topic(app_id: str) -> str:
    """Return the compacted topic that holds the checkpoints of the streams application `app_id`."""
    return f"ps._state.{app_id}.v1"


def shard_app(app_id: str, shard: int) -> str:
    """Return the application id of a shard of the streams; shard 0 has the plain one."""
    return f"{app_id}-s{shard}" if shard else app_id
