"""Rows as the API gives them. Times are RFC 3339 text in UTC with microseconds; None is what the source did not say."""

from typing import Any, Literal, TypedDict

Dataset = Literal["ticks", "trades", "events", "stats", "bars", "alerts"]
Order = Literal["asc", "desc", "ingested"]


class TickRow(TypedDict):
    """A ticker update; prices in quote currency, sizes and volumes in base currency."""

    event_id: str
    exchange: str
    product: str
    sequence: int | None
    trade_id: int | None
    side: str | None
    price: float
    size: float | None
    best_bid: float | None
    best_bid_size: float | None
    best_ask: float | None
    best_ask_size: float | None
    quote_time: str | None
    open_24h: float | None
    high_24h: float | None
    low_24h: float | None
    volume_24h: float | None
    volume_30d: float | None
    exchange_time: str
    received_time: str


class TradeRow(TypedDict):
    """A trade; `side` is the taker's."""

    event_id: str
    exchange: str
    product: str
    trade_id: int
    price: float
    size: float
    side: str
    exchange_time: str
    received_time: str
    sequence: int | None


class EventRow(TypedDict):
    """An event of the tenant's own."""

    event_id: str
    type: str
    source: str
    product: str | None
    time: str
    received_time: str
    data: Any


class BarRow(TypedDict):
    """Open, high, low, close and volume of one period."""

    event_id: str
    exchange: str
    product: str
    period: str
    start: str
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float | None
    vwap: float | None
    trades: int | None
    buy_volume: float | None
    complete: bool
    revision: int
    origin: str
    received_time: str


class StatRow(TypedDict):
    """Rolling statistics over the window that ends before `at`."""

    event_id: str
    exchange: str
    product: str
    window: str
    at: str
    basis: str
    count: int
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None
    quote_volume: float | None
    buy_volume: float | None
    vwap: float | None
    mean: float | None
    stddev: float | None
    coverage_seconds: float | None
    reference_price: float | None
    change: float | None
    change_pct: float | None
    volatility: float | None
    stddev_log_return: float | None
    spread_mean: float | None
    spread_bps: float | None
    quote_age: float | None
    range_position: float | None
    revision: int
    forecast_volatility: float | None
    forecast_low: float | None
    forecast_high: float | None


class PricePoint(TypedDict):
    """A price and its time."""

    time: str
    price: float


class AlertRow(TypedDict):
    """One transition of a rule."""

    alert_id: str
    seq: int
    rule_id: str
    rule_name: str
    rule_version: int
    exchange: str
    product: str
    state: str
    at: str
    value: float | None
    threshold: float | None
    reason: str
    severity: str
    labels: dict[str, str]
    window: str | None
    last_prices: list[PricePoint]


class Fault(TypedDict):
    """What is wrong with a member of an event."""

    pointer: str
    message: str


class _Settled(TypedDict):
    id: str | None
    status: Literal["accepted", "rejected"]


class Sent(_Settled, total=False):
    """What became of an event: `event_id` of one that is accepted; why one is not, in `errors` or `detail`."""

    event_id: str
    detail: str
    errors: list[Fault]
