"""What the offline commands read: recordings and bars, against plain readings of the same files."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.frames import format_frame, format_received
from producers.recording import RecordingWriter
from pulsestream.commands.bar_text import read_rows
from pulsestream.commands.reading import SourceError, product_of
from pulsestream.commands.sources import Sources
from streams.engine.inputs import Columns, Row
from streams.engine.reading import Key, Span
from tests.support import oracle
from tests.support.venue_frames import SPEECHES, Print

DAY = 1_475_798_400_000_000
"""2016-10-07T00:00:00Z in microseconds."""
SECOND = 1_000_000
BTC_USD = Key("trades", "coinbase", "BTC-USD")
BAR_NAME = "btcusd-second-20161007-trade.csv"
EVERYTHING = Span()


def no_database() -> str:
    raise AssertionError("no source is stored rows")


def opened(*paths: Path, span: Span = EVERYTHING) -> Sources:
    return Sources.open([str(path) for path in paths], span, no_database)


def rows(source: Sources, width: int | None = None) -> dict[Key, list[Row]]:
    """Return each key's records, all slices one after the other."""
    found: dict[Key, list[Row]] = {}
    for part in source.slices(width):
        for batch in part.batches:
            records = batch.records
            found.setdefault(batch.key, []).extend(records.rows() if isinstance(records, Columns) else records)
    return found


def bars(folder: Path, *lines: str, name: str = BAR_NAME, end: str = "\n") -> Path:
    path = folder / name
    path.write_text(end.join([*lines, ""]), newline="")
    return path


# ---- recordings ----


def test_recorded_ticks_are_those_of_a_plain_reading(shared_data: Path) -> None:
    path = shared_data / "coinbase" / "2021-04-17.frames"

    found = rows(opened(path))

    expected: dict[str, list[tuple[object, ...]]] = {}
    for tick in oracle.frame_ticks(path):
        line = (tick.exchange_time, tick.received_time, tick.price, tick.size, tick.side == "buy", tick.sequence)
        expected.setdefault(tick.product, []).append((*line, tick.best_bid, tick.best_ask))
    assert {key.product for key in found if key.dataset == "ticks"} == expected.keys()
    for product, ticks in expected.items():
        shown = [
            (row.time, row.appended_at, row.price, row.size, row.buy, row.identity, row.bid, row.ask)
            for row in found[Key("ticks", "coinbase", product)]
        ]
        assert shown == ticks


def test_recorded_trades_are_those_of_a_plain_reading_with_the_takers_side(shared_data: Path) -> None:
    path = shared_data / "coinbase" / "2021-04-17.frames"

    found = rows(opened(path))

    expected: dict[str, list[tuple[object, ...]]] = {}
    for _, frame in oracle.read_frames(path):
        if frame["type"] in {"match", "last_match"}:
            line = (oracle.micros(frame["time"]), float(frame["price"]), float(frame["size"]))
            expected.setdefault(frame["product_id"], []).append((*line, frame["side"] == "sell", frame["trade_id"]))
    for product, trades in expected.items():
        shown = [
            (row.time, row.price, row.size, row.buy, row.identity) for row in found[Key("trades", "coinbase", product)]
        ]
        assert shown == trades
    assert opened(path).traded() == {("coinbase", product) for product in expected}


@pytest.mark.parametrize("venue", sorted(SPEECHES))
def test_each_exchanges_frames_are_known_by_what_they_hold(venue: str, tmp_path: Path) -> None:
    speech, start = SPEECHES[venue](), DAY + SECOND
    frames = speech.ticker("BTC-USDT", 1, "600.5", start)
    frames.append(speech.trade("BTC-USDT", Print(7, "600.25", "0.5", "buy", start)))
    path = tmp_path / "some.frames"
    path.write_text("".join(format_frame(start + SECOND, frame) for frame in frames))

    found = rows(opened(path))

    [tick], [trade] = found[Key("ticks", venue, "BTC-USDT")], found[Key("trades", venue, "BTC-USDT")]
    assert (tick.price, trade.price, trade.size, trade.buy, trade.identity) == (600.5, 600.25, 0.5, True, 7)
    assert opened(path).traded() == {(venue, "BTC-USDT")}


def test_aggregated_trades_are_read_where_there_are_no_others(shared_data: Path) -> None:
    path = shared_data / "binance" / "2021-10-12-us.frames"

    found = rows(opened(path))

    frames = [json.loads(line.partition(" ")[2]) for line in path.read_text().splitlines()]
    said = [frame["data"] for frame in frames if frame["stream"].endswith("@aggTrade")]
    [(key, trades)] = found.items()
    assert key == Key("trades", "binance", "OMG-BUSD")
    assert [(row.identity, row.price, row.buy) for row in trades] == [
        (one["a"], float(one["p"]), not one["m"]) for one in said
    ]


