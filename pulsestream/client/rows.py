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


class Acknowledgement(TypedDict):
    """Who took note of an alert, and when."""

    at: str
    by: str
    comment: str | None


class Snooze(Acknowledgement):
    """Who does not want to hear of a rule for one product, and until when."""

    until: str


class CurrentAlert(TypedDict):
    """How a rule stands for one product; `muted`: why nobody is told of it, None where they are."""

    alert_id: str
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
    muted: str | None
    acknowledged: Acknowledgement | None
    snoozed: Snooze | None


class Subscription(TypedDict):
    """A product that the tenant gets."""

    exchange: str
    product: str
    datasets: list[str]
    since: str


class Rule(TypedDict):
    """The newest version of a rule."""

    rule_id: str
    version: int
    name: str
    enabled: bool
    definition: dict[str, Any]
    created_at: str
    created_by: str
    effective_at: str | None


class Difference(TypedDict):
    """One place where two versions of a rule differ, as a JSON pointer; None: nothing stands there."""

    pointer: str
    before: Any
    after: Any


class RuleVersion(TypedDict):
    """A version of a rule: what it did, who made it, and when it held."""

    version: int
    change: Literal["created", "changed", "paused", "resumed", "deleted"]
    differences: list[Difference]
    definition: dict[str, Any]
    created_at: str
    created_by: str
    effective_at: str | None
    ended_at: str | None


class Transition(TypedDict):
    """A transition that a rule would have made."""

    rule: str
    product: str
    state: Literal["pending", "firing", "resolved", "inactive"]
    at: str
    value: float | None
    reason: str
    exchange: str
    threshold: float | None
    window: str | None
    severity: str
    labels: dict[str, str]


class TrialSummary(TypedDict):
    """What transitions come to."""

    fired: int
    would_notify: int
    firing_seconds: float
    longest_seconds: float
    firing_at_end: int


class TrialRecords(TypedDict):
    """The records that a rule was tried on; `left_out`: how many of them the platform drops, and why."""

    count: int
    first: str | None
    last: str | None
    left_out: dict[str, int]


RuleTrial = TypedDict(
    "RuleTrial",
    {
        "from": str,
        "to": str,
        "transitions": list[Transition],
        "count": int,
        "truncated": bool,
        "summary": TrialSummary,
        "records": TrialRecords,
    },
)
"""What a rule would have done; where it is `truncated`, there are more transitions than are told."""


class Registered(TypedDict):
    """A new tenant and its first key, which is shown this once."""

    tenant: str
    name: str
    tier: str
    api_key: str
    key_id: str
    role: str


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
