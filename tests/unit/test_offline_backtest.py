"""`pulsestream backtest` and `pulsestream stats`: what they print, against the oracle over the same files."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Sequence
from operator import mul
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from producers.frames import format_frame
from pulsestream.cli import app
from pulsestream.commands import sources
from pulsestream.commands.backtest import backtest, format_lasting
from pulsestream.commands.reading import Skipped
from pulsestream.commands.rules import load_rules
from pulsestream.commands.shown import warn_of, with_progress
from pulsestream.commands.sources import Sources
from pulsestream.core.clock import format_rfc3339
from pulsestream.core.errors import UsageError
from schemas.records import Stat, Trade
from streams.engine.evaluation import Choice, seen_prices
from streams.engine.inputs import Columns
from streams.engine.reading import Span
from tests.support import oracle
from tests.support.venue_frames import SPEECHES, Print

DAY = 1_475_798_400_000_000
"""2016-10-07T00:00:00Z in microseconds."""
SECOND = 1_000_000
MINUTE = 60 * SECOND
BAR_NAME = "btcusd-second-20161007-trade.csv"

STAT_NUMBERS = [name for name, kind in Stat.__annotations__.items() if kind == float | None and "forecast" not in name]

CHANGE = {"type": "change", "window": "15m", "below_pct": -1}
PRICE_RULES: list[dict[str, Any]] = [
    {"name": "above", "product": "*", "condition": {"type": "price", "above": 0.7915}},
    {"name": "up", "product": "SKL-USD", "condition": {"type": "price", "crosses": 0.7912, "direction": "up"}},
    {"name": "held", "product": "*", "condition": {"type": "price", "below": 0.793}, "for": "3s", "cooldown": "5s"},
    {"name": "wide", "product": "*", "condition": {"type": "spread", "above_bps": 20, "clear_bps": 15}},
    {"name": "silent", "product": ["SKL-USD", "NMR-EUR"], "condition": {"type": "no_data", "after": "2s"}},
]
WINDOW_RULES: list[dict[str, Any]] = [
    {"name": "drop", "product": "*", "condition": {"type": "change", "window": "15m", "below_pct": -1, "clear_pct": 0},
     "for": "3m", "keep_firing_for": "5m"},
    {"name": "day", "product": "*", "condition": {"type": "change", "window": "24h", "below_pct": -3}},
    {"name": "wild", "product": "*", "condition": {"type": "volatility", "window": "1h", "above": 1.5},
     "cooldown": "30m"},
    {"name": "surge", "product": "*",
     "condition": {"type": "volume", "window": "5m", "baseline": "1h", "above_ratio": 4, "clear_ratio": 2}},
]  # fmt: skip
BAR_RULES: list[dict[str, Any]] = [
    {"name": "dip", "product": "BTC-USD", "condition": {"type": "price", "below": 4300, "clear": 4350}, "for": "60s",
     "keep_firing_for": "5m"},
    {"name": "crossing", "product": "*", "condition": {"type": "price", "crosses": 4400}, "cooldown": "10m"},
]  # fmt: skip


def invoked(*arguments: object) -> str:
    """Return what a command that succeeds prints."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def lines(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in invoked(*arguments, "--json").splitlines()]


def rule_file(folder: Path, rules: Sequence[dict[str, Any]]) -> Path:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"rules": list(rules)}))
    return path


def bar_file(folder: Path, *rows: str) -> Path:
    path = folder / BAR_NAME
    path.write_text("\n".join(rows))
    return path


def bar_records(path: Path, product: str, column: int = 4) -> list[oracle.Sourced]:
    """Return the bars of a day as trades at their ends less 1 us, of the price in a column."""
    _, period, day, _ = path.stem.split("-")
    width = {"second": SECOND, "minute": MINUTE}[period]
    midnight = oracle.micros(f"{day}T00:00:00+00:00")
    trades = []
    for number, row in enumerate(csv.reader(path.read_text().splitlines())):
        time = midnight + int(row[0]) * 1_000 + width - 1
        trades.append(
            Trade(
                event_id=f"coinbase:{product}:t{number}", exchange="coinbase", product=product, trade_id=number,
                price=float(row[column]), size=float(row[5]), side="sell", exchange_time=time, received_time=time,
            )
        )  # fmt: skip
    return oracle.sourced(trades)


