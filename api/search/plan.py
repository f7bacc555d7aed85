"""What a search means, decided without a database: which datasets, which rows, in which order, from where on. Pure.

A walk is ordered by (event time, dataset, id): each dataset's table gives its rows in (time, id) order by its primary
key or an index, and the merge compares times and datasets only, so that no two collations ever have to agree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from api.cursor import Position
from pulsestream.core.clock import to_datetime

DEFAULT_DATASETS: Final = ("ticks", "events")
MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class Dataset:
    """A stored dataset: its time column, its id column, and the fields that it can be searched by."""

    name: str
    time: str
    id: str
    fields: frozenset[str]


SEARCHABLE: Final[Mapping[str, Dataset]] = {
    dataset.name: dataset
    for dataset in (
        Dataset("ticks", "exchange_time", "event_id", frozenset({"product", "exchange"})),
        Dataset("events", "time", "event_id", frozenset({"product", "type", "source"})),
        Dataset("trades", "exchange_time", "event_id", frozenset({"product", "exchange"})),
        Dataset("bars", "start", "event_id", frozenset({"product", "exchange", "period"})),
        Dataset("stats", "at", "event_id", frozenset({"product", "exchange"})),
        Dataset("alerts", "at", "alert_id", frozenset({"product", "exchange"})),
    )
}


class SearchError(ValueError):
    """The search cannot mean anything; `parameter` is what to change."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A search as it was asked for. Times are microseconds; `from_time` is included, `to_time` is not."""

    dataset: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    from_time: int | None = None
    to_time: int | None = None
    ascending: bool = False
    limit: int = DEFAULT_LIMIT

    def identity(self) -> list[Any]:
        """Return what a cursor is bound to: everything but the page's size."""
        return [self.dataset, dict(self.fields), self.from_time, self.to_time, self.ascending]


@dataclass(frozen=True, slots=True)
class Plan:
    """One dataset's part of a search: names of filters in `queries.sql`, and the parameters they bind."""

    dataset: Dataset
    filters: tuple[str, ...]
    parameters: Mapping[str, Any]
    ascending: bool


def plan(request: SearchRequest, behind: Position | None) -> list[Plan]:
    """Return what to ask of each dataset; raises SearchError."""
    if request.from_time is not None and request.to_time is not None and request.from_time >= request.to_time:
        raise SearchError("to", "to must lie after from: the range is from <= time < to")
    return [_plan(request, dataset, behind) for dataset in _datasets(request)]


def order_key(time: int, dataset: str, *, ascending: bool) -> tuple[int, int]:
    """Return the key by which rows of several datasets are merged; each dataset's own order breaks no tie here."""
    rank = list(SEARCHABLE).index(dataset)
    return (time, rank) if ascending else (-time, -rank)


def _datasets(request: SearchRequest) -> list[Dataset]:
    if request.dataset is None:
        found = [SEARCHABLE[name] for name in DEFAULT_DATASETS if SEARCHABLE[name].fields.issuperset(request.fields)]
        if not found:
            named = " and ".join(request.fields)
            raise SearchError(
                "dataset", f"no dataset searched by default has {named}: leave one out, or name a dataset"
            )
        return found
    dataset = _named(request.dataset)
    for name in request.fields:
        if name not in dataset.fields:
            raise SearchError(name, f"{dataset.name} have no {name}: search them by {_listed(dataset.fields)}")
    return [dataset]


def _named(name: str) -> Dataset:
    if name not in SEARCHABLE:
        raise SearchError("dataset", f"{name[:60]!r} is not a dataset: use {_listed(SEARCHABLE)}")
    return SEARCHABLE[name]


def _plan(request: SearchRequest, dataset: Dataset, behind: Position | None) -> Plan:
    filters = [f"filter_{name}" for name in sorted(request.fields)]
    parameters: dict[str, Any] = dict(request.fields)
    for name, bound in (("from", request.from_time), ("to", request.to_time)):
        if bound is not None:
            filters.append(f"filter_{name}")
            parameters[name] = to_datetime(bound)
    for name, value in _behind(request, dataset, behind):
        filters.append(name)
        parameters |= value
    return Plan(dataset, tuple(filters), parameters, request.ascending)


def _behind(request: SearchRequest, dataset: Dataset, behind: Position | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if behind is None:
        return
    time = {"cursor_time": to_datetime(behind.time)}
    here = order_key(behind.time, dataset.name, ascending=request.ascending)
    there = order_key(behind.time, behind.dataset, ascending=request.ascending)
    if here == there:
        yield "filter_behind", time | {"cursor_id": behind.event_id}
    else:
        yield ("filter_at_or_behind" if here > there else "filter_strictly_behind"), time


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
