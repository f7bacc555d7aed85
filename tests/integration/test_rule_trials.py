"""A rule tried on what is stored: against `pulsestream backtest` over the same rows, and what bounds it.

The database is real, seen as the API's role.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import yaml
from pydantic import SecretStr
from typer.testing import CliRunner

from api.errors import Problem
from api.rules import trials
from api.rules.trial_process import run
from api.rules.trial_task import Task
from api.rules.trials import Trials, Wanted
from pulsestream.cli import app
from pulsestream.commands.backtest import format_lasting
from pulsestream.core.clock import format_rfc3339
from pulsestream.core.settings import Settings
from tests.support.databases import NamedDatabase

START = 1_617_840_000_000_000
"""2021-04-08T00:00:00Z in microseconds."""
SECOND = 1_000_000
HOUR = 3_600 * SECOND
PRICE = {"name": "dip", "product": "BTC-USD", "condition": {"type": "price", "below": 59_950, "clear": 59_990}}
RULES: list[dict[str, Any]] = [
    PRICE | {"for": "5s", "keep_firing_for": "3s", "cooldown": "20s"},
    {"name": "change", "product": "*", "condition": {"type": "change", "window": "1m", "above_pct": 0.05}},
    {"name": "wide", "product": "*", "exchange": ["kraken", "coinbase"],
     "condition": {"type": "spread", "above_bps": 3}},
    {"name": "apart", "product": "BTC-USD",
     "condition": {"type": "divergence", "exchanges": ["coinbase", "kraken"], "above_bps": 8}},
    {"name": "silent", "product": ["BTC-USD", "ETH-USD"], "condition": {"type": "no_data", "after": "3s"}},
    {"name": "always", "product": "ETH-USD", "condition": {"type": "price", "above": 1}},
    {"name": "never", "product": "DOGE-USD", "condition": {"type": "price", "above": 1}},
]  # fmt: skip


@pytest.fixture
def stored(database: NamedDatabase) -> NamedDatabase:
    """A database with ten minutes of trades and ticks of two tenants; of one product there are ticks only."""
    with psycopg.connect(database.url()) as connection:
        for tenant, scale in (("acme", 1.0), ("other", 0.5)):
            connection.execute(_TICKS, {"tenant": tenant, "scale": scale, "start": START})
            connection.execute(_TRADES, {"tenant": tenant, "scale": scale, "start": START})
    return database


_TICKS = """
    INSERT INTO ticks (tenant, event_id, exchange, product, sequence, price, size, side, best_bid, best_ask,
        exchange_time, received_time, appended_at)
    SELECT %(tenant)s, exchange || ':' || product || ':' || n, exchange, product, n, price, 0.5, 'buy',
        price - width, price + width, at, at, at + '5ms'
    FROM (VALUES ('coinbase', 'BTC-USD', 2.0), ('kraken', 'BTC-USD', 3.0), ('coinbase', 'ETH-USD', 1.0))
        AS products (exchange, product, pace), generate_series(1, 1000) AS n,
        LATERAL (SELECT to_timestamp(%(start)s / 1e6) + n * pace * interval '300 ms'
            + CASE WHEN n > 500 THEN interval '7 s' ELSE '0' END AS at,
            %(scale)s * (60000 + 80 * sin(n * pace / 40)) AS price, 5 + 10 * abs(sin(n / 90.0)) AS width) AS made"""
_TRADES = """
    INSERT INTO trades (tenant, event_id, exchange, product, trade_id, price, size, side, exchange_time, received_time,
        appended_at)
    SELECT %(tenant)s, 'coinbase:BTC-USD:t' || n, 'coinbase', 'BTC-USD', n,
        %(scale)s * (60000 + 70 * sin(n / 30.0)), 1, 'sell', at, at, at + '5ms'
    FROM generate_series(1, 1500) AS n,
        LATERAL (SELECT to_timestamp(%(start)s / 1e6) + n * interval '400 ms' AS at) AS made"""


def tried(
    database: NamedDatabase,
    rule: dict[str, Any],
    tenant: str = "acme",
    *,
    begin: int = START,
    end: int = START + HOUR,
    most: int = trials.MOST_RECORDS,
) -> dict[str, Any]:
    """Return the result of a trial, evaluated within this process."""
    task = Task(database.url("ps_api"), tenant, json.dumps(rule), begin, end, most, seconds=30, mebibytes=1024)
    found = run(task)
    answer: dict[str, Any] = found.get("answer", found)
    return answer


def service(database: NamedDatabase, now: int = START + HOUR) -> Trials:
    return Trials(Settings(database_url=SecretStr(database.url("ps_api"))), lambda: now)


def wanted(rule: dict[str, Any] = PRICE, begin: int | None = None, end: int | None = None) -> Wanted:
    return Wanted(json.dumps(rule), begin, end)


def refusal(trials: Trials, tried: Wanted) -> Problem:
    with pytest.raises(Problem) as raised:
        asyncio.run(trials.run("acme", tried))
    return raised.value


def backtested(
    database: NamedDatabase, rule: dict[str, Any], folder: Path, *arguments: str
) -> tuple[list[dict[str, Any]], str]:
    """Return the transitions of `pulsestream backtest` over the same rows, and its summary's line of the rule."""
    path = folder / f"{rule['name']}.yaml"
    path.write_text(yaml.safe_dump({"rules": [rule]}))
    env = {"PULSESTREAM_DATABASE_URL": database.url("ps_api")}
    command = ["backtest", str(path), "db:acme", *arguments]
    lines = CliRunner().invoke(app, [*command, "--json"], env=env, catch_exceptions=False).stdout.splitlines()
    table = CliRunner().invoke(app, command, env=env, catch_exceptions=False).stdout
    told = table.partition("would notify")[2].splitlines()[1]
    return [json.loads(line) for line in lines], told


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["name"])
def test_a_trial_says_what_the_backtest_says_of_the_same_rows(
    stored: NamedDatabase, rule: dict[str, Any], tmp_path: Path
) -> None:
    found = tried(stored, rule)

    transitions, told = backtested(stored, rule, tmp_path)
    summary = found["summary"]
    assert found["transitions"] == transitions
    assert (found["count"], found["truncated"]) == (len(transitions), False)
    fired = sum(one["state"] == "firing" for one in transitions)
    assert (fired > 0) is (rule["name"] != "never")
    assert (summary["fired"], summary["would_notify"]) == (fired, fired)
    lasting = [format_lasting(round(summary[name] * SECOND)) for name in ("firing_seconds", "longest_seconds")]
    assert re.split(r"\s{2,}", told)[1:5] == [str(fired), str(fired), *lasting]