def expected_transitions(
    rules: Sequence[dict[str, Any]], records: Sequence[oracle.Sourced], basis: str = "trades"
) -> list[tuple[Any, ...]]:
    """Return (rule, product, state, time, value) of each transition as the oracle sees it."""
    found = []
    for rule in rules:
        for (exchange, product), own in oracle.by_key(records).items():
            if oracle.applies(rule, exchange, product):
                found += [
                    (rule["name"], product, alert.state, format_rfc3339(alert.at), known(alert.value))
                    for alert in oracle.transitions(rule, own, basis=basis)
                ]
    return sorted(found, key=lambda one: str(one[:4]))


def assert_told(transitions: Sequence[dict[str, Any]], expected: Sequence[tuple[Any, ...]]) -> None:
    """Compare transitions with the oracle's, which rounds a value once."""
    found = told(transitions)
    assert [one[:4] for one in found] == [one[:4] for one in expected]
    assert [one[4] for one in found] == [one[4] and pytest.approx(one[4], rel=1e-9) for one in expected]


def known(value: float | None) -> float | None:
    """Return a value; none where the oracle names none."""
    return None if value is None or math.isnan(value) else value


def told(transitions: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted(
        ((one["rule"], one["product"], one["state"], one["at"], one["value"]) for one in transitions), key=str
    )


# ---- backtest ----


@pytest.mark.parametrize("basis", ["trades", "ticks"])
def test_transitions_over_a_recording_are_the_oracles(shared_data: Path, tmp_path: Path, basis: str) -> None:
    path = shared_data / "coinbase" / "2021-04-17.frames"

    transitions = lines("backtest", rule_file(tmp_path, PRICE_RULES), path, "--basis", basis)

    records = oracle.sourced([*oracle.frame_ticks(path), *oracle.frame_trades(path)])
    assert_told(transitions, expected_transitions(PRICE_RULES, records, basis))
    assert {one["rule"] for one in transitions} == {rule["name"] for rule in PRICE_RULES}
    assert [one["at"] for one in transitions] == sorted(one["at"] for one in transitions)


@pytest.mark.parametrize(("bar_price", "column"), [("close", 4), ("low", 3), ("high", 2)])
def test_transitions_over_bars_are_the_oracles_for_each_price_of_a_bar(
    shared_data: Path, tmp_path: Path, bar_price: str, column: int
) -> None:
    folder = shared_data / "coinbase"
    paths = [folder / "btcusd-minute-20170904-trade.csv", folder / "ethusd-minute-20170904-trade.csv"]

    transitions = lines("backtest", rule_file(tmp_path, BAR_RULES), *paths, "--bar-price", bar_price)

    records = [*bar_records(paths[0], "BTC-USD", column), *bar_records(paths[1], "ETH-USD", column)]
    assert_told(transitions, expected_transitions(BAR_RULES, records))
    assert {one["rule"] for one in transitions} == {"dip", "crossing"}


def test_exchanges_are_compared_in_the_order_of_receipt(tmp_path: Path) -> None:
    prices = {"coinbase": ["600", "600", "606"], "kraken": ["600", "609", "606"]}
    for venue, own in prices.items():
        moments = [DAY + (2 * index + (venue == "kraken")) * SECOND for index in range(len(own))]
        speech = SPEECHES[venue]()
        frames = [
            (at, frame)
            for number, (at, price) in enumerate(zip(moments, own, strict=True), 1)
            for frame in speech.ticker("BTC-USDT", number, price, at)
        ]
        (tmp_path / f"{venue}.frames").write_text("".join(format_frame(at, frame) for at, frame in frames))
    rule = {"name": "apart", "product": "BTC-USDT"}
    rule |= {"condition": {"type": "divergence", "exchanges": ["coinbase", "kraken"], "above_bps": 100}}

    transitions = lines("backtest", rule_file(tmp_path, [rule]), *sorted(tmp_path.glob("*.frames")))

    assert [(one["state"], one["at"], one["exchange"]) for one in transitions] == [
        ("firing", "2016-10-07T00:00:03.000000Z", "*"),
        ("resolved", "2016-10-07T00:00:04.000000Z", "*"),
    ]


def test_transitions_over_windows_of_bars_are_the_oracles(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "coinbase" / "btcusd-minute-20170904-trade.csv"

    between = ("--from", "2017-09-04T13:36:00Z", "--to", "2017-09-04T18:00:00Z")  # its first bar opens as it closes
    begin, end = (oracle.micros(time) for time in between[1::2])

    transitions = lines("backtest", rule_file(tmp_path, WINDOW_RULES), path, *between)

    records = [record for record in bar_records(path, "BTC-USD") if begin <= record.time < end]
    last = format_rfc3339(records[-1].time)
    assert_told([one for one in transitions if one["at"] <= last], expected_transitions(WINDOW_RULES, records))
    assert {one["rule"] for one in transitions} == {rule["name"] for rule in WINDOW_RULES}


def test_several_processes_find_what_one_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    for name in ("btcusd", "ethusd"):
        for day in ("03", "04"):
            file = f"{name}-minute-201709{day}-trade.csv"
            (tmp_path / file).write_bytes((shared_data / "coinbase" / file).read_bytes() + b"broken\n")
    rules = load_rules(rule_file(tmp_path, [*BAR_RULES, {"name": "drop", "product": "*", "condition": CHANGE}]))
    choice = Choice(basis="trades")
    names = sorted(str(path) for path in tmp_path.glob("*.csv"))
    alone = backtest(rules, Sources.open(names, Span(), str), choice, io.StringIO(), processes=1)

    monkeypatch.setattr(sources, "LARGE", 0)
    shared = backtest(rules, Sources.open(names, Span(), str), choice, io.StringIO(), processes=2)

    assert shared.transitions == alone.transitions
    assert {one.product for one in alone.transitions} == {"BTC-USD", "ETH-USD"}
    assert shared.tally == alone.tally
    assert (shared.skipped.count, sorted(shared.skipped.shown)) == (4, sorted(alone.skipped.shown))


def test_a_line_of_json_has_its_fields_in_order_and_null_for_what_is_not(tmp_path: Path) -> None:
    rule = {"name": "n", "product": "BTC-USD", "condition": {"type": "price", "above": 10}, "labels": {"desk": "spot"}}

    text = invoked("backtest", rule_file(tmp_path, [rule]), bar_file(tmp_path, "0,9,12,9,11,1"), "--json")

    assert text == (
        '{"rule":"n","product":"BTC-USD","state":"firing","at":"2016-10-07T00:00:00.999999Z","value":11.0,'
        '"reason":"price 11 is above 10","exchange":"coinbase","threshold":10.0,"window":null,"severity":"warning",'
        '"labels":{"desk":"spot"}}\n'
    )


def test_timers_beyond_the_last_record_do_not_act(tmp_path: Path) -> None:
    rule = {"name": "n", "product": "*", "condition": {"type": "price", "above": 10}, "for": "2s"}
    rules = rule_file(tmp_path, [rule])

    too_early = lines("backtest", rules, bar_file(tmp_path, "0,11,11,11,11,1", "1000,11,11,11,11,1"))
    in_time = lines("backtest", rules, bar_file(tmp_path, "0,11,11,11,11,1", "2000,11,11,11,11,1"))

    assert [one["state"] for one in too_early] == ["pending"]
    assert [(one["state"], one["at"]) for one in in_time] == [
        ("pending", "2016-10-07T00:00:00.999999Z"),
        ("firing", "2016-10-07T00:00:02.999999Z"),
    ]


@pytest.mark.parametrize(
    ("bar_price", "states"),
    [("close", []), ("low", []), ("high", ["firing"]), ("ohlc", ["firing", "resolved"])],
)
def test_rules_over_prices_see_what_was_asked_for_of_a_bar(tmp_path: Path, bar_price: str, states: list[str]) -> None:
    rule = {"name": "n", "product": "*", "condition": {"type": "price", "above": 11}}

    transitions = lines(
        "backtest", rule_file(tmp_path, [rule]), bar_file(tmp_path, "0,10,12,9,11,1"), "--bar-price", bar_price
    )

    assert [one["state"] for one in transitions] == states
    assert {one["at"] for one in transitions} <= {"2016-10-07T00:00:00.999999Z"}


def test_the_path_within_a_bar_goes_to_the_low_first_where_it_rose(tmp_path: Path) -> None:
    opened = Sources.open([str(bar_file(tmp_path, "0,10,12,9,11,1", "1000,11,13,8,10,1"))], Span(), str)
    [batch] = [batch for part in opened.slices(None) for batch in part.batches]
    assert isinstance(batch.records, Columns)

    path = seen_prices(batch, "ohlc")

    assert path.price.tolist() == [10, 9, 12, 11, 11, 13, 8, 10]
    assert path.time.tolist() == [time for time in batch.records.time.tolist() for _ in range(4)]
    assert len(set(path.identity.tolist())) == 8


def test_the_table_tells_each_transition_and_what_each_rule_comes_to(tmp_path: Path) -> None:
    rules = rule_file(tmp_path, [
        {"name": "rises", "product": "*", "condition": {"type": "price", "above": 10}},
        {"name": "never", "product": "*", "condition": {"type": "price", "above": 99}},
        {"name": "other", "product": "ETH-USD", "condition": {"type": "price", "above": 1}},
        {"name": "off", "product": "*", "condition": {"type": "price", "above": 1}, "enabled": False},
    ])  # fmt: skip
    rows = ["0,11,11,11,11,1", "30000,9,9,9,9,1", "broken", "60000,11,11,11,11,1", "150000,12,12,12,12,1"]

    text = invoked("backtest", rules, bar_file(tmp_path, *rows))

    transitions, summary, read = re.split(r"\n\n", text)
    assert [re.split(r" {2,}", line)[:4] for line in transitions.splitlines()[1:]] == [
        ["2016-10-07T00:00:00.999999Z", "firing", "rises", "coinbase:BTC-USD"],
        ["2016-10-07T00:00:30.999999Z", "resolved", "rises", "coinbase:BTC-USD"],
        ["2016-10-07T00:01:00.999999Z", "firing", "rises", "coinbase:BTC-USD"],
    ]
    assert [re.split(r" {2,}", line) for line in summary.splitlines()] == [
        ["rule", "fired", "would notify", "firing for", "longest", "at the end"],
        ["rises", "2", "2", "2m 0s", "1m 30s", "1 firing"],
        ["never", "0", "0", "0s", "0s", "-"],
        ["other", "0", "0", "0s", "0s", "saw no record"],
        ["off", "0", "0", "0s", "0s", "disabled"],
    ]
    assert read.splitlines() == [
        "4 records read, 2016-10-07T00:00:00.999999Z to 2016-10-07T00:02:30.999999Z",
        "bars: rules over prices saw each bar's close",
    ]


def test_what_is_skipped_is_told_apart_from_the_output(tmp_path: Path) -> None:
    rules = rule_file(tmp_path, [{"name": "n", "product": "*", "condition": {"type": "price", "above": 99}}])
    path = bar_file(tmp_path, "0,11,11,11,11,1", *["broken"] * 7)

    done = CliRunner().invoke(app, ["backtest", str(rules), str(path), "--json"])

    assert done.stdout == ""
    said = done.stderr.splitlines()
    assert said[0] == f"skipped: {path}: line 2: is not 6 numbers with commas between: 'broken'"
    assert said[-1] == "skipped: 7 records in all"
    assert len(said) == 6


def test_only_the_time_between_from_and_to_is_read(tmp_path: Path) -> None:
    rule = {"name": "n", "product": "*", "condition": {"type": "price", "above": 10}}
    path = bar_file(tmp_path, *(f"{second * 1000},11,11,11,11,1" for second in range(10)))
    between = ("--from", "2016-10-07T00:00:05Z", "--to", "2016-10-08")

    [transition] = lines("backtest", rule_file(tmp_path, [rule]), path, *between)
    shown = invoked("backtest", rule_file(tmp_path, [rule]), path, "--to", "2016-10-07")

    assert transition["at"] == "2016-10-07T00:00:05.999999Z"
    assert "0 records read: nothing lies in the time that was asked for" in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["backtest", "{rules}", "{bars}", "--from", "yesterday"], "--from 'yesterday' is no time"),
        (["backtest", "{rules}", "{bars}", "--from", "2017-01-01", "--to", "2016-01-01"], "is not before --to"),
        (["backtest", "{rules}", "nothing.frames"], "nothing.frames is not there"),
        (["backtest", "missing.yaml", "{bars}"], "missing.yaml"),
        (["stats", "{bars}", "--windows", "7m"], "--windows '7m' is not there: choose of 1m,5m"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path: Path, arguments: list[str], reason: str) -> None:
    names = {"rules": rule_file(tmp_path, BAR_RULES), "bars": bar_file(tmp_path, "0,11,11,11,11,1")}

    with pytest.raises(UsageError, match=re.escape(reason)):
        CliRunner().invoke(app, [argument.format(**names) for argument in arguments], catch_exceptions=False)


def test_stored_rows_without_a_database_are_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PULSESTREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PULSESTREAM_HOME", str(tmp_path))

    with pytest.raises(UsageError, match="none is named: set PULSESTREAM_DATABASE_URL"):
        CliRunner().invoke(app, ["stats", "db:demo"], catch_exceptions=False)


def test_lengths_of_time_are_told_in_hours_minutes_and_seconds() -> None:
    assert format_lasting(0) == "0s"
    assert format_lasting(59_500_000) == "59.5s"
    assert format_lasting(3_600_000_000) == "1h 0m 0s"
    assert format_lasting(86_399_000_000) == "23h 59m 59s"


# ---- stats ----


@pytest.mark.parametrize("basis", ["trades", "ticks"])
def test_statistics_of_a_recording_are_the_oracles(shared_data: Path, basis: str) -> None:
    path = shared_data / "coinbase" / "2021-04-17.frames"

    shown = lines("stats", path, "--windows", "1m,5m", "--basis", basis)

    records = oracle.sourced([*oracle.frame_ticks(path), *oracle.frame_trades(path)])
    expected = {
        (product, stat.window, format_rfc3339(stat.at), stat.basis): stat
        for (_, product), own in oracle.by_key(records).items()
        for stat in oracle.final_stats(own, basis=basis).values()
        if stat.count
    }
    found = {(one["product"], one["window"], one["at"], one["basis"]): one for one in shown}
    assert len(found) == len(shown)
    assert found.keys() == expected.keys()
    for key, stat in expected.items():
        for name in STAT_NUMBERS:
            number = getattr(stat, name)
            wanted = None if number is None else pytest.approx(number, rel=1e-12, abs=1e-12)
            assert found[key][name] == wanted, (key, name)


def test_statistics_of_bars_know_each_bars_own_open_high_and_low(shared_data: Path) -> None:
    path = shared_data / "coinbase" / "btcusd-second-20161007-trade.csv"

    shown = lines("stats", path, "--windows", "5m", "--to", "2016-10-07T03:00:00Z")

    with path.open() as file:
        bars = [(DAY + int(ms) * 1_000, *map(float, numbers)) for ms, *numbers in csv.reader(file)]
    ends = [start + SECOND for start, *_ in bars if start < DAY + 3 * 3_600 * SECOND]
    assert [one["at"] for one in shown] == [format_rfc3339(end) for end in ends]
    for end, one in zip(ends, shown, strict=True):
        _, opened, high, low, close, volume = zip(
            *(bar for bar in bars if end - 5 * MINUTE <= bar[0] < end), strict=True
        )
        assert (one["count"], one["open"], one["high"]) == (len(opened), opened[0], max(high))
        assert (one["low"], one["close"], one["basis"]) == (min(low), close[-1], "trades")
        assert one["volume"] == pytest.approx(sum(volume), rel=1e-12)
        assert one["mean"] == pytest.approx(sum(close) / len(close), rel=1e-12)
        assert one["quote_volume"] == pytest.approx(sum(map(mul, close, volume)), rel=1e-12)


def test_bars_of_a_recording_are_the_oracles(shared_data: Path) -> None:
    path = shared_data / "coinbase" / "2021-04-17.frames"

    shown = lines("stats", path, "--bars", "1s,1m,1d")

    fields = ("open", "high", "low", "close", "trades", "complete", "origin")
    expected = {
        (product, bar.period, format_rfc3339(bar.start)): tuple(getattr(bar, name) for name in fields)
        for (_, product), own in oracle.by_key(oracle.sourced(oracle.frame_trades(path))).items()
        for bar in oracle.final_bars(own, ("1s", "1m", "1d"), basis="trades").values()
    }
    found = {(one["product"], one["period"], one["start"]): tuple(one[name] for name in fields) for one in shown}
    assert found == expected
    assert len(found) == len(shown) > 20


def test_each_emission_is_told_once_as_its_final_revision(tmp_path: Path) -> None:
    speech, received = SPEECHES["coinbase"](), DAY + 60 * SECOND
    times = [DAY + second * SECOND for second in (10, 13, 11, 12)]
    trades = [speech.trade("BTC-USD", Print(number, "600", "1", "buy", at)) for number, at in enumerate(times, 1)]
    path = tmp_path / "late.frames"
    path.write_text("".join(format_frame(received, trade) for trade in trades))

    shown = lines("stats", path, "--windows", "1m")

    assert [(one["at"][-10:-8], one["count"]) for one in shown] == [("11", 1), ("12", 2), ("13", 3), ("14", 4)]


def test_the_table_of_statistics_has_a_line_for_each(tmp_path: Path) -> None:
    path = bar_file(tmp_path, "0,11,11,11,11,1", "1000,12,12,12,12,1")

    heading, *rows = invoked("stats", path, "--windows", "1m").splitlines()

    assert heading.split()[:6] == ["time", "product", "basis", "window", "count", "open"]
    assert [row.split()[4:6] for row in rows] == [["1", "11"], ["2", "11"]]


def test_where_there_is_nothing_to_tell_a_sentence_says_why(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["stats", str(bar_file(tmp_path, "0,1,1,1,1,1")), "--basis", "ticks", "--json"])

    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("nothing to tell: ")


# ---- progress ----


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only_and_wiped_at_the_end(tmp_path: Path) -> None:
    opened = Sources.open(
        [str(bar_file(tmp_path, *(f"{hour * 3_600_000},1,1,1,1,1" for hour in range(3))))], Span(), str
    )
    terminal, pipe, moments = Terminal(), io.StringIO(), iter(range(100))

    seen = list(with_progress(opened.slices(3_600 * SECOND), terminal, lambda: next(moments)))
    list(with_progress(opened.slices(None), pipe))

    assert len(seen) == 3
    assert terminal.getvalue() == "\r1 records read\r2 records read\r3 records read\r\x1b[K"
    assert pipe.getvalue() == ""


def test_nothing_is_said_of_nothing_skipped() -> None:
    out = io.StringIO()

    warn_of(Skipped(), out)

    assert out.getvalue() == ""
