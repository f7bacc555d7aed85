"""From records as they were taken to rows, by columns where that pays, one by one elsewhere. Pure.

Ticks and trades of all tenants and partitions are decoded, judged and encoded together. What the columns are not
certain of, or find not sound, goes through `sinks.rows`, which alone says what is refused and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np

from pulsestream.core.log import logger
from pulsestream.core.topics import TenantTopic, parse_tenant_topic
from schemas.codec import column_codec
from schemas.columns import Bools, Ints, Octets
from schemas.records import Tick, Trade
from schemas.sound import are_sound, by_product
from sinks.column_rows import ColumnRows
from sinks.copy_binary import Kind
from sinks.copy_columns import Column as CopyColumn
from sinks.copy_columns import Numbers, Texts, encode
from sinks.rows import MAX_FUTURE, Reading, Refused, Removed, Row, read
from sinks.tables import BY_DATASET, FEEDS, TICKS, TRADES, Table
from sinks.taken import Taken

CROSSOVER: Final = 65
"""Records that take as long by columns as one by one: about 0.65 ms."""
_OWN: Final[dict[str, bool | None]] = {"ticks": False, "own-ticks": True, "trades": None}
"""Whether a dataset holds a tenant's own ticks; trades may be anybody's."""
_CLASSES: Final[tuple[bool | None, ...]] = (False, True, None)
_KINDS: Final[dict[str, type[Tick | Trade]]] = {TICKS.name: Tick, TRADES.name: Trade}
_TENANT_WIDTH: Final = 64
_log = logger(__name__)


@dataclass(slots=True)
class Read:
    """What became of records: rows by table, records refused, and keys removed."""

    rows: dict[str, Sequence[Row]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)


def take_in(taken: Sequence[Taken], now: int) -> Read:
    """Return the rows of records, those of each table in the order given; `now` in microseconds bounds their times."""
    done = Read()
    for table, records in _by_table(taken).items():
        if table in _KINDS and sum(map(len, records)) >= CROSSOVER:
            try:
                by_columns(done, BY_DATASET[table], records, now)
            except Exception:  # noqa: BLE001 - whatever bytes lead the columns into: one by one, only those that do are refused
                _log.error("records are read one by one: their columns failed", table=table, exc_info=True)
            else:
                continue
        one_by_one(done, records, now)
    return done


def one_by_one(done: Read, taken: Sequence[Taken], now: int) -> None:
    """Add what becomes of records, read one by one."""
    for records in taken:
        for arrived in records.each():
            _add(done, read(arrived, now))


def by_columns(done: Read, table: Table, taken: Sequence[Taken], now: int) -> None:
    """Add what becomes of records of one table, ticks or trades, read by columns as far as they are certain."""
    places = _Places(taken, now)
    columns = _Columns(table, places)
    fit = columns.fit()
    readings = [(place, places.read(place)) for place in np.flatnonzero(~fit).tolist()]
    more = [(place, each) for place, each in readings if isinstance(each, Row)]
    rows = columns.encoded(np.flatnonzero(fit)).with_rows(more)
    if len(rows):
        done.rows[table.name] = rows
    for _, reading in readings:
        if not isinstance(reading, Row):
            _add(done, reading)


def _by_table(taken: Sequence[Taken]) -> dict[str, list[Taken]]:
    """Return the records of each table, those that go to none under their topic's name."""
    found: dict[str, list[Taken]] = {}
    for records in taken:
        source = parse_tenant_topic(records.topic)
        table = BY_DATASET.get(source.dataset) if source else None
        found.setdefault(table.name if table else records.topic, []).append(records)
    return found


def _add(done: Read, reading: Reading) -> None:
    if isinstance(reading, Row):
        table = FEEDS.name if reading.dataset == FEEDS.name else BY_DATASET[reading.dataset].name
        cast(list[Row], done.rows.setdefault(table, [])).append(reading)
    elif isinstance(reading, Refused):
        done.refused.append(reading)
    else:
        done.removed.append(reading)