def test_a_trial_over_a_part_says_what_the_backtest_says_of_that_part(stored: NamedDatabase, tmp_path: Path) -> None:
    begin, end = START + 60 * SECOND, START + 400 * SECOND

    found = tried(stored, PRICE, begin=begin, end=end)

    span = ("--from", format_rfc3339(begin), "--to", format_rfc3339(end))
    transitions, _ = backtested(stored, PRICE, tmp_path, *span)
    assert found["transitions"] == transitions != []
    assert found["records"]["first"] >= span[1]
    assert found["records"]["last"] < span[3]


def test_a_trial_reads_only_what_its_rule_looks_at(stored: NamedDatabase) -> None:
    counts = {rule["name"]: tried(stored, rule)["records"]["count"] for rule in RULES}

    # trades where the product has some, else ticks; spreads and divergences are of ticks
    assert counts == {
        "dip": 2500,
        "change": 3500,
        "wide": 3000,
        "apart": 2000,
        "silent": 3500,
        "always": 1000,
        "never": 0,
    }


def test_a_trial_sees_nothing_of_another_tenant(stored: NamedDatabase) -> None:
    low = PRICE | {"condition": {"type": "price", "below": 31_000}}

    assert tried(stored, low)["count"] == 0
    assert tried(stored, low, tenant="other")["summary"]["fired"] == 2
    assert tried(stored, low, tenant="nobody")["records"]["count"] == 0


