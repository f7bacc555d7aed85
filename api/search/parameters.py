"""The parameters of the routes that search: what each means, and the search that they amount to."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from api import errors
from api.search.collections import FILTERS
from api.search.periods import Period, parse
from api.search.plan import DEFAULT_LIMIT, MAX_LIMIT, SearchRequest
from api.search.series import CCXT, FIELDS, Bar, SeriesRequest, as_ccxt
from pulsestream.core.clock import parse_rfc3339, to_datetime, to_micros
from schemas.validate import PERIODS

MAX_EXPORTED: Final = 10_000_000
EXPORT_PAGE: Final = 500
"""Rows that an export reads and encodes at a time."""
_NAME: Final = 256
"""Characters of a filter's value."""
_CONTAINED: Final = 4096
_LEVELS: Final = 10
Json = object


class WalkParameters(BaseModel):
    """What every route that searches takes. Unknown parameters are refused: a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_: str | None = Field(
        None,
        alias="from",
        max_length=64,
        description="event time, RFC 3339, included",
        examples=["2026-01-31T12:00:00Z"],
    )
    to: str | None = Field(
        None, max_length=64, description="event time, RFC 3339, not included", examples=["2026-01-31T13:00:00Z"]
    )
    order: Literal["desc", "asc", "ingested"] = Field(
        "desc",
        description="by event time, newest or oldest first; ingested: in the order of storing, to follow what comes",
    )
    begin: Literal["oldest", "now"] = Field(
        "oldest",
        description="with order=ingested and no cursor: from the first row stored, or with what comes from now on",
    )
    limit: int | None = Field(
        None, ge=1, description=f"rows of a page, {DEFAULT_LIMIT} by default, {MAX_LIMIT} at most; of an export: in all"
    )
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the page before")
    fields: str | None = Field(
        None, max_length=1024, description="what rows show, comma-separated; default: everything", examples=["event_id"]
    )
    format: Literal["json", "ndjson", "csv"] = Field(
        "json", description="json: a page; ndjson, csv: an export of all rows, streamed"
    )
    count: bool = Field(
        False, description="also say how many rows there are in all: exact up to 10,000, else an estimate"
    )

    collection: ClassVar[str | None] = None

    def request(self) -> SearchRequest:
        """Return the search; raises Problem 400 for what cannot be meant."""
        self._check()
        given = {name: value for name in FILTERS if (value := getattr(self, name, None)) is not None}
        return SearchRequest(
            self._dataset(),
            {name: str(value) for name, value in given.items()},
            moment("from", self.from_),
            moment("to", self.to),
            self.order == "asc",
            self.page_size,
            self.order == "ingested",
            self.shown,
        )

    def _dataset(self) -> str | None:
        return self.collection

    @property
    def is_export(self) -> bool:
        """Whether the whole walk is asked for, as a stream."""
        return self.format != "json"

    @property
    def page_size(self) -> int:
        """How many rows a page has."""
        return EXPORT_PAGE if self.is_export else self.limit or DEFAULT_LIMIT

    @property
    def shown(self) -> tuple[str, ...]:
        """The fields that are asked for, empty for all."""
        return () if self.fields is None else tuple(name.strip() for name in self.fields.split(","))

    def _check(self) -> None:
        most = MAX_EXPORTED if self.is_export else MAX_LIMIT
        if self.limit is not None and self.limit > most:
            raise refused("limit", f"{self.limit} is more than {most}: ask for less, and go on by the cursor")
        if self.begin == "now" and (self.order != "ingested" or self.is_export or self.cursor is not None):
            raise refused("begin", "begin=now goes with order=ingested alone: without a cursor, and in no export")
        if self.is_export and self.cursor is not None:
            raise refused("cursor", "an export begins at its beginning: narrow it with from and to")
        if self.is_export and self.count:
            raise refused("count", "an export has no count: ask for it with format=json and limit=1")


_PRODUCT = Field(None, max_length=_NAME, description="of this product", examples=["BTC-USD"])
_EXCHANGE = Field(None, max_length=_NAME, description="of this exchange", examples=["coinbase"])


class TicksParameters(WalkParameters):
    """Which ticks."""

    collection: ClassVar[str | None] = "ticks"
    product: str | None = _PRODUCT
    exchange: str | None = _EXCHANGE


class TradesParameters(WalkParameters):
    """Which trades."""

    collection: ClassVar[str | None] = "trades"
    product: str | None = _PRODUCT
    exchange: str | None = _EXCHANGE
    side: Literal["buy", "sell"] | None = Field(None, description="the taker's")


class StatsParameters(WalkParameters):
    """Which statistics."""

    collection: ClassVar[str | None] = "stats"
    product: str | None = _PRODUCT
    exchange: str | None = _EXCHANGE
    window: Literal["1m", "5m", "15m", "1h", "24h"] | None = Field(None, description="length of the window")
    basis: Literal["trades", "ticks", "quotes"] | None = Field(None, description="what they are computed from")


class AlertsParameters(WalkParameters):
    """Which alerts."""

    collection: ClassVar[str | None] = "alerts"
    product: str | None = _PRODUCT
    exchange: str | None = _EXCHANGE
    rule_id: str | None = Field(None, max_length=_NAME, description="of this rule")
    state: Literal["pending", "firing", "resolved", "inactive"] | None = Field(None, description="what began")
    severity: Literal["info", "warning", "critical"] | None = Field(None, description="the rule's")


class BarsParameters(WalkParameters):
    """Which bars: without a period all that are stored, with one a series."""

    collection: ClassVar[str | None] = "bars"
    product: str | None = _PRODUCT
    exchange: str | None = _EXCHANGE
    period: str | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="1s, 1m, 5m, 15m, 1h, 1d or a multiple of one (90s, 3m, 4h, 1w): a series with one bar a period",
        examples=["1h"],
    )
    origin: Literal["trades", "ticks", "exchange"] | None = Field(
        None, description="what they are made of; default in a series: of each period the complete one, trades first"
    )
    fill: Literal["none", "previous", "null"] = Field(
        "none",
        description="of a series, periods without a bar: left out; the close before, without volume; or nulls. Needs "
        "exchange and from",
    )
    columns: Literal["all", "ccxt"] = Field(
        "all", description="of a series; ccxt: arrays of [milliseconds, open, high, low, close, volume]. Needs exchange"
    )

    def series(self) -> SeriesRequest | None:
        """Return the series that is asked for, None for bars as they are stored; raises Problem 400."""
        if self.period is None or self.order == "ingested":
            self._check_stored()
            return None
        self._check()
        self._check_series()
        begin, end = moment("from", self.from_), moment("to", self.to)
        if begin is not None and end is not None and begin >= end:
            raise refused("to", "to must lie after from: the range is from <= start < to")
        return SeriesRequest(
            self.product or "",
            self._period(self.period),
            self.exchange,
            self.origin,
            begin,
            end,
            self.order == "asc",
            self.page_size,
            self.fill,
        )

    @property
    def columns_shown(self) -> Sequence[str]:
        """The names of what `arranged` gives."""
        return CCXT if self.columns == "ccxt" else self.shown or FIELDS

    def arranged(self, bars: Sequence[Bar]) -> list[Any]:
        """Return the bars of a series with the columns that are asked for."""
        if self.columns == "ccxt":
            return [as_ccxt(bar) for bar in bars]
        return [{name: bar[name] for name in self.shown or FIELDS} for bar in bars]

    @staticmethod
    def _period(text: str) -> Period:
        try:
            return parse(text)
        except ValueError as error:
            raise refused("period", str(error)) from error

    def _check_stored(self) -> None:
        for name, default in (("fill", "none"), ("columns", "all")):
            if getattr(self, name) != default:
                raise refused(name, f"{name} is of a series: name its period, and order by time")
        if self.period is not None and self.period not in PERIODS:
            raise refused("period", f"bars of {self.period} are not stored, so they have no order of storing")

    def _check_series(self) -> None:
        if self.product is None:
            raise refused("product", "a series is of one product: name it")
        if self.count:
            raise refused("count", "a series has no count: ask for it without a period")
        if self.exchange is None and (self.fill != "none" or self.columns != "all"):
            raise refused("exchange", "fill and columns=ccxt need a series of one exchange: name it")
        if self.fill != "none" and self.from_ is None:
            raise refused("from", "fill needs a beginning: say from when on")
        for name in self.shown:
            if name not in FIELDS or self.columns != "all":
                raise refused("fields", f"{name[:60]!r} is not a field of a series: it has {', '.join(FIELDS)}")


class SearchParameters(WalkParameters):
    """What to search for."""

    dataset: str | None = Field(
        None,
        max_length=64,
        description="ticks, trades, events, stats, bars or alerts; default: ticks and events together",
    )
    product: str | None = _PRODUCT
    exchange: str | None = Field(None, max_length=_NAME, description="of all but events", examples=["coinbase"])
    period: str | None = Field(None, max_length=8, description="of bars, as stored", examples=["1m"])
    origin: str | None = Field(None, max_length=_NAME, description="of bars", examples=["trades"])
    window: str | None = Field(None, max_length=8, description="of stats", examples=["1m"])
    basis: str | None = Field(None, max_length=_NAME, description="of stats", examples=["trades"])
    side: str | None = Field(None, max_length=_NAME, description="of trades: the taker's", examples=["buy"])
    rule_id: str | None = Field(None, max_length=_NAME, description="of alerts")
    state: str | None = Field(None, max_length=_NAME, description="of alerts", examples=["firing"])
    severity: str | None = Field(None, max_length=_NAME, description="of alerts", examples=["warning"])
    type: str | None = Field(None, max_length=_NAME, description="of events", examples=["order.filled"])
    source: str | None = Field(None, max_length=_NAME, description="of events", examples=["/desk/1"])
    type_prefix: str | None = Field(None, min_length=1, max_length=_NAME, description="of events", examples=["order."])
    source_prefix: str | None = Field(
        None, min_length=1, max_length=_NAME, description="of events", examples=["/desk/"]
    )
    product_prefix: str | None = Field(None, min_length=1, max_length=_NAME, description="of events", examples=["BTC-"])
    contains: str | None = Field(
        None,
        max_length=_CONTAINED,
        description="of events: a JSON object; data has to hold all of it, as PostgreSQL's `@>` says",
        examples=['{"side": "buy", "account": {"id": 17}}'],
    )

    def request(self) -> SearchRequest:
        """Return the search; raises Problem 400 for what cannot be meant."""
        if self.contains is not None:
            _check_contained(self.contains)
        return super().request()

    def _dataset(self) -> str | None:
        return self.dataset


def moment(name: str, text: str | None) -> int | None:
    """Return a parameter's time in microseconds; raises Problem 400."""
    if text is None:
        return None
    try:
        return to_micros(to_datetime(parse_rfc3339(text)))
    except (ValueError, OverflowError) as error:
        raise refused(name, f"{text[:60]!r} is not a time: write it as 2026-01-31T12:00:00Z") from error


def refused(parameter: str, message: str) -> errors.Problem:
    """Return the problem of one parameter."""
    return errors.invalid_parameters([errors.FieldError(parameter, message)])


def _check_contained(text: str) -> None:
    try:
        wanted: Json = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise refused("contains", f"it is not JSON: {error}") from error
    if not isinstance(wanted, dict):
        raise refused("contains", 'it is not a JSON object: write {"name": value}')
    if _depth(wanted) > _LEVELS:
        raise refused("contains", f"it has more than {_LEVELS} levels")
    if not _has_value(wanted):
        raise refused("contains", 'it holds no value, only empty objects or arrays: write {"name": value}')


def _depth(value: Json) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner)) if inner else 0


def _has_value(value: Json) -> bool:
    if isinstance(value, dict):
        return any(map(_has_value, value.values()))
    return any(map(_has_value, value)) if isinstance(value, list) else True
