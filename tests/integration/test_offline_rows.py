"""Stored ticks and trades as a source of the offline commands, read from a real database."""

import json
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from pulsestream.cli import app
from pulsestream.commands.reading import SourceError
from pulsestream.commands.row_source import RowSource
from pulsestream.core.clock import to_datetime
from pulsestream.core.errors import InvalidNameError, OutageError
from schemas.records import Tick, Trade
from streams.engine.inputs import Columns, Row
from streams.engine.reading import SLICE_RECORDS, Key, Span
from tests.support.databases import NamedDatabase

START = 1_618_677_817_056_746
TICKS = Key("ticks", "coinbase", "BTC-USD")
TRADES = Key("trades", "coinbase", "BTC-USD")


def tick(number: int, **changes: object) -> Tick:
    fields: dict[str, object] = {
        "event_id": f"coinbase:BTC-USD:{number}", "exchange": "coinbase", "product": "BTC-USD", "sequence": number,
        "price": 60_000.0 + number, "size": 0.5, "side": "buy", "best_bid": 59_999.0, "best_ask": 60_001.0,
        "exchange_time": START + number, "received_time": START + number,
    }  # fmt: skip
    return Tick(**(fields | changes))  # type: ignore[arg-type] # the fields are a tick's


def trade(number: int) -> Trade:
    return Trade(
        event_id=f"coinbase:BTC-USD:t{number}", exchange="coinbase", product="BTC-USD", trade_id=number,
        price=60_000.0, size=0.25, side="sell", exchange_time=START + number, received_time=START + number,
    )  # fmt: skip


def store(database: NamedDatabase, records: Sequence[Tick | Trade], tenant: str = "acme") -> None:
    with psycopg.connect(database.url()) as connection, connection.cursor() as cursor:
        for record in records:
            fields = {name: getattr(record, name) for name in record.__struct_fields__}
            times = {name for name in fields if name.endswith("_time") and fields[name] is not None}
            row = fields | {name: to_datetime(fields[name]) for name in times}
            row |= {"tenant": tenant, "appended_at": to_datetime(record.exchange_time + 5)}
            table = "ticks" if isinstance(record, Tick) else "trades"
            columns, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
            cursor.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)  # type: ignore[call-overload]


def rows(source: RowSource) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for part in source.slices(None):
        for batch in part.batches:
            records = batch.records
            found.setdefault(batch.key, []).extend(records.rows() if isinstance(records, Columns) else records)
    return found


@pytest.mark.parametrize("role", ["postgres", "ps_api", "ps_sink"])
def test_a_tenants_records_come_in_order_of_time_whoever_reads(database: NamedDatabase, role: str) -> None:
    store(database, [tick(3), trade(2), tick(1, quote_time=START - 9), tick(2, best_bid=None), trade(4)])
    store(database, [tick(7), trade(7)], tenant="other")

    found = rows(RowSource(database.url(role), "acme", Span()))

    assert found == {
        TICKS: [
            Row(0, START + 6, START + 1, 60_001.0, 0.5, True, 1, 59_999.0, 60_001.0, START - 9),
            Row(1, START + 7, START + 2, 60_002.0, 0.5, True, 2, None, 60_001.0, 0),
            Row(3, START + 8, START + 3, 60_003.0, 0.5, True, 3, 59_999.0, 60_001.0, START + 3),
        ],
        TRADES: [
            Row(2, START + 7, START + 2, 60_000.0, 0.25, False, 2, None, None, 0),
            Row(4, START + 9, START + 4, 60_000.0, 0.25, False, 4, None, None, 0),
        ],
    }


def test_only_what_lies_in_the_span_is_read(database: NamedDatabase) -> None:
    store(database, [*map(tick, range(10)), trade(1)])

    source = RowSource(database.url(), "acme", Span(START + 3, START + 6))

    assert [row.identity for row in rows(source)[TICKS]] == [3, 4, 5]
    assert source.traded() == set()
    assert RowSource(database.url(), "acme", Span()).traded() == {("coinbase", "BTC-USD")}


def test_ticks_of_one_time_come_in_the_order_of_their_sequences(database: NamedDatabase) -> None:
    store(database, [tick(number, exchange_time=START) for number in (10, 9, 100)])

    [ticks] = rows(RowSource(database.url(), "acme", Span())).values()

    assert [row.identity for row in ticks] == [9, 10, 100]


def test_many_rows_come_in_slices(database: NamedDatabase) -> None:
    statement = """
        INSERT INTO trades SELECT 'acme', 'coinbase:BTC-USD:t' || n, 'coinbase', 'BTC-USD', n, 1, 1, 'buy', t, t, n, t
        FROM generate_series(1, %s) AS n, LATERAL (SELECT to_timestamp(1600000000 + n)) AS times (t)"""
    with psycopg.connect(database.url()) as connection:
        connection.execute(statement, [SLICE_RECORDS * 2 + 1])

    parts = list(RowSource(database.url(), "acme", Span()).slices(None))

    assert [sum(len(batch.records) for batch in part.batches) for part in parts] == [SLICE_RECORDS, SLICE_RECORDS, 1]
    assert [part.at for part in parts] == sorted(part.at for part in parts)


def test_a_tenant_of_whom_nothing_is_stored_is_refused(database: NamedDatabase) -> None:
    store(database, [tick(1)], tenant="other")

    with pytest.raises(SourceError, match="no tick and no trade of tenant 'acme' is stored"):
        RowSource(database.url(), "acme", Span())
    with pytest.raises(InvalidNameError):
        RowSource(database.url(), "No Slug", Span())


def test_a_database_that_is_away_is_an_outage() -> None:
    with pytest.raises(OutageError, match="cannot read what is stored"):
        RowSource("postgresql://nobody@127.0.0.1:1/nowhere", "acme", Span())


def test_the_command_line_reads_the_database_that_a_setting_names(
    database: NamedDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store(database, [trade(number) for number in range(0, 10_000_000, 1_000_000)])
    monkeypatch.setenv("PULSESTREAM_DATABASE_URL", database.url("ps_sink"))
    rules = tmp_path / "rules.yaml"
    rules.write_text('rules: [{name: n, product: "*", condition: {type: price, above: 59999}}]')

    told = CliRunner().invoke(app, ["stats", "db:acme", "--windows", "1m", "--json"], catch_exceptions=False)
    fired = CliRunner().invoke(app, ["backtest", str(rules), "db:acme", "--json"], catch_exceptions=False)

    assert [json.loads(line)["count"] for line in told.stdout.splitlines()] == list(range(1, 11))
    assert [json.loads(line)["state"] for line in fired.stdout.splitlines()] == ["firing"]
