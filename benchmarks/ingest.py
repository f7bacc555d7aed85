"""Ingestion: acknowledged events over HTTP, against a FastAPI route that does nothing, and against pydantic + fastavro.

- `single_vs_noop`: acknowledged single events a second / requests a second of a bare FastAPI no-op route
- `batch_vs_pydantic`: events a second in batches of 100 / those of a FastAPI route with pydantic, fastavro and
  confluent-kafka, which also waits for every delivery report
- `…_per_second`, `…_p50_ms`, `…_p99_ms`: events or requests a second, and latency with every connection busy
- `load_ceiling_ratio`: how much more the load generator can do than the quickest case asked of it; above 2, or the
  figures say more about it than about the servers
- `api_resident_mib`: the API's memory after everything
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final

from benchmarks.ingest_stand import PEER, TENANT, Stand, Turn, stand
from benchmarks.peers.http_load import Load
from benchmarks.table import show

SINGLE_CONNECTIONS: Final = 128
"""So many that waiting for Kafka does not bound what the server can do; see docs/benchmarks.md for fewer."""
BATCH_CONNECTIONS: Final = 16
BATCH_EVENTS: Final = 100
_CONNECTIONS: Final = {"single": SINGLE_CONNECTIONS, "noop GET": SINGLE_CONNECTIONS, "noop POST": SINGLE_CONNECTIONS}
Turns = Mapping[str, Sequence[Turn]]


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Measure, print tables, and return the figures."""
    rounds, seconds, warm_up = (3, 1.0, 0.4) if quick else (7, 5.0, 1.5)
    with stand() as made:
        ceiling = made.ceiling(SINGLE_CONNECTIONS, seconds)
        ran = _interleaved(made, 1 + rounds, seconds, warm_up)
        stored = {tenant: made.stored(tenant) for tenant in (TENANT, PEER)}
        memory = made.cases["single"].resident_mib()
    _check_stored(ran, stored)
    turns = {case: each[1:] for case, each in ran.items()}  # the first round warms up broker and servers
    _show(turns, ceiling)
    return _figures(turns, ceiling) | {"api_resident_mib": memory}


def _interleaved(made: Stand, rounds: int, seconds: float, warm_up: float) -> Turns:
    turns: dict[str, list[Turn]] = {case: [] for case in made.cases}
    for number in range(rounds):
        order = list(turns) if number % 2 == 0 else list(reversed(turns))
        for case in order:
            turns[case].append(made.turn(case, _CONNECTIONS.get(case, BATCH_CONNECTIONS), seconds, warm_up))
    return turns


def _check_stored(turns: Turns, stored: Mapping[str, int]) -> None:
    """Every event that was sent, and so answered 202, is on its topic; the first one made the topics."""
    sent = {
        TENANT: 1 + _sent(turns["single"]) + BATCH_EVENTS * _sent(turns["batch"]),
        PEER: BATCH_EVENTS * _sent(turns["pydantic"]),
    }
    if sent != stored:
        raise AssertionError(f"{sent} events were sent, {stored} are on the topics")


def _sent(turns: Sequence[Turn]) -> int:
    return sum(turn.load.sent_in_all for turn in turns)


def _rates(turns: Turns, case: str) -> list[float]:
    return [turn.load.rate for turn in turns[case]]


def _ratios(turns: Turns, case: str, base: str) -> list[float]:
    return [one / other for one, other in zip(_rates(turns, case), _rates(turns, base), strict=True)]


def _noop(turns: Turns) -> str:
    """Return the quicker of the two routes that do nothing: asked without a body, or with the same one as ours."""
    return max(("noop GET", "noop POST"), key=lambda case: median(_rates(turns, case)))


def _figures(turns: Turns, ceiling: Mapping[int, Load]) -> dict[str, float]:
    noop = _noop(turns)
    busiest = {1: max(median(_rates(turns, case)) for case in _CONNECTIONS), 100: median(_rates(turns, "batch"))}
    figures = {
        "single_vs_noop": median(_ratios(turns, "single", noop)),
        "single_vs_noop_post": median(_ratios(turns, "single", "noop POST")),
        "batch_vs_pydantic": median(_ratios(turns, "batch", "pydantic")),
        "single_per_second": median(_rates(turns, "single")),
        "noop_per_second": median(_rates(turns, noop)),
        "batch_per_second": BATCH_EVENTS * median(_rates(turns, "batch")),
        "pydantic_per_second": BATCH_EVENTS * median(_rates(turns, "pydantic")),
        "load_ceiling_ratio": min(load.rate / busiest[events] for events, load in ceiling.items()),
    }
    for name, case in (("single", "single"), ("noop", noop), ("batch", "batch"), ("pydantic", "pydantic")):
        figures[f"{name}_p50_ms"] = _median(turns[case], lambda turn: turn.load.p50)
        figures[f"{name}_p99_ms"] = _median(turns[case], lambda turn: turn.load.p99)
    return figures


def _median(turns: Sequence[Turn], of: Callable[[Turn], float]) -> float:
    return median(map(of, turns))


def _show(turns: Turns, ceiling: Mapping[int, Load]) -> None:
    rows = []
    for case, each in turns.items():
        rates = _rates(turns, case)
        figures = [
            _median(each, lambda turn: turn.load.p50),
            _median(each, lambda turn: turn.load.p99),
            *(_median(each, of) for of in (_server_cpu, _broker_cpu, _load_cpu)),
        ]
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        micros = f"{_median(each, lambda turn: turn.micros):.1f}"
        rows.append((case, f"{median(rates):,.0f}", spread, micros, *(f"{figure:.2f}" for figure in figures)))
    for events, load in ceiling.items():
        rows.append(
            (f"the load alone, {events} events", f"{load.rate:,.0f}", "", "", f"{load.p50:.2f}", f"{load.p99:.2f}")
        )
        rows[-1] += ("", "", f"{load.busy:.2f}")
    columns = ("case", "requests/s", "spread", "CPU us", "p50, ms", "p99, ms", "server", "broker", "load")
    show("requests answered; the last three columns in processors", columns, rows)


def _server_cpu(turn: Turn) -> float:
    return turn.server_cpu


def _broker_cpu(turn: Turn) -> float:
    return turn.broker_cpu


def _load_cpu(turn: Turn) -> float:
    return turn.load.busy
