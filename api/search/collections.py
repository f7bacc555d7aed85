"""The collections that can be searched: of each the table, its order, its filters and its fields. Pure.

Statements, cursors, exports and the OpenAPI document are all made from these descriptions; the fields and what they
mean come from the records' Avro schemas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from schemas import registry
from schemas.codec import DATASET_RECORDS, NAMES


class Match(StrEnum):
    """How a filter compares, as the name of its condition in `queries.sql`."""

    EQUAL = "where_equal"
    BYTES = "where_equal_bytes"
    """Equal, by an index that compares bytes."""
    PREFIX = "where_prefix"
    CONTAINS = "where_contains"


@dataclass(frozen=True, slots=True)
class Filter:
    """A parameter that a collection can be filtered by, and the column that it compares."""

    column: str
    match: Match = Match.EQUAL


@dataclass(frozen=True)
class Collection:
    """A stored dataset. Its rows are ordered by (`time`, `id`), the end of its primary key."""

    name: str
    time: str
    filters: Mapping[str, Filter]
    id: str = "event_id"
    hidden: frozenset[str] = field(default_factory=frozenset)
    """Fields of the record that rows do not show."""
    heavy: str | None = None
    """A column whose values may be so large that rows are bounded by their bytes too."""

    @cached_property
    def schema(self) -> Mapping[str, Mapping[str, Any]]:
        """The Avro fields that a row shows, by name, in the record's order."""
        fields: Any = registry.current(NAMES[DATASET_RECORDS[self.name]]).json["fields"]
        return {one["name"]: one for one in fields if one["name"] not in self.hidden}

    @cached_property
    def times(self) -> tuple[str, ...]:
        """The fields that are times."""
        return tuple(name for name, one in self.schema.items() if _is_time(one["type"]))


def _is_time(avro: Any) -> bool:  # parsed JSON
    if isinstance(avro, list):
        return any(map(_is_time, avro))
    return isinstance(avro, dict) and avro.get("logicalType") == "timestamp-micros"


def _equal(*names: str) -> dict[str, Filter]:
    return {name: Filter(name) for name in names}


def _texts(*names: str) -> dict[str, Filter]:
    equal = {name: Filter(name, Match.BYTES) for name in names}
    return equal | {f"{name}_prefix": Filter(name, Match.PREFIX) for name in names}


COLLECTIONS: Final[Mapping[str, Collection]] = {
    collection.name: collection
    for collection in (
        Collection("ticks", "exchange_time", _equal("product", "exchange")),
        Collection(
            "events",
            "time",
            _texts("type", "source", "product") | {"contains": Filter("data", Match.CONTAINS)},
            heavy="data",
        ),
        Collection("trades", "exchange_time", _equal("product", "exchange", "side")),
        Collection("bars", "start", _equal("product", "exchange", "period", "origin"), hidden=frozenset({"as_of"})),
        Collection("stats", "at", _equal("product", "exchange", "window", "basis"), hidden=frozenset({"as_of"})),
        Collection("alerts", "at", _equal("product", "exchange", "rule_id", "state", "severity"), id="alert_id"),
    )
}
"""In the order in which rows of the same time follow each other where several are searched together."""
TOGETHER: Final = ("ticks", "events")
"""Those that a search without a dataset looks through."""
FILTERS: Final = tuple(dict.fromkeys(name for one in COLLECTIONS.values() for name in one.filters))
