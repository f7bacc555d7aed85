"""Search over HTTP, as the API's role with row level security: 10,000,000 events of 50 tenants.

- `latest_p99_ms`: a tenant's latest 100 events
- `range_p99_ms`: 100 events of a product within a random six hours
- `containment_p99_ms`: 100 events by what their data contains: what one event, one in 2,000 (an account), one in 50 (a
  strategy), every other (a side), and none has, in turn
- `…_busy_p99_ms`: the same with 4 connections at once, load and server on the same machine
- `tail_p99_ms`: 100 events in the order of ingestion
- `…_cpu_ms`: CPU of the API and of its sessions in the database for one request, which other work on the machine hardly
  changes

A request is timed from its first byte to the last one of the answer. The tenant is another one each time.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.client import HTTPConnection
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from benchmarks.rounds import percentile
from benchmarks.search_stand import ACCOUNTS, PRODUCTS, STRATEGIES, TENANTS, Api, Loaded, loaded, serving
from benchmarks.table import show

PATH: Final = "/api/v1/ingestion/events/search?"
LIMIT: Final = 100
BUSY: Final = 4
WINDOW: Final = timedelta(hours=6)
_MANY: Final = 5_000_000
"""Rows from which on each tenant has some events of every account."""
Rows = Sequence[Mapping[str, Any]]
KINDS: Final = ("one", "account", "strategy", "side", "none")


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows, and requests of each case that count and that come before."""

    rows: int
    requests: int
    warm_up: int


QUICK: Final = Plan(100_000, 200, 50)
WHOLE: Final = Plan(10_000_000, 3000, 500)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: whose, what, and what its answer has to be like."""

    tenant: int
    query: Mapping[str, str]
    kind: str
    is_right: Callable[[Rows], bool]


@dataclass(frozen=True, slots=True)
class Timed:
    """How long an answer took, in milliseconds."""

    kind: str
    milliseconds: float


Case = Callable[[Loaded, random.Random], Asked]


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Load, measure, print a table, and return the figures."""
    plan = QUICK if quick else WHOLE
    with loaded(plan.rows) as stored, serving(stored) as api:
        return measure(stored, api, plan)


def measure(stored: Loaded, api: Api, plan: Plan) -> dict[str, float]:
    """Ask each case, alone and with several connections at once; raises AssertionError for a wrong answer."""
    figures: dict[str, float] = {}
    rows = []
    for connections in (1, BUSY):
        for name, case in CASES.items():
            before = api.cpu_seconds()
            timed = _timed(stored, api, case, plan, connections)
            cpu = (api.cpu_seconds() - before) * 1000 / (plan.warm_up + plan.requests)
            told = [one.milliseconds for one in timed]
            figures[f"{name}_p99_ms" if connections == 1 else f"{name}_busy_p99_ms"] = percentile(told, 0.99)
            if connections == 1:
                figures[f"{name}_p50_ms"] = percentile(told, 0.5)
                figures[f"{name}_cpu_ms"] = cpu
            rows += [_row(f"{name}, {connections} at once", told, f"{cpu:.1f}")]
            kinds = sorted({one.kind for one in timed}, key=KINDS.index) if name == "containment" else []
            rows += [_row(f"  {kind}", [one.milliseconds for one in timed if one.kind == kind]) for kind in kinds]
    table = "a hypertable" if stored.is_hypertable else "a plain table"
    title = f"milliseconds of an answer of up to {LIMIT} rows, {stored.rows:,} events in {table}"
    show(title, ("search", "requests", "p50", "p99", "most", "CPU"), rows)
    return figures


def latest(_: Loaded, chance: random.Random) -> Asked:
    """Ask for a tenant's latest events."""
    return Asked(chance.randrange(TENANTS), {"dataset": "events"}, "", _is_full)


def within(stored: Loaded, chance: random.Random) -> Asked:
    """Ask for events of a product in a time range."""
    begin = stored.moment(chance.random() * 0.95)
    product = f"P{chance.randrange(PRODUCTS)}-USD"
    query = {"dataset": "events", "product": product, "from": _time(begin), "to": _time(begin + WINDOW)}
    return Asked(chance.randrange(TENANTS), query, "", lambda rows: all(row["product"] == product for row in rows))


def containing(stored: Loaded, chance: random.Random) -> Asked:
    """Ask for events by what their data contains."""
    tenant, kind = chance.randrange(TENANTS), chance.choice(KINDS)
    number = chance.randrange(stored.rows // TENANTS) * TENANTS + tenant
    choices: dict[str, dict[str, Any]] = {
        "one": {"order_id": f"o-{number}"},
        "account": {"account": {"id": chance.randrange(ACCOUNTS)}},
        "strategy": {"strategy": f"s{chance.randrange(STRATEGIES)}"},
        "side": {"side": chance.choice(["buy", "sell"])},
        "none": {"strategy": f"x{chance.randrange(STRATEGIES)}"},
    }
    wanted = choices[kind]
    expected = {"one": 1, "none": 0}.get(kind)

    def is_right(rows: Rows) -> bool:
        held = all(_holds(row["data"], wanted) for row in rows)
        return held and (len(rows) == expected if expected is not None else len(rows) > 0 or stored.rows < _MANY)

    query = {"dataset": "events", "contains": msgspec.json.encode(wanted).decode()}
    return Asked(tenant, query, kind, is_right)


def following(_: Loaded, chance: random.Random) -> Asked:
    """Ask for the first events in the order of ingestion."""
    return Asked(chance.randrange(TENANTS), {"dataset": "events", "order": "ingested"}, "", _is_full)


CASES: Final[Mapping[str, Case]] = {
    "latest": latest,
    "range": within,
    "containment": containing,
    "tail": following,
}


def _timed(stored: Loaded, api: Api, case: Case, plan: Plan, connections: int) -> list[Timed]:
    timed: list[Timed] = []
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        client = api.connect()
        try:
            for number in range((plan.warm_up + plan.requests) // connections):
                asked = case(stored, chance)
                one = _ask(client, api, asked)
                if number >= plan.warm_up // connections:
                    timed.append(one)
        except BaseException as error:  # noqa: BLE001 - told by whoever waits
            failures.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return timed


def _ask(client: HTTPConnection, api: Api, asked: Asked) -> Timed:
    path = PATH + urlencode({**asked.query, "limit": str(LIMIT)})
    headers = {"X-API-Key": api.keys[asked.tenant]}
    began = time.perf_counter()
    client.request("GET", path, headers=headers)
    answer = client.getresponse()
    body = answer.read()
    took = (time.perf_counter() - began) * 1000
    if answer.status != 200:
        raise AssertionError(f"{path}: {answer.status} {body[:500]!r}")
    rows = msgspec.json.decode(body)["rows"]
    if not asked.is_right(rows):
        raise AssertionError(f"{path} of search-{asked.tenant}: {len(rows)} rows, {rows[:1]}")
    return Timed(asked.kind, took)


def _is_full(rows: Rows) -> bool:
    return len(rows) == LIMIT


def _holds(data: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return all(name in data and _holds(data[name], value) for name, value in wanted.items())
    return bool(data == wanted)


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _row(name: str, told: Sequence[float], cpu: str = "") -> tuple[str, ...]:
    figures = (percentile(told, 0.5), percentile(told, 0.99), max(told))
    return name, f"{len(told):,}", *(f"{figure:.1f}" for figure in figures), cpu