def test_too_many_records_are_refused_with_the_time_from_which_on_they_fit(stored: NamedDatabase) -> None:
    begin = tried(stored, PRICE, most=1_000)["begin"]

    assert tried(stored, PRICE, most=2_500)["records"]["count"] == 2_500
    assert 998 <= tried(stored, PRICE, most=1_000, begin=begin)["records"]["count"] <= 1_000
    assert "begin" in tried(stored, PRICE, most=1_000, begin=begin - SECOND)


def test_of_many_transitions_the_first_are_told_and_all_are_counted(stored: NamedDatabase, tmp_path: Path) -> None:
    restless = PRICE | {"condition": {"type": "price", "below": 60_000}, "product": "*"}
    with psycopg.connect(stored.url()) as connection:
        connection.execute("UPDATE trades SET price = 60000 + 10 * (-1) ^ trade_id")

    found = tried(stored, restless)

    transitions, _ = backtested(stored, restless, tmp_path)
    assert found["transitions"] == transitions[:1_000]
    assert (found["count"], found["truncated"]) == (len(transitions), True)
    assert found["summary"]["fired"] == sum(one["state"] == "firing" for one in transitions)


# ---- in a process of its own ----


def test_without_a_span_the_last_day_is_tried(stored: NamedDatabase, tmp_path: Path) -> None:
    now = START + 24 * HOUR + 300 * SECOND

    found = json.loads(asyncio.run(service(stored, now).run("acme", wanted())))

    assert (found["from"], found["to"]) == (format_rfc3339(now - 24 * HOUR), format_rfc3339(now))
    assert found["transitions"] == backtested(stored, PRICE, tmp_path, "--from", found["from"])[0] != []
    assert 0 < found["records"]["count"] < 2_500


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        (START, START, "is not before"),
        (START + 2 * HOUR, None, "is not before"),
        (START - 168 * HOUR, None, "at most 168 h: ask for 2021-04-01T01:00:00"),
    ],
)
def test_a_span_that_cannot_be_tried_is_refused(
    database: NamedDatabase, begin: int, end: int | None, said: str
) -> None:
    refused = refusal(service(database), wanted(begin=begin, end=end))

    assert (refused.status, refused.code, refused.errors[0].pointer) == (422, "invalid-body", "/from")
    assert said in refused.errors[0].message


def test_what_is_too_much_is_refused_and_says_what_would_fit(
    stored: NamedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "MOST_RECORDS", 1_000)

    refused = refusal(service(stored), wanted())

    assert (refused.status, refused.code) == (422, "trial-too-large")
    assert refused.extensions["from"] == format_rfc3339(tried(stored, PRICE, most=1_000)["begin"])


@contextmanager
def held_up(database: NamedDatabase) -> Iterator[psycopg.Connection[Any]]:
    """Let every trial wait for the trades, until the transaction ends."""
    with psycopg.connect(database.url()) as connection:
        connection.execute("LOCK TABLE trades IN ACCESS EXCLUSIVE MODE")
        yield connection


def test_a_tenant_tries_one_rule_at_a_time_and_all_together_few(stored: NamedDatabase) -> None:
    async def scenario() -> list[Problem]:
        trials, refused = service(stored), []
        with held_up(stored) as lock:
            first = [asyncio.create_task(trials.run(tenant, wanted())) for tenant in ("acme", "other")]
            await asyncio.sleep(0)
            for tenant in ("acme", "third"):
                with pytest.raises(Problem) as raised:
                    await trials.run(tenant, wanted())
                refused.append(raised.value)
            lock.rollback()
            answers = await asyncio.gather(*first)
        assert [json.loads(answer)["records"]["count"] for answer in answers] == [2_500] * 2
        await trials.run("third", wanted())
        return refused

    refused = asyncio.run(scenario())

    assert [(one.status, one.code, one.headers["Retry-After"]) for one in refused] == [(503, "overloaded", "5")] * 2
    assert ["of this tenant" in one.detail for one in refused] == [True, False]