def test_a_folder_of_the_recorder_is_one_recording_and_the_simulator_keeps_its_name(tmp_path: Path) -> None:
    for number in (1, 0):
        with RecordingWriter(tmp_path, "simulator") as writer:
            received = DAY + number * SECOND
            frame = SPEECHES["coinbase"]().trade("BTC-USD", Print(7 + number, "600", "1", "sell", received))
            writer.write(received, format_received(received, frame))

    found = rows(opened(tmp_path))

    assert [row.identity for row in found[Key("trades", "simulator", "BTC-USD")]] == [7, 8]


def test_recordings_of_several_files_merge_by_time_of_receipt(tmp_path: Path) -> None:
    speech, paths = SPEECHES["coinbase"](), []
    for first in (0, 1):
        path = tmp_path / f"{first}.frames"
        moments = [(number, DAY + number * SECOND) for number in range(first, 10, 2)]
        trades = [(at, speech.trade("BTC-USD", Print(number, "600", "1", "buy", at))) for number, at in moments]
        path.write_text("".join(format_frame(at, trade) for at, trade in trades))
        paths.append(path)

    found = rows(opened(*paths))

    assert [row.identity for row in found[BTC_USD]] == list(range(10))


def test_a_frame_that_breaks_the_protocol_is_skipped_with_its_line(tmp_path: Path) -> None:
    good = SPEECHES["coinbase"]().trade("BTC-USD", Print(7, "600", "1", "buy", DAY))
    bad = SPEECHES["coinbase"]().trade("BTC-USD", Print(8, "-600", "1", "buy", DAY))
    path = tmp_path / "some.frames"
    path.write_text("".join(format_frame(DAY, frame) for frame in (good, bad, good)))
    source = opened(path)

    found = rows(source)

    assert len(found[BTC_USD]) == 2
    assert source.skipped.count == 1
    assert source.skipped.shown[0].startswith(f"{path}: line 2: ")


def test_only_records_of_the_span_of_event_times_are_read(shared_data: Path) -> None:
    path = shared_data / "coinbase" / "2021-04-17.frames"
    times = sorted(row.time for found in rows(opened(path)).values() for row in found)
    span = Span(times[20], times[60])

    kept = sorted(row.time for found in rows(opened(path, span=span)).values() for row in found)

    assert kept == [time for time in times if times[20] <= time < times[60]]


# ---- bars ----


