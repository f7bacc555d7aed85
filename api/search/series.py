"""Series of bars: stored bars gathered into periods of any length; periods without one are filled where asked for."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Literal

from psycopg import sql

from api import errors
from api.cursor import CursorError, CursorSeal, Position
from api.database import Connection, Database, query
from api.search.periods import Period
from api.search.service import TIMEOUT, Page
from pulsestream.core.clock import Clock, format_rfc3339, parse_rfc3339, to_datetime, to_micros

Fill = Literal["none", "previous", "null"]
Bar = dict[str, Any]
FIELDS: Final = (
    "product",
    "exchange",
    "period",
    "start",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "vwap",
    "trades",
    "buy_volume",
    "complete",
    "bars",
    "filled",
)
"""What a row shows: `bars` is the number of stored bars in it, `filled` says that there were none."""
CCXT: Final = ("start", "open", "high", "low", "close", "volume")
MOST_STORED: Final = 250_000
"""Stored bars that one page is made of."""
_ORIGINS: Final = 3
_EXCHANGES: Final = 20
_WALK: Final = "series"


@dataclass(frozen=True, slots=True)
class SeriesRequest:
    """A series as it was asked for; times in microseconds, `from_time` included, `to_time` not.

    `fill` needs `exchange` and `from_time`; the last period of a filled series holds `to_time`, or the present.
    """

    product: str
    period: Period
    exchange: str | None
    origin: str | None
    from_time: int | None
    to_time: int | None
    ascending: bool
    limit: int
    fill: Fill = "none"

    def identity(self) -> list[Any]:
        """Return what a cursor is bound to."""
        told = (self.product, self.period.text, self.exchange, self.origin, self.from_time, self.to_time)
        return [_WALK, *told, self.ascending, self.fill]


class Series:
    """Reads series of bars."""

    def __init__(self, database: Database, seal: CursorSeal, clock: Clock) -> None:
        self._database = database
        self._seal = seal
        self._clock = clock

    async def page(self, tenant: str, request: SeriesRequest, cursor: str | None) -> Page:
        """Return one page; raises Problem 400 for a cursor that is not its own.

        A page can end before its limit where its bars are made of many: `next_cursor` says whether there is more.
        """
        bars, position = await self._read(tenant, request, self._behind(tenant, request, cursor))
        following = None if position is None else self._seal.seal(position, tenant, request.identity())
        return Page(bars, following)

    async def pages(self, tenant: str, request: SeriesRequest, most: int | None) -> AsyncGenerator[list[Bar], None]:
        """Give the bars of a whole series, or its first `most`, page after page."""
        behind: Position | None = None
        left = most
        while left is None or left > 0:
            size = request.limit if left is None else min(request.limit, left)
            bars, behind = await self._read(tenant, replace(request, limit=size), behind)
            yield bars
            if behind is None:
                return
            left = None if left is None else left - len(bars)

    async def _read(
        self, tenant: str, request: SeriesRequest, behind: Position | None
    ) -> tuple[list[Bar], Position | None]:
        now = self._clock()
        async with self._database.tenant(tenant, TIMEOUT) as connection:
            if request.fill == "none":
                return await _read_page(connection, tenant, request, behind, now)
            return await _read_filled(connection, tenant, request, behind, now)

    def _behind(self, tenant: str, request: SeriesRequest, cursor: str | None) -> Position | None:
        try:
            return None if cursor is None else self._seal.open(cursor, tenant, request.identity())
        except CursorError as error:
            raise errors.invalid_cursor(
                f"{error}. Use next_cursor of a page of this very series, unchanged."
            ) from error


async def _read_page(
    connection: Connection, tenant: str, request: SeriesRequest, behind: Position | None, now: int
) -> tuple[list[Bar], Position | None]:
    multiple = request.period.multiple * _ORIGINS * (_EXCHANGES if request.exchange is None else 1)
    most = min(max((request.limit + 1) * request.period.multiple * _ORIGINS, multiple + 1), MOST_STORED)
    rows = await _rows(connection, tenant, request, behind, most)
    whole = [row for row in rows if not row["is_cut"]]
    bars = [shown(row, request, now) for row in whole[: request.limit]]
    if not bars or (len(whole) <= request.limit and len(whole) == len(rows)):
        return bars, None
    last = whole[len(bars) - 1]
    return bars, Position(to_micros(last["start"]), _WALK, last["exchange"])


async def _read_filled(
    connection: Connection, tenant: str, request: SeriesRequest, behind: Position | None, now: int
) -> tuple[list[Bar], Position | None]:
    starts, is_last = window(request, None if behind is None else behind.time, now)
    if not starts:
        return [], None
    part = replace(request, from_time=min(starts), to_time=max(starts) + request.period.length, limit=len(starts))
    rows = await _rows(connection, tenant, part, None, MOST_STORED)
    known = {to_micros(row["start"]): shown(row, request, now) for row in rows}
    close = await _close_before(connection, tenant, part) if request.fill == "previous" else None
    filled = fill(sorted(starts), known, close, request, now)
    bars = filled if request.ascending else filled[::-1]
    return bars, None if is_last else Position(starts[-1], _WALK, request.exchange or "")


def window(request: SeriesRequest, behind: int | None, now: int) -> tuple[list[int], bool]:
    """Return the periods of a page of a filled series in the order of its walk, and whether they are the last."""
    period = request.period
    end = now if request.to_time is None else min(request.to_time, now)
    first, last = period.ceil(request.from_time or 0), period.floor(end - 1)
    size = max(1, min(request.limit, (MOST_STORED - 1) // (period.multiple * _ORIGINS)))
    if request.ascending:
        begin = first if behind is None else behind + period.length
        starts = list(range(begin, min(last, begin + (size - 1) * period.length) + 1, period.length))
        return starts, not starts or starts[-1] >= last
    begin = last if behind is None else behind - period.length
    starts = list(range(begin, max(first, begin - (size - 1) * period.length) - 1, -period.length))
    return starts, not starts or starts[-1] <= first


def fill(
    starts: Sequence[int], known: Mapping[int, Bar], close: float | None, request: SeriesRequest, now: int
) -> list[Bar]:
    """Return a bar for each of these periods, oldest first; `close` is the one before them.

    By `previous` a period without a bar has the close before it and no volume; before the first close there is none.
    """
    bars: list[Bar] = []
    for start in starts:
        bar = known.get(start)
        if bar is not None:
            close = bar["close"]
            bars.append(bar)
        elif request.fill == "null":
            bars.append(_filled(start, None, None, request, now))
        elif close is not None:
            bars.append(_filled(start, close, 0, request, now))
    return bars


def shown(row: Mapping[str, Any], request: SeriesRequest, now: int) -> Bar:
    """Return a bar as it is answered."""
    start = to_micros(row["start"])
    quote, volume = row["quote_volume"], row["volume"]
    known = {name: row[name] for name in FIELDS if name in row}
    return {
        "product": request.product,
        "period": request.period.text,
        **known,
        "start": format_rfc3339(start),
        "vwap": quote / volume if quote is not None and volume else None,
        "complete": bool(row["complete"]) and start + request.period.length <= now,
        "filled": False,
    }


def as_ccxt(bar: Bar) -> list[Any]:
    """Return a bar as ccxt has it: milliseconds, open, high, low, close, volume."""
    return [_millis(bar["start"]), *(bar[name] for name in CCXT[1:])]


def _millis(start: str) -> int:
    return parse_rfc3339(start) // 1000


def _filled(start: int, close: float | None, nothing: int | None, request: SeriesRequest, now: int) -> Bar:
    return {
        "product": request.product,
        "exchange": request.exchange,
        "period": request.period.text,
        "start": format_rfc3339(start),
        **dict.fromkeys(("open", "high", "low", "close"), close),
        **dict.fromkeys(("volume", "quote_volume", "trades", "buy_volume"), nothing),
        "vwap": None,
        "complete": start + request.period.length <= now,
        "bars": 0,
        "filled": True,
    }


async def _rows(
    connection: Connection, tenant: str, request: SeriesRequest, behind: Position | None, most: int
) -> list[dict[str, Any]]:
    begin, end = _bounds(request, behind)
    bound = _bound(tenant, request) | {"limit": request.limit + 1, "most": most}
    bound |= {"from": begin and to_datetime(begin), "to": end and to_datetime(end)}
    names = [f"series_{name}" for name in ("exchange", "origin", "from", "to") if bound[name] is not None]
    conditions: list[sql.Composable] = [query(name) for name in names]
    if behind is not None:
        conditions.append(query("series_behind").format(beyond=sql.SQL(">" if request.ascending else "<")))
        bound |= {"cursor_time": to_datetime(behind.time), "cursor_exchange": behind.event_id}
    statement = query("read_series").format(
        conditions=sql.SQL(" ").join(conditions),
        direction=sql.SQL("ASC" if request.ascending else "DESC"),
        farthest=sql.SQL("max" if request.ascending else "min"),
    )
    return await (await connection.execute(statement, bound, prepare=False)).fetchall()


def _bounds(request: SeriesRequest, behind: Position | None) -> tuple[int | None, int | None]:
    """Return the times from which on, and before which, stored bars belong to a page."""
    period = request.period
    begin = None if request.from_time is None else period.ceil(request.from_time)
    end = None if request.to_time is None else period.floor(request.to_time - 1) + period.length
    if behind is not None and request.ascending:
        begin = behind.time
    elif behind is not None:
        end = behind.time + period.length
    return begin, end


def _bound(tenant: str, request: SeriesRequest) -> dict[str, Any]:
    period = request.period
    return {
        "tenant": tenant,
        "product": request.product,
        "stored": period.stored,
        "period": timedelta(microseconds=period.length),
        "anchor": to_datetime(period.anchor),
        "exchange": request.exchange,
        "origin": request.origin,
    }


async def _close_before(connection: Connection, tenant: str, request: SeriesRequest) -> float | None:
    bound = _bound(tenant, request) | {"from": to_datetime(request.from_time or 0)}
    names = [f"series_{name}" for name in ("exchange", "origin") if bound[name] is not None]
    statement = query("close_before").format(conditions=sql.SQL(" ").join([query(name) for name in names]))
    row = await (await connection.execute(statement, bound, prepare=False)).fetchone()
    return None if row is None else float(row["close"])
