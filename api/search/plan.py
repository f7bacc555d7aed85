"""What a search means, decided without a database: which collections, which rows, in which order, from where on. Pure.

A walk by time is ordered by (time, collection, id), one by ingestion by (ingested, time, collection, id). A table gives
its rows in the order of its own columns, and the merge compares numbers and collections only, so that no two collations
ever have to agree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from api.cursor import Position
from api.search.collections import COLLECTIONS, TOGETHER, Collection, Match
from pulsestream.core.clock import to_datetime

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100
_INGESTED: Final = "ingested"
_GREATEST: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)


class SearchError(ValueError):
    """The search cannot mean anything; `parameter` is what to change."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A search as it was asked for. Times are microseconds; `from_time` is included, `to_time` is not.

    `ingested`: in the order of ingestion, which only goes upwards. `fields`: what rows show; empty: everything.
    """

    dataset: str | None = None
    filters: Mapping[str, str] = field(default_factory=dict)
    from_time: int | None = None
    to_time: int | None = None
    ascending: bool = False
    limit: int = DEFAULT_LIMIT
    ingested: bool = False
    fields: tuple[str, ...] = ()

    def identity(self) -> list[Any]:
        """Return what a cursor is bound to: which rows, in what order."""
        order = _INGESTED if self.ingested else self.ascending
        return [self.dataset, dict(self.filters), self.from_time, self.to_time, order]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of `queries.sql` on columns of ours, and the parameters that it binds, in its order."""

    query: str
    columns: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """One collection's part of a search. `keys`: the columns of its order; `shown`: the fields of its rows."""

    collection: Collection
    conditions: tuple[Condition, ...]
    keys: tuple[str, ...]
    ascending: bool
    shown: tuple[str, ...]

    @property
    def leading(self) -> tuple[str, ...]:
        """The columns that come before the collection in the order of a walk."""
        return self.keys[:-1]

    def having(self, *conditions: Condition) -> "Plan":
        """Return the part of it on which more conditions hold."""
        return replace(self, conditions=(*self.conditions, *conditions))

    @property
    def is_by_containment(self) -> bool:
        """Whether rows are looked for by what their data contains, in the order of time."""
        return _INGESTED not in self.keys and any(one.query == Match.CONTAINS for one in self.conditions)


def plan(request: SearchRequest, behind: Position | None) -> list[Plan]:
    """Return what to ask of each collection; raises SearchError."""
    if request.from_time is not None and request.to_time is not None and request.from_time >= request.to_time:
        raise SearchError("to", "to must lie after from: the range is from <= time < to")
    collections = _collections(request)
    _check_fields(request, collections)
    return [_plan(request, collection, behind) for collection in collections]


def order_key(leading: tuple[int, ...], collection: str, *, ascending: bool) -> tuple[int, ...]:
    """Return the key by which rows of several collections are merged; each one's own order breaks no tie here."""
    key = (*leading, list(COLLECTIONS).index(collection))
    return key if ascending else tuple(-part for part in key)


def prefix_end(prefix: str) -> str | None:
    """Return the least text above all that begin with `prefix`, by code points; None where there is none."""
    for place in reversed(range(len(prefix))):
        point = ord(prefix[place]) + 1
        if point <= _GREATEST:
            return prefix[:place] + chr(_SURROGATES.stop if point in _SURROGATES else point)
    return None


def _collections(request: SearchRequest) -> list[Collection]:
    if request.dataset is None:
        found = [COLLECTIONS[name] for name in TOGETHER if COLLECTIONS[name].filters.keys() >= request.filters.keys()]
        if not found:
            named = " and ".join(request.filters)
            raise SearchError(
                "dataset", f"no dataset searched by default has {named}: leave one out, or name a dataset"
            )
        return found
    if request.dataset not in COLLECTIONS:
        raise SearchError("dataset", f"{request.dataset[:60]!r} is not a dataset: use {_listed(COLLECTIONS)}")
    collection = COLLECTIONS[request.dataset]
    for name in request.filters:
        if name not in collection.filters:
            raise SearchError(name, f"{collection.name} have no {name}: search them by {_listed(collection.filters)}")
    return [collection]


def _check_fields(request: SearchRequest, collections: list[Collection]) -> None:
    known = {name for collection in collections for name in collection.schema}
    for name in request.fields:
        if name not in known:
            raise SearchError("fields", f"{name[:60]!r} is not a field of these rows: they have {_listed(known)}")


def _plan(request: SearchRequest, collection: Collection, behind: Position | None) -> Plan:
    keys = (*((_INGESTED,) if request.ingested else ()), collection.time, collection.id)
    conditions = (*_filters(request, collection), *_behind(request, collection, keys, behind))
    shown = tuple(name for name in collection.schema if name in request.fields or not request.fields)
    return Plan(collection, conditions, keys, request.ascending or request.ingested, shown)


def _filters(request: SearchRequest, collection: Collection) -> Iterator[Condition]:
    for name, value in request.filters.items():
        asked = collection.filters[name]
        yield Condition(asked.match, (asked.column,), {name: value})
        end = prefix_end(value) if asked.match is Match.PREFIX else None
        if end is not None:
            yield Condition("where_below_bytes", (asked.column,), {f"{name}_end": end})
    for name, query, bound in (("from", "where_from", request.from_time), ("to", "where_to", request.to_time)):
        if bound is not None:
            yield Condition(query, (collection.time,), {name: to_datetime(bound)})
    if request.ingested:
        yield Condition("where_settled")


def _behind(
    request: SearchRequest, collection: Collection, keys: tuple[str, ...], behind: Position | None
) -> Iterator[Condition]:
    if behind is None:
        return
    ascending = request.ascending or request.ingested
    values: dict[str, Any] = {} if behind.ingested is None else {"cursor_ingested": behind.ingested}
    values["cursor_time"] = to_datetime(behind.time)
    here = order_key(_leading(behind), collection.name, ascending=ascending)
    there = order_key(_leading(behind), behind.dataset, ascending=ascending)
    if here == there:
        yield Condition("where_behind", keys, values | {"cursor_id": behind.event_id})
    else:
        yield Condition("where_at_or_behind" if here > there else "where_behind", keys[:-1], values)


def _leading(position: Position) -> tuple[int, ...]:
    return (position.time,) if position.ingested is None else (position.ingested, position.time)


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
