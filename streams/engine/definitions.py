"""The conditions that a rule may have, one model a type.

Each is true beyond a threshold and false again at `clear`, which defaults to the threshold: in between it is neither.
Windows are those of the statistics. A message about a wrong condition points to the field.
"""

from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from schemas.validate import MAX_PRICE, check_names
from streams.engine.durations import Duration, format_duration

WINDOW_SECONDS: Final = {"1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "24h": 86_400}
"""Seconds of the windows that a condition may be over."""
SECONDS_UP_TO: Final = 900
"""Windows of up to so many seconds are evaluated at whole seconds, longer ones at whole minutes."""
MAX_EXCHANGES: Final = 20
"""Exchanges that a divergence may compare."""
MIN_SILENCE: Final = 1_000_000
"""The shortest `after` of no_data, microseconds."""

Window = Literal["1m", "5m", "15m", "1h", "24h"]
SourceOf: TypeAlias = Literal["prices", "quotes", "product", "clock"]
_Model = TypeVar("_Model", bound=BaseModel)

Price = Annotated[float, Field(strict=True, gt=0, le=MAX_PRICE, allow_inf_nan=False)]
Percent = Annotated[float, Field(strict=True, gt=-100, le=1e9, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, le=1e9, allow_inf_nan=False)]
BasisPoints = Annotated[float, Field(strict=True, ge=-1e9, le=1e9, allow_inf_nan=False)]


def _checked_clear(clear: float | None, info: ValidationInfo, suffix: str = "") -> float | None:
    """Refuse a `clear` beyond the threshold, which stands in the fields before it."""
    above, below = info.data.get(f"above{suffix}"), info.data.get(f"below{suffix}")
    if clear is not None and above is not None and clear > above:
        raise ValueError(f"clear{suffix} {clear!r} must not lie above the threshold {above!r}")
    if clear is not None and below is not None and clear < below:
        raise ValueError(f"clear{suffix} {clear!r} must not lie below the threshold {below!r}")
    return clear


def _exactly_one(model: _Model, one: float | None, other: float | None, named: str) -> _Model:
    """Refuse a condition with both thresholds or without any."""
    if (one is None) is (other is None):
        raise ValueError(f"give exactly one of {named}")
    return model


class PriceLevel(BaseModel):
    """The price is above, or below, a threshold; it is so until the price reaches `clear`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["price"]
    above: Price | None = None
    below: Price | None = None
    clear: Price | None = None

    @field_validator("clear")
    @classmethod
    def _clear(cls, clear: float | None, info: ValidationInfo) -> float | None:
        return _checked_clear(clear, info)

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        return _exactly_one(self, self.above, self.below, "above, below and crosses")


class PriceCross(BaseModel):
    """An edge: the previous and the current price lie on opposite sides of `crosses`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["price"]
    crosses: Price
    direction: Literal["up", "down", "both"] = "both"


class Change(BaseModel):
    """The price has changed by more than so many per cent since the last price before the window."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["change"]
    window: Window
    above_pct: Percent | None = None
    below_pct: Percent | None = None
    clear_pct: Percent | None = None

    @field_validator("clear_pct")
    @classmethod
    def _clear(cls, clear: float | None, info: ValidationInfo) -> float | None:
        return _checked_clear(clear, info, "_pct")

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        return _exactly_one(self, self.above_pct, self.below_pct, "above_pct and below_pct")


class Volatility(BaseModel):
    """The annualised realised volatility of the window, as a ratio (1.2 is 120 %)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["volatility"]
    window: Window
    above: NotNegative | None = None
    below: Positive | None = None
    clear: NotNegative | None = None

    @field_validator("clear")
    @classmethod
    def _clear(cls, clear: float | None, info: ValidationInfo) -> float | None:
        return _checked_clear(clear, info)

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        return _exactly_one(self, self.above, self.below, "above and below")


class Volume(BaseModel):
    """The window's volume is a multiple of the mean volume of the windows before it, as many as make up `baseline`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["volume"]
    window: Window
    baseline: Window
    above_ratio: Positive
    clear_ratio: NotNegative | None = None

    @field_validator("baseline")
    @classmethod
    def _longer(cls, baseline: Window, info: ValidationInfo) -> Window:
        window = info.data.get("window")
        if window is not None and WINDOW_SECONDS[baseline] <= WINDOW_SECONDS[window]:
            raise ValueError(f"the baseline {baseline} must be longer than the window {window}")
        return baseline

    @field_validator("clear_ratio")
    @classmethod
    def _clear(cls, clear: float | None, info: ValidationInfo) -> float | None:
        return _checked_clear(clear, info, "_ratio")


class ZScore(BaseModel):
    """The last second's log return, with a window of 1h the last minute's, lies far from the median of the window's.

    How far is measured in scaled median deviations (`anomaly.score`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["zscore"]
    window: Literal["1m", "5m", "15m", "1h"]
    above: Positive
    clear: NotNegative | None = None

    @field_validator("clear")
    @classmethod
    def _clear(cls, clear: float | None, info: ValidationInfo) -> float | None:
        return _checked_clear(clear, info)


class Spread(BaseModel):
    """Bid and ask lie more than so many basis points of their middle apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["spread"]
    above_bps: NotNegative
    clear_bps: BasisPoints | None = None

    @field_validator("clear_bps")
    @classmethod
    def _clear(cls, clear: float | None, info: ValidationInfo) -> float | None:
        return _checked_clear(clear, info, "_bps")


def _distinct_exchanges(names: list[str]) -> list[str]:
    for name in names:
        if fault := check_names(name, "X"):
            raise ValueError(fault.message)
    if len(set(names)) < len(names):
        raise ValueError("an exchange is named twice")
    return names


class Divergence(BaseModel):
    """The last prices of a product on several exchanges lie more than so many basis points of their middle apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["divergence"]
    exchanges: Annotated[list[str], Field(min_length=2, max_length=MAX_EXCHANGES), AfterValidator(_distinct_exchanges)]
    above_bps: NotNegative
    clear_bps: NotNegative | None = None

    @field_validator("clear_bps")
    @classmethod
    def _clear(cls, clear: float | None, info: ValidationInfo) -> float | None:
        return _checked_clear(clear, info, "_bps")


def _long_enough(after: int) -> int:
    if after < MIN_SILENCE:
        raise ValueError(f"{format_duration(after)} is too short: at least {format_duration(MIN_SILENCE)}")
    return after


class NoData(BaseModel):
    """No record of the product for so long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["no_data"]
    after: Annotated[Duration, AfterValidator(_long_enough)]


Windowed: TypeAlias = Change | Volatility | Volume | ZScore
_MODELS: Final = {
    "change": Change,
    "volatility": Volatility,
    "volume": Volume,
    "zscore": ZScore,
    "spread": Spread,
    "divergence": Divergence,
    "no_data": NoData,
}
CONDITION_TYPES: Final = ("price", *_MODELS)
"""The condition types that can be evaluated."""
TAGS: Final = frozenset({"level", "cross", *_MODELS})
"""What pydantic puts into the location of an error in a condition: not a field."""


def _tag(value: Any) -> str:  # pydantic hands over whatever the definition held
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", "price")
    if kind != "price":
        return str(kind)
    crossing = "crosses" in value if isinstance(value, dict) else isinstance(value, PriceCross)
    return "cross" if crossing else "level"


def _known_type(value: Any) -> Any:  # as above
    kind = value.get("type") if isinstance(value, dict) else "price"
    if kind not in CONDITION_TYPES:
        raise ValueError(f"condition type {kind!r} is not available; there is: {', '.join(CONDITION_TYPES)}")
    return value


Condition = Annotated[
    Annotated[PriceLevel, Tag("level")]
    | Annotated[PriceCross, Tag("cross")]
    | Annotated[Change, Tag("change")]
    | Annotated[Volatility, Tag("volatility")]
    | Annotated[Volume, Tag("volume")]
    | Annotated[ZScore, Tag("zscore")]
    | Annotated[Spread, Tag("spread")]
    | Annotated[Divergence, Tag("divergence")]
    | Annotated[NoData, Tag("no_data")],
    Discriminator(_tag),
    BeforeValidator(_known_type),
]


class Limit(NamedTuple):
    """What a condition compares with: true above the threshold (or below it), false again at `clear`."""

    above: bool
    threshold: float
    clear: float


class Crossing(NamedTuple):
    """An edge at a threshold: up, down or both."""

    threshold: float
    direction: str


def source_of(condition: Condition) -> SourceOf:
    """Return what evaluates a condition.

    prices: the product's source of prices (trades where there are any, else ticks). quotes: its ticks. product: the
    prices of the product on several exchanges together. clock: the absence of records, on the source of prices.
    """
    if isinstance(condition, Spread):
        return "quotes"
    if isinstance(condition, Divergence):
        return "product"
    return "clock" if isinstance(condition, NoData) else "prices"


def compared_with(condition: Condition) -> Limit | Crossing | None:
    """Return what a condition compares its value with; None for one that compares nothing."""
    if isinstance(condition, PriceCross):
        return Crossing(condition.crosses, condition.direction)
    if isinstance(condition, PriceLevel | Volatility):
        return _limit(condition.above, condition.below, condition.clear)
    if isinstance(condition, Change):
        return _limit(condition.above_pct, condition.below_pct, condition.clear_pct)
    if isinstance(condition, Volume):
        return _limit(condition.above_ratio, None, condition.clear_ratio)
    if isinstance(condition, ZScore):
        return _limit(condition.above, None, condition.clear)
    return None if isinstance(condition, NoData) else _limit(condition.above_bps, None, condition.clear_bps)


def _limit(above: float | None, below: float | None, clear: float | None) -> Limit:
    threshold = above if above is not None else below
    if threshold is None:
        raise ValueError("a condition without a threshold")
    return Limit(above is not None, threshold, threshold if clear is None else clear)
