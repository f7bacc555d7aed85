"""Alert rules: what a tenant writes, checked, and the version of a rule that is in force.

One model for the rule file, the API and the streams (`extra=forbid`), so that a rule that was accepted can be
evaluated. Durations are written as "60s" and held as microseconds; prices are in quote currency.
"""

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from pulsestream.core.errors import UsageError
from schemas.validate import check_names
from streams.engine.definitions import (
    TAGS,
    Condition,
    Crossing,
    Divergence,
    Limit,
    NoData,
    SourceOf,
    compared_with,
    source_of,
)
from streams.engine.durations import Duration
from streams.engine.machine import Holds
from streams.engine.measures import Measure, measure_of

MAX_LABELS: Final = 16
MAX_NAMES: Final = 200
"""Products, or exchanges, that one rule may list."""
EVERY_PRODUCT: Final = "*"

_PREFIX: Final = "Value error, "
"""Pydantic puts it before the message of a ValueError."""
_PLAIN: Final = r"^[^\x00-\x1f\x7f]*$"


class RuleError(UsageError):
    """A rule definition that cannot be taken; the message names each offending field."""


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


def checked_products(value: object) -> object:
    """Refuse what is no list of products; None is taken."""
    if value is not None and not isinstance(value, list):
        raise ValueError("is not a list of products")
    return None if value is None else _check_names(value, products=True)


def _check_exchanges(value: object) -> object:
    return None if value is None else _check_names(value, products=False)


_Names = Annotated[list[str], Field(min_length=1, max_length=MAX_NAMES)]
Products = Annotated[str | _Names, BeforeValidator(_check_products)]
Exchanges = Annotated[str | _Names | None, BeforeValidator(_check_exchanges)]
Label = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=256, pattern=_PLAIN)]


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
    enabled: StrictBool = True

    @field_validator("condition")
    @classmethod
    def _own_exchanges(cls, condition: Condition, info: ValidationInfo) -> Condition:
        if isinstance(condition, Divergence) and info.data.get("exchange") is not None:
            raise ValueError("a divergence names its exchanges itself: leave the rule's exchange out")
        return condition


RuleKey = tuple[str, int]
"""Rule id and version."""


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """A version of a rule and the append times, micros, that it is for: from effective_at until before ended_at.

    The fields after those are what evaluation needs of the definition, worked out once.
    """

    tenant: str
    rule_id: str
    version: int
    definition: RuleDefinition
    effective_at: int
    ended_at: int | None = None
    key: RuleKey = field(init=False, repr=False, compare=False)
    source: SourceOf = field(init=False, repr=False, compare=False)
    compared: Limit | Crossing | None = field(init=False, repr=False, compare=False)
    measure: Measure | None = field(init=False, repr=False, compare=False)
    holds: Holds = field(init=False, repr=False, compare=False)
    silence: int | None = field(init=False, repr=False, compare=False)
    """How long no record may come, micros, where that is the condition."""

    def __post_init__(self) -> None:
        definition = self.definition
        for name, value in (
            ("key", (self.rule_id, self.version)),
            ("source", source_of(definition.condition)),
            ("compared", compared_with(definition.condition)),
            ("measure", measure_of(definition.condition)),
            ("holds", Holds(definition.for_, definition.keep_firing_for, definition.cooldown)),
            ("silence", definition.condition.after if isinstance(definition.condition, NoData) else None),
        ):
            object.__setattr__(self, name, value)


def parse_rule(definition: str | bytes) -> RuleDefinition:
    """Return the rule in a JSON definition; raises RuleError, which names each field that is wrong and why."""
    try:
        return RuleDefinition.model_validate_json(definition)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, place))}: {said}" if place else said for place, said in faults_of(error)]
        raise RuleError(f"the rule cannot be taken: {'; '.join(faults)}") from error


def faults_of(error: ValidationError) -> list[tuple[tuple[int | str, ...], str]]:
    """Return where a definition is wrong (names of fields and indices) and what is wrong there."""
    return [(_fields(fault["loc"]), fault["msg"].removeprefix(_PREFIX)) for fault in error.errors()]


def applies(rule: ActiveRule, exchange: str, product: str) -> bool:
    """Tell whether an enabled rule is about a product of an exchange."""
    definition = rule.definition
    return (
        definition.enabled
        and (definition.product == EVERY_PRODUCT or _names(definition.product, product))
        and (definition.exchange is None or _names(definition.exchange, exchange))
    )


def lives_on(rule: ActiveRule, dataset: str, *, prices: bool) -> bool:
    """Tell whether a rule is evaluated on a product's source of a dataset; `prices`: prices live on it."""
    if rule.source == "quotes":
        return dataset != "trades"
    return prices and rule.source in {"prices", "clock"}


def _names(named: str | list[str], name: str) -> bool:
    return name == named if isinstance(named, str) else name in named


def _fields(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return a location without the names of alternatives that pydantic puts into it."""
    return tuple(part for index, part in enumerate(location) if index != 1 or part not in TAGS)
