"""Every record that crosses Kafka, as an immutable value; the fields are those of `schemas/avro/*.avsc`.

Times are microseconds since 1970, UTC; prices are in quote currency, sizes and volumes in base currency, both IEEE
doubles. None means that the source did not say. Structs of msgspec rather than dataclasses, because one is made for
each record on the hot path: a frozen dataclass of 20 fields takes ten times as long to construct.
"""

from hashlib import blake2b

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What all records have in common: frozen, built by keyword, compared by value."""


class Tick(Record, frozen=True, kw_only=True, gc=False):
    """A ticker update of one product (tick.avsc)."""

    event_id: str
    exchange: str
    product: str
    sequence: int | None = None
    trade_id: int | None = None
    side: str | None = None
    price: float
    size: float | None = None
    best_bid: float | None = None
    best_bid_size: float | None = None
    best_ask: float | None = None
    best_ask_size: float | None = None
    quote_time: int | None = None
    open_24h: float | None = None
    high_24h: float | None = None
    low_24h: float | None = None
    volume_24h: float | None = None
    volume_30d: float | None = None
    exchange_time: int
    received_time: int


class Trade(Record, frozen=True, kw_only=True, gc=False):
    """One trade with the taker's side (trade.avsc)."""

    event_id: str
    exchange: str
    product: str
    trade_id: int
    price: float
    size: float
    side: str
    exchange_time: int
    received_time: int
    sequence: int | None = None


class Event(Record, frozen=True, kw_only=True, gc=False):
    """An event that a tenant sent; `data` is JSON text (event.avsc)."""

    event_id: str
    type: str
    source: str
    product: str | None = None
    time: int
    received_time: int
    data: str


class AsOf(Record, frozen=True, kw_only=True, gc=False):
    """Position of the last source record included in a statistic."""

    topic_id: str
    partition: int
    offset: int


class Stat(Record, frozen=True, kw_only=True, gc=False):
    """Rolling statistics of one product over [at - window, at) (stat.avsc; formulas in streams.engine)."""

    event_id: str
    exchange: str
    product: str
    window: str
    at: int
    basis: str
    count: int
    open: float | None = None
    high: float | None = None
    low: float | None = None
    close: float | None = None
    volume: float | None = None
    quote_volume: float | None = None
    buy_volume: float | None = None
    vwap: float | None = None
    mean: float | None = None
    stddev: float | None = None
    coverage_seconds: float | None = None
    reference_price: float | None = None
    change: float | None = None
    change_pct: float | None = None
    volatility: float | None = None
    stddev_log_return: float | None = None
    spread_mean: float | None = None
    spread_bps: float | None = None
    quote_age: float | None = None
    range_position: float | None = None
    as_of: AsOf
    revision: int
    forecast_volatility: float | None = None
    forecast_low: float | None = None
    forecast_high: float | None = None


class Bar(Record, frozen=True, kw_only=True, gc=False):
    """Open, high, low, close and volume of one product over [start, start + period) (bar.avsc)."""

    event_id: str
    exchange: str
    product: str
    period: str
    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float | None = None
    vwap: float | None = None
    trades: int | None = None
    buy_volume: float | None = None
    complete: bool
    revision: int
    as_of: AsOf | None = None
    origin: str
    received_time: int


class PricePoint(Record, frozen=True, kw_only=True, gc=False):
    """A price and its event time."""

    time: int
    price: float


class Alert(Record, frozen=True, kw_only=True, gc=False):
    """One transition of a rule's state machine (alert.avsc)."""

    alert_id: str
    seq: int
    rule_id: str
    rule_name: str
    rule_version: int
    exchange: str
    product: str
    state: str
    at: int
    value: float | None = None
    threshold: float | None = None
    reason: str
    severity: str
    labels: dict[str, str]
    window: str | None = None
    last_prices: list[PricePoint]


class Header(Record, frozen=True, kw_only=True, gc=False):
    """One record header."""

    name: str
    value: bytes | None = None


class DeadLetter(Record, frozen=True, kw_only=True, gc=False):
    """A record that could not be taken, whole, with the reason (dead_letter.avsc)."""

    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    key: bytes | None = None
    headers: list[Header]
    value: bytes | None = None
    first_seen: int
    replay_of: str | None = None
    replays: int = 0
    appended_at: int | None = None
    omitted: int = 0


class Gap(Record, frozen=True, kw_only=True, gc=False):
    """What is missing from a feed: an interval of time or a range of trade ids; `closed` None while it is open."""

    kind: str
    from_id: int | None = None
    to_id: int | None = None
    opened: int
    closed: int | None = None
    cause: str
    missing: int | None = None


class Feed(Record, frozen=True, kw_only=True, gc=False):
    """State of a connection to an exchange, or a gap in what it delivered (feed.avsc)."""

    exchange: str
    product: str | None = None
    state: str
    at: int
    gap: Gap | None = None
    last_trade_id: int | None = None
    complete_until: int | None = None
    version: int


class Tenant(Record, frozen=True, kw_only=True, gc=False):
    """A tenant (tenant.avsc)."""

    tenant: str
    name: str
    tier: str
    status: str
    shard: int
    created_at: int
    version: int


class Subscription(Record, frozen=True, kw_only=True, gc=False):
    """A product of an exchange that a tenant gets (subscription.avsc). Topic key: {tenant}:{exchange}:{product}."""

    tenant: str
    exchange: str
    product: str
    datasets: list[str]
    since: int
    version: int


class ProductList(Record, frozen=True, kw_only=True, gc=False):
    """Which products an exchange has (product_list.avsc). Topic key: the exchange."""

    exchange: str
    products: list[str]
    at: int
    version: int


class Rule(Record, frozen=True, kw_only=True, gc=False):
    """One version of an alert rule; `definition` is its JSON as the API takes it (rule.avsc). Topic key: rule_id."""

    rule_id: str
    tenant: str
    name: str
    enabled: bool
    deleted: bool
    definition: str
    created_at: int
    effective_at: int | None = None
    version: int


def tick_id(exchange: str, product: str, sequence: int) -> str:
    """Return the deterministic id of a tick."""
    return f"{exchange}:{product}:{sequence}"


def trade_event_id(exchange: str, product: str, trade_id: int) -> str:
    """Return the deterministic id of a trade."""
    return f"{exchange}:{product}:t{trade_id}"


def bar_id(exchange: str, product: str, period: str, start: int, origin: str) -> str:
    """Return the deterministic id of a bar; `start` in microseconds."""
    return f"{exchange}:{product}:{period}:{start}:{origin}"


def dead_letter_id(letter: DeadLetter) -> str:
    """Return the deterministic id of a dead letter: the same however often its refusal is told.

    A record refused is known by where the broker had it, and when. A replay that was sent twice is one replay: it is
    known by the letter that it replays and by its bytes.
    """
    place = (letter.topic, letter.partition, letter.offset, letter.appended_at)
    replay = (letter.topic, letter.replay_of, letter.replays, letter.key, letter.value)
    identity = place if letter.replay_of is None else replay
    return blake2b(msgspec.msgpack.encode(identity), digest_size=16).hexdigest()


def event_id(source: str, identifier: str) -> str:
    """Return the id of an ingested event: unique for (source, id), whatever characters either holds."""
    if "%" in source or ":" in source:
        source = source.replace("%", "%25").replace(":", "%3A")
    return f"{source}:{identifier}"