def test_a_trial_that_takes_too_long_is_ended_and_leaves_nothing_behind(
    stored: NamedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SECONDS", 1)

    with held_up(stored):
        refused = refusal(service(stored), wanted())

    assert (refused.status, refused.code) == (422, "trial-too-large")
    assert "longer than 1 s" in refused.detail
    assert trying() == []


def test_a_trial_that_is_given_up_leaves_nothing_behind(stored: NamedDatabase) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(service(stored).run("acme", wanted()))
        while not trying():  # noqa: ASYNC110 (a process starts by itself)
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with held_up(stored):
        asyncio.run(scenario())

    assert trying() == []


def trying() -> list[psutil.Process]:
    """Return the processes that try rules."""
    return [child for child in psutil.Process().children() if "api.rules.trial_process" in child.cmdline()]


def test_a_trial_that_takes_too_much_memory_is_ended(stored: NamedDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "MEBIBYTES", 1)

    refused = refusal(service(stored), wanted())

    assert (refused.status, refused.code) == (422, "trial-too-large")


@pytest.mark.skipif(sys.platform != "linux", reason="what ends a process for want of memory is Linux's")
def test_where_memory_runs_out_the_system_ends_the_trial_and_its_tenant_is_told(stored: NamedDatabase) -> None:
    async def scenario() -> int:
        task = asyncio.create_task(service(stored).run("acme", wanted()))
        while not evaluating(stored):  # noqa: ASYNC110 (a process starts by itself)
            await asyncio.sleep(0.05)
        [child] = trying()
        first_to_go = oom_score(child)
        child.kill()
        with pytest.raises(Problem) as refused:
            await task
        assert (refused.value.status, refused.value.code) == (422, "trial-too-large")
        return first_to_go

    with held_up(stored):
        assert asyncio.run(scenario()) == 1000


def oom_score(child: psutil.Process) -> int:
    return int(Path(f"/proc/{child.pid}/oom_score_adj").read_text("ascii"))


def evaluating(stored: NamedDatabase) -> bool:
    with psycopg.connect(stored.url()) as connection:
        held = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return connection.execute(held).fetchone() is not None


def test_a_trial_without_its_database_is_told_to_come_again() -> None:
    away = Trials(Settings(database_url=SecretStr("postgresql://ps_api@127.0.0.1:1/none")), lambda: START)

    refused = refusal(away, wanted())

    assert (refused.status, refused.code) == (503, "database-unavailable")


def test_evaluating_holds_up_nothing_else(stored: NamedDatabase) -> None:
    with psycopg.connect(stored.url()) as connection:
        connection.execute(_MANY, {"start": START})

    async def pauses() -> tuple[float, float, int]:
        """Return the loop's longest pause while a rule is tried, how long that took, and of how many records."""
        task = asyncio.create_task(service(stored).run("busy", wanted(RULES[1], START)))
        longest, begun = 0.0, time.monotonic()
        last = begun
        while not task.done():
            await asyncio.sleep(0.001)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest, last - begun, json.loads(await task)["records"]["count"]

    longest, whole, records = asyncio.run(pauses())

    assert records == 60_000
    assert longest < whole / 3


_MANY = """
    INSERT INTO trades (tenant, event_id, exchange, product, trade_id, price, size, side, exchange_time, received_time,
        appended_at)
    SELECT 'busy', n::text, 'coinbase', 'BTC-USD', n, 60000 + 70 * sin(n / 30.0), 1, 'sell', at, at, at
    FROM generate_series(1, 60000) AS n,
        LATERAL (SELECT to_timestamp(%(start)s / 1e6) + n * interval '50 ms' AS at) AS made"""
