"""Alert rules: what a tenant writes, checked, and the version of a rule that is in force.

One model for the rule file, the API and the streams (`extra=forbid`), so that a rule that was accepted can be
evaluated. Durations are written as "60s" and held as microseconds; prices are in quote currency.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from pulsestream.core.errors import UsageError
from schemas.validate import MAX_PRICE, check_names

CONDITION_TYPES: Final = ("price",)
"""The condition types that can be evaluated."""
MAX_DURATION: Final = 31 * 86_400 * 1_000_000
"""The longest `for`, `keep_firing_for` and `cooldown`, microseconds: 31 days."""
MAX_LABELS: Final = 16
MAX_NAMES: Final = 200
"""Products, or exchanges, that one rule may list."""
EVERY_PRODUCT: Final = "*"

_UNITS: Final = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(us|ms|s|m|h|d)")
_PREFIX: Final = "Value error, "
"""Pydantic puts it before the message of a ValueError."""
_PLAIN: Final = r"^[^\x00-\x1f\x7f]*$"


class RuleError(UsageError):
    """A rule definition that cannot be taken; the message names each offending field."""


def parse_duration(text: object) -> int:
    """Return the microseconds of a duration such as "60s" or "5m"; raises ValueError."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f'{text!r} is not a duration: write a number and us, ms, s, m, h or d, as in "60s"')
    micros = Decimal(match[1]) * _UNITS[match[2]]
    if micros != micros.to_integral_value() or micros > MAX_DURATION:
        raise ValueError(f"{text!r} is not a whole number of microseconds up to 31d")
    return int(micros)


def format_duration(micros: int) -> str:
    """Return microseconds as a duration that `parse_duration` reads back: the largest unit that divides them."""
    unit = next(name for name, size in reversed(_UNITS.items()) if micros % size == 0 and (micros or name == "s"))
    return f"{micros // _UNITS[unit]}{unit}"


def _check_names(value: object, *, products: bool) -> object:
    """Refuse what is neither a name nor a list of names, with one message instead of one for each alternative."""
    names = value if isinstance(value, list) else [value]
    if not 1 <= len(names) <= MAX_NAMES:
        raise ValueError(f"a list holds 1 to {MAX_NAMES} names, not {len(names)}")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"{str(name)[:60]!r} is neither a name nor a list of names")  # noqa: TRY004 (pydantic's)
        fault = check_names("x", name) if products else check_names(name, "X")
        if fault:
            raise ValueError(fault.message)
    return value


def _check_products(value: object) -> object:
    return value if value == EVERY_PRODUCT else _check_names(value, products=True)


def _check_exchanges(value: object) -> object:
    return None if value is None else _check_names(value, products=False)


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$", "examples": ["60s", "5m"]}),
]
Price = Annotated[float, Field(strict=True, gt=0, le=MAX_PRICE, allow_inf_nan=False)]
Products = Annotated[str | list[str], BeforeValidator(_check_products)]
Exchanges = Annotated[str | list[str] | None, BeforeValidator(_check_exchanges)]
Label = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=256, pattern=_PLAIN)]


class PriceLevel(BaseModel):
    """The price is above, or below, a threshold; it is so until the price reaches `clear`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["price"]
    above: Price | None = None
    below: Price | None = None
    clear: Price | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.above is None) is (self.below is None):
            raise ValueError("give exactly one of above, below and crosses")
        if self.clear is not None and self.above is not None and self.clear > self.above:
            raise ValueError(f"clear {self.clear!r} must not lie above the threshold {self.above!r}")
        if self.clear is not None and self.below is not None and self.clear < self.below:
            raise ValueError(f"clear {self.clear!r} must not lie below the threshold {self.below!r}")
        return self


class PriceCross(BaseModel):
    """An edge: the previous and the current price lie on opposite sides of `crosses`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["price"]
    crosses: Price
    direction: Literal["up", "down", "both"] = "both"


def _condition_tag(value: Any) -> str:  # pydantic hands over whatever the definition held
    if isinstance(value, dict):
        return "cross" if "crosses" in value else "level"
    return "cross" if isinstance(value, PriceCross) else "level"


def _known_type(value: Any) -> Any:  # as above
    kind = value.get("type") if isinstance(value, dict) else "price"
    if kind not in CONDITION_TYPES:
        raise ValueError(f"condition type {kind!r} is not available; there is: {', '.join(CONDITION_TYPES)}")
    return value


Condition = Annotated[
    Annotated[PriceLevel, Tag("level")] | Annotated[PriceCross, Tag("cross")],
    Discriminator(_condition_tag),
    BeforeValidator(_known_type),
]


class RuleDefinition(BaseModel):
    """One entry of a rule file, or the body of the API's rule. Durations are written as "60s", held as microseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=_PLAIN)]
    product: Products
    exchange: Exchanges = None
    condition: Condition
    for_: Duration = Field(default=0, alias="for", json_schema_extra={"default": "0s"})
    keep_firing_for: Duration = Field(default=0, json_schema_extra={"default": "0s"})
    cooldown: Duration = Field(default=0, json_schema_extra={"default": "0s"})
    severity: Literal["info", "warning", "critical"] = "warning"
    labels: Annotated[dict[Label, LabelValue], Field(max_length=MAX_LABELS)] = {}
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """A version of a rule and the append times, micros, that it is for: from effective_at until before ended_at."""

    tenant: str
    rule_id: str
    version: int
    definition: RuleDefinition
    effective_at: int
    ended_at: int | None = None


def parse_rule(definition: str | bytes) -> RuleDefinition:
    """Return the rule in a JSON definition; raises RuleError, which names each field that is wrong and why."""
    try:
        return RuleDefinition.model_validate_json(definition)
    except ValidationError as error:
        faults = [f"{_where(fault['loc'])}{fault['msg'].removeprefix(_PREFIX)}" for fault in error.errors()]
        raise RuleError(f"the rule cannot be taken: {'; '.join(faults)}") from error


def applies(rule: ActiveRule, exchange: str, product: str) -> bool:
    """Tell whether an enabled rule is about a product of an exchange."""
    definition = rule.definition
    return (
        definition.enabled
        and (definition.product == EVERY_PRODUCT or _names(definition.product, product))
        and (definition.exchange is None or _names(definition.exchange, exchange))
    )


def _names(named: str | list[str], name: str) -> bool:
    return name == named if isinstance(named, str) else name in named


def _where(location: tuple[int | str, ...]) -> str:
    named = [str(part) for part in location if part not in {"level", "cross"}]
    return f"{'.'.join(named)}: " if named else ""