def test_bars_are_trades_at_their_ends_with_close_and_volume(shared_data: Path) -> None:
    path = shared_data / "coinbase" / "btcusd-minute-20170904-trade.csv"

    [part] = list(opened(path).slices(None))

    midnight = oracle.micros("2017-09-04T00:00:00+00:00")
    with path.open() as file:
        expected = [(int(ms), *map(float, numbers)) for ms, *numbers in csv.reader(file)]
    [batch] = part.batches
    assert batch.key == BTC_USD
    assert isinstance(batch.records, Columns)
    assert batch.candles is not None
    candles = zip(batch.candles.open.tolist(), batch.candles.high.tolist(), batch.candles.low.tolist(), strict=True)
    shown = [
        ((row.time + 1 - midnight) // 1_000 - 60_000, *candle, row.price, row.size)
        for row, candle in zip(batch.records.rows(), candles, strict=True)
    ]
    assert shown == expected
    assert {(row.time + 1) % (60 * SECOND) for row in batch.records.rows()} == {0}


def test_slices_of_a_span_hold_the_same_bars_in_order_of_time(shared_data: Path) -> None:
    folder = shared_data / "coinbase"
    paths = [folder / f"{name}-minute-201709{day}-trade.csv" for name in ("ethusd", "btcusd") for day in ("04", "03")]

    whole, hours = rows(opened(*paths)), list(opened(*paths).slices(3_600 * SECOND))

    assert rows(opened(*paths), 3_600 * SECOND) == whole
    assert [part.at for part in hours] == sorted(part.at for part in hours)
    assert len(hours) == 48
    assert all([batch.key.product for batch in part.batches] == ["BTC-USD", "ETH-USD"] for part in hours)
    offsets = [row.offset for row in whole[BTC_USD]]
    assert offsets == list(range(len(offsets)))


def test_a_folder_of_bars_is_all_of_them(tmp_path: Path) -> None:
    row = "0,10,12,9,11,1"
    bars(tmp_path, row)
    bars(tmp_path, row, name="ethusd-minute-20161007-trade.csv")
    bars(tmp_path, row, name="ethusd-minute-20161007-quote.csv")

    assert {key.product for key in rows(opened(tmp_path))} == {"BTC-USD", "ETH-USD"}


def test_a_row_that_is_no_bar_is_skipped_with_its_line(tmp_path: Path) -> None:
    path = bars(
        tmp_path,
        "time,open,high,low,close,volume",
        "0,10,12,9,11,1",
        "1000,10,12,9,11",
        "2000,10,12,9,11,1,1",
        "3000,10,9,9,10,1",
        "4000,10,12,9,nan,1",
        "5000,10,12,0,11,1",
        "6000,10,12,9,11,-1",
        "6000.5,10,12,9,11,1",
        "86400000,10,12,9,11,1",
        "7000,10,12,9,11,1",
        "7000,10,12,9,11,1",
        "",
        "8000,10,12,9,11,0",
    )
    source = opened(path)

    found = rows(source)

    assert [(row.time + 1 - DAY) // SECOND - 1 for row in found[BTC_USD]] == [0, 7, 8]
    assert source.skipped.count == 11
    assert source.skipped.shown[0] == (
        f"{path}: line 1: is not 6 numbers with commas between: 'time,open,high,low,close,volume'"
    )
    assert [line.split(": ")[1] for line in source.skipped.shown] == [f"line {number}" for number in (1, 3, 4, 5, 6)]


def test_line_ends_of_windows_and_a_missing_last_one_are_as_good(tmp_path: Path) -> None:
    lines = ("0,10,12,9,11,1", "1000,10,12,9,11,1.5")
    expected = rows(opened(bars(tmp_path, *lines)))

    windows = rows(opened(bars(tmp_path, *lines, end="\r\n")))
    (tmp_path / BAR_NAME).write_text("\n".join(lines))
    unended = rows(opened(tmp_path / BAR_NAME))

    assert windows == unended == expected


def test_an_empty_file_is_a_day_without_a_trade(tmp_path: Path) -> None:
    assert rows(opened(bars(tmp_path))) == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("btcusd-minute-20161007-quote.csv", "holds quote bars"),
        ("btcusd-hour-20161007-trade.csv", "bars are named like"),
        ("bars.csv", "bars are named like"),
        ("btcusd-second-20161307-trade.csv", "20161307 is no day"),
        ("btcxyz-second-20161007-trade.csv", "cannot tell which currency 'btcxyz' ends with"),
        ("ticks.parquet", "neither recording nor bars"),
    ],
)
def test_a_name_that_says_something_else_is_refused_with_what_is_expected(
    name: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=reason):
        opened(bars(tmp_path, name=name))


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not there; a source is a recording"):
        opened(tmp_path / BAR_NAME)


def test_seconds_and_minutes_of_one_day_are_refused_for_they_are_the_same_trades(tmp_path: Path) -> None:
    minutes = bars(tmp_path, name="btcusd-minute-20161007-trade.csv")

    with pytest.raises(SourceError, match="hold the same day of BTC-USD"):
        opened(bars(tmp_path), minutes)


def test_frames_of_nobody_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.frames"
    path.write_text('1475798400.000000 {"hello":1}\n')

    with pytest.raises(SourceError, match="none of its first 1 frames is one of binance, coinbase, kraken"):
        opened(path)


@pytest.mark.parametrize(
    ("symbol", "product"),
    [("btcusd", "BTC-USD"), ("btcusdt", "BTC-USDT"), ("ethbtc", "ETH-BTC"), ("usdcusd", "USDC-USD"), ("usd", None)],
)
def test_the_currency_that_a_symbol_ends_with_is_found(symbol: str, product: str | None) -> None:
    assert product_of(symbol) == product


numbers = st.one_of(
    st.decimals(0, 10**6, places=2),
    st.decimals(0, 10**9, places=8),
    st.integers(0, 10**16),
    st.floats(0, 1e18, allow_nan=False),
)


@given(st.lists(st.lists(numbers, min_size=6, max_size=6), min_size=1, max_size=20), st.booleans())
def test_numbers_of_a_file_are_what_python_reads(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[list[object]],
    broken: bool,  # noqa: FBT001 - drawn, by its name
) -> None:
    path = tmp_path_factory.mktemp("bars") / BAR_NAME
    lines = [",".join(map(str, row)) for row in values]
    path.write_text("\n".join([*(["broken"] if broken else []), *lines]))

    read = read_rows(path)

    assert read.values.T.tolist() == [[float(str(number)) for number in row] for row in values]
    assert read.lines.tolist() == [number + 1 + broken for number in range(len(values))]
    assert [line for line, _ in read.faults] == [1] * broken