class _Places:
    """The records of several partitions, one behind the other; a record's place is its number among all of them."""

    def __init__(self, taken: Sequence[Taken], now: int) -> None:
        self.taken, self.now = taken, now
        self._stops = np.cumsum([len(records) for records in taken])
        self.source = np.repeat(np.arange(len(taken)), np.diff(self._stops, prepend=0))

    def appended_at(self) -> Ints:
        """Return the broker's time of each, in microseconds."""
        return np.array([at for records in self.taken for at in records.appended_at], np.int64)

    def read(self, place: int) -> Reading:
        """Return what becomes of the record at a place, read by itself."""
        number = self.source[place].item()
        records = self.taken[number]
        return read(records.arrived(place - self._stops[number].item() + len(records)), self.now)

    def row(self, place: int) -> Row:
        """Return the row of the record at a place; raises TypeError when it has none."""
        reading = self.read(place)
        if not isinstance(reading, Row):
            raise TypeError(f"by columns a row, and by itself {reading}")
        return reading


class _Columns:
    """Records decoded together, of which `places` tells where they come from."""

    def __init__(self, table: Table, places: _Places) -> None:
        self._table, self._places = table, places
        sources = [_source(records.topic) for records in places.taken]
        values = [value or b"" for records in places.taken for value in records.values]
        self._tenants = [source.tenant.encode() for source in sources]
        self._own = np.array([_CLASSES.index(_OWN[source.dataset]) for source in sources])[places.source]
        self._octets = Octets(values)
        self._appended_at = places.appended_at()
        stops = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))
        self._decoded = column_codec(_KINDS[table.name]).decode(self._octets, np.concatenate(([0], stops[:-1])), stops)

    def fit(self) -> Bools:
        """Say which records are certain, sound, and not too far ahead."""
        chosen = np.flatnonzero(self._decoded.certain)
        products = by_product(self._octets, self._decoded, chosen, self._own, _CLASSES)
        sound = products.order[are_sound(self._octets, self._decoded, products)]
        fit = np.zeros(len(self._own), np.bool_)
        fit[sound] = True
        for name in ("exchange_time", "received_time"):
            fit &= self._decoded.columns[name].values <= self._places.now + MAX_FUTURE
        return fit

    def encoded(self, places: Ints) -> ColumnRows:
        """Return the rows of the records at these places."""
        chosen = slice(None) if len(places) == len(self._own) else places
        columns = [self._column(name, kind, chosen) for name, kind in self._table.columns.items()]
        encoded = encode(columns, len(places))
        told = (self._decoded.columns[name].values[chosen] for name in ("exchange_time", "received_time"))
        moments = np.stack((*told, self._appended_at[chosen]))
        return ColumnRows(encoded.octets, encoded.bounds, moments, places, self._places.row)

    def _column(self, name: str, kind: Kind, chosen: Ints | slice) -> CopyColumn:
        if name == "tenant":
            return self._tenant(self._places.source[chosen])
        if name == "appended_at":
            appended_at = self._appended_at[chosen]
            return Numbers(kind, appended_at, np.ones(len(appended_at), np.bool_))
        column = self._decoded.columns[name]
        values, known = column.values[chosen], column.known[chosen]
        if column.sizes is None:
            return Numbers(kind, values, known)
        return Texts(self._octets, values, column.sizes[chosen], known)

    def _tenant(self, source: Ints) -> Texts:
        octets = Octets(tenant.ljust(_TENANT_WIDTH, b"\0") for tenant in self._tenants)
        sizes = np.array([len(tenant) for tenant in self._tenants])
        return Texts(octets, source * _TENANT_WIDTH, sizes[source], np.ones(len(source), np.bool_))


def _source(topic: str) -> TenantTopic:
    source = parse_tenant_topic(topic)
    if source is None:
        raise ValueError(f"topic {topic} is no tenant's")
    return source
