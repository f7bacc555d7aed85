"""Every fault of the simulator's plan on every exchange: what is stored and what the ledger says, after the storm.

Three simulators, three producers and one sink run at once, all of them the real processes; each fault has a product
of its own, so a gap tells which fault made it. What the markets did and what was injected stand in the simulators'
own files. `make matrix` (--thorough) lets it storm for longer.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Final

import pytest

from pulsestream.core.clock import MICROS_PER_SECOND, wall_clock
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.matrix import VENUES, Arena, Line, Matrix, Planned, covered, database_copy, within
from tests.support.rounds import Rounds

pytestmark = pytest.mark.heavy
RATE: Final = 10.0
BOUND: Final = 60.0
LAG: Final = 5.0
"""Seconds from a frame's making to its receipt, on a busy machine: intervals are of receipt."""
UNHARMED: Final = ("duplicate", "reorder", "delay", "unticked", "slow_drip")
"""Faults that lose no trade."""
HOLED: Final = ("drop", "lost", "late", "corrupt", "clock_skew")
"""Faults that make holes in the trade ids of a connection that stands."""
ENDED: Final = {"half_open": 2, "close": 3, "cut": 4, "oversize": 5, "refused": 7}
"""Faults that end a connection, and their shards."""
STANDING: Final = (0, 6)
"""Shards whose connections no fault ends."""


def planned(rounds: Rounds) -> tuple[Planned, ...]:
    """Return the storm's faults; a thorough one repeats those of single frames, and ends one connection many times."""
    early = {"after": 2, "every": 7, "count": rounds(4, 60)}
    once = {"after": 3, "count": 1}
    again = {"after": 5, "every": rounds(10, 80), "count": rounds(1, 6)}
    return (
        Planned("drop", when=early),
        Planned("drop", {"rest": False}, when=early, name="lost"),
        Planned("drop", channel="ticks", when={"after": 2, "every": 3, "count": rounds(2, 20)}, name="unticked"),
        Planned("duplicate", {"times": 2}, when=early),
        Planned("reorder", {"by": 3, "within": 1.5}, when={**early, "every": 9}),
        Planned("delay", {"seconds": 0.8}, when=early),
        Planned("delay", {"seconds": 4}, when=early, name="late"),
        Planned("corrupt", when=early),
        Planned("clock_skew", {"seconds": 120}, when=early),
        Planned("half_open", when=once, shard=2),
        Planned("close", {"code": 1011}, when=once, shard=3),
        Planned("rest_missing", channel=None, when={"every": 3}, shard=3),
        Planned("close", {"code": 1006}, when=once, shard=4, name="cut"),
        Planned("oversize", {"bytes": 400_000}, when=once, shard=5),
        Planned("slow_drip", {"seconds": 3, "bytes_per_second": 4000}, when=once, shard=6),
        Planned("close", {"code": 1012}, when={"after": 4, "count": 1}, shard=7, name="refused"),
        Planned("close", {"code": 1001}, when=again, shard=1, name="again"),
        Planned("http_429", {"to": "websocket", "retry_after": 1}, when=once, everything=True),
        Planned("accept_then_close", when=once, everything=True),
        Planned("http_429", {"to": "rest", "retry_after": 1}, when={"count": rounds(1, 5)}, everything=True),
        Planned("rest_500", when={"every": rounds(1, 9), "count": rounds(1, 9)}, everything=True),
        Planned("rest_truncated", when={"every": rounds(1, 9), "count": rounds(1, 9)}, everything=True),
    )


@dataclass(frozen=True, slots=True)
class After:
    """One exchange after the storm: what it did up to `until` (micros), what was injected, stored and told."""

    arena: Arena
    plan: Sequence[Planned]
    until: int
    made: Mapping[str, Mapping[int, Line]]
    made_ticks: Mapping[str, Mapping[str, int]]
    stored: Mapping[str, Mapping[int, Sequence[Line]]]
    stored_ticks: Mapping[str, Sequence[str]]
    holes: Sequence[Line]
    intervals: Sequence[Line]
    faults: Sequence[Line]
    attempts: Sequence[int]

    def product(self, name: str) -> str:
        return self.arena.products[name.replace("_", "").upper()]

    def injected(self, name: str) -> set[int]:
        """Return the trades that the faults of a product concern."""
        product = self.product(name)
        return {number for line in self.faults if line["product"] == product for number in line["trade_ids"]}

    def missing(self, name: str) -> set[int]:
        """Return the trades of a product that were made but are not stored, from the first one stored on."""
        return missing(self.made[self.product(name)], set(self.stored[self.product(name)]))

    def away(self, shard: int) -> list[tuple[int, int]]:
        """Return the intervals without a connection of a shard, but for the one before its first connection."""
        begun = min(trade["time"] for trades in self.made.values() for trade in trades.values())
        own = [gap for gap in self.intervals if f":*{shard}:" in gap["key"]]
        return [(gap["opened"], gap["closed"] or self.until) for gap in own if (gap["closed"] or self.until) > begun]


def missing(made: Mapping[int, Line], stored: Collection[int]) -> set[int]:
    first = min((number for number in stored if number in made), default=0)
    return {number for number in made if number >= first} - set(stored)


def unknown_to_rest(arena: Arena) -> dict[str, set[int]]:
    """Return the trades that REST does not have, by product."""
    lost = arena.products["LOST"]
    return {**arena.injected("rest_missing"), lost: arena.injected("drop")[lost]}


@pytest.fixture(scope="module")
def storm(
    broker: EmbeddedKafka,
    database_server: str,
    migrated_template: str,
    tmp_path_factory: pytest.TempPathFactory,
    rounds: Rounds,
) -> Iterator[Mapping[str, After]]:
    """Let it rage, wait until all is stored that can be, and stop every process; what came of it, by venue."""
    plan = planned(rounds)
    with database_copy(database_server, migrated_template) as database:
        matrix = Matrix(tmp_path_factory.mktemp("matrix"), broker, database, f"matrix{wall_clock() % 10**9}")
        try:
            matrix.start(plan, rate=RATE, seed=7, run=str(wall_clock() % 10**6))
            _rage(matrix, len(plan), rounds(8, 90))
            until = wall_clock() - MICROS_PER_SECOND
            _settle(matrix, until)
            matrix.assert_alive()
            after = {arena.venue: _after(matrix, arena, plan, until) for arena in matrix.arenas}
        finally:
            codes = matrix.stop()
        assert set(codes.values()) == {0}, codes
        yield after


def _rage(matrix: Matrix, faults: int, seconds: float) -> None:
    """Let the faults happen, so long at least, from the moment on that every market has begun."""
    deadline = time.monotonic() + seconds + BOUND
    while not all(arena.has_begun() for arena in matrix.arenas):
        matrix.assert_alive()
        assert time.monotonic() < deadline, matrix.logs()
        time.sleep(0.1)
    begun = time.monotonic()
    while time.monotonic() < begun + seconds or not all(_has_happened(arena, faults) for arena in matrix.arenas):
        matrix.assert_alive()
        if time.monotonic() > deadline:
            return  # a test says which fault did not happen
        time.sleep(0.25)


def _has_happened(arena: Arena, faults: int) -> bool:
    return len({line["fault"] for line in arena.lines("faults")}) == faults


def _settle(matrix: Matrix, until: int) -> None:
    """Wait until no trade is missing that can be recovered, no gap is open, and ticks are stored beyond `until`.

    A product's ticks are in order on its partition: one of after that moment says that those before it are stored. The
    tests say what is left.
    """
    made = {arena.venue: arena.trades(until) for arena in matrix.arenas}
    deadline = time.monotonic() + BOUND
    while (left := _unsettled(matrix, made, until)) is not None and time.monotonic() < deadline:
        matrix.assert_alive()
        time.sleep(0.5)
    if left is not None:
        print(left, matrix.logs(), sep="\n")  # noqa: T201 - pytest shows it with the failures


def _unsettled(matrix: Matrix, made: Mapping[str, Mapping[str, Mapping[int, Line]]], until: int) -> str | None:
    for arena in matrix.arenas:
        unknown, stored = unknown_to_rest(arena), matrix.stored_ids(arena)
        for product in arena.products.values():
            left = missing(made[arena.venue][product], stored[product]) - unknown.get(product, set())
            if left or not stored[product]:
                return f"{arena.venue} {product}: {len(left)} trades are missing: {sorted(left)[:5]}"
        gaps = [*matrix.gaps(arena, "trade_id"), *matrix.gaps(arena, "time")]
        if still := [gap["key"] for gap in gaps if gap["closed"] is None]:
            return f"{arena.venue}: gaps are open: {still[:5]}"
        newest = matrix.newest_ticks(arena)
        if behind := [product for product in arena.products.values() if newest.get(product, 0) <= until]:
            return f"{arena.venue}: no later tick is stored of {behind[:5]}"
    return None


def _after(matrix: Matrix, arena: Arena, plan: Sequence[Planned], until: int) -> After:
    return After(
        arena,
        plan,
        until,
        made=arena.trades(until),
        made_ticks=arena.ticks(until),
        stored=matrix.stored_trades(arena),
        stored_ticks=matrix.stored_ticks(arena),
        holes=matrix.gaps(arena, "trade_id"),
        intervals=matrix.gaps(arena, "time"),
        faults=arena.lines("faults"),
        attempts=arena.attempts(),
    )


@pytest.fixture(params=VENUES)
def after(storm: Mapping[str, After], request: pytest.FixtureRequest) -> After:
    return storm[request.param]


def test_every_fault_of_the_plan_has_happened(after: After) -> None:
    happened = Counter(line["fault"] for line in after.faults)

    assert [fault.name or fault.kind for number, fault in enumerate(after.plan) if not happened[number]] == []


def test_every_trade_that_can_be_recovered_is_stored_once_and_as_it_was_made(after: After) -> None:
    unknown = unknown_to_rest(after.arena)
    digits = 1000 if after.arena.venue == "binance" else 1

    for label, product in after.arena.products.items():
        made, stored = after.made[product], after.stored[product]
        assert after.missing(label) <= unknown.get(product, set()), product
        assert len(made) > 30
        assert {number: len(rows) for number, rows in stored.items() if len(rows) > 1} == {}
        for number in made.keys() & stored.keys():
            [row], truth = stored[number], made[number]
            assert (row["price"], row["size"], row["side"], row["time"]) == (
                float(truth["price"]), float(truth["size"]), truth["side"], truth["time"] // digits * digits,
            )  # fmt: skip


def test_trades_that_rest_does_not_have_are_told_as_lost_and_no_others(after: After) -> None:
    for label, product in after.arena.products.items():
        holes = [hole for hole in after.holes if hole["product"] == product]
        lost = after.missing(label)
        told = [hole for hole in holes if hole["gap_missing"]]
        assert lost <= covered(told, product), product
        for hole in told:
            ids = set(range(hole["gap_from_id"], hole["gap_to_id"] + 1))
            known = ids & after.made[product].keys()
            assert hole["gap_missing"] - len(ids - known) <= len(known - set(after.stored[product])), hole
    own = after.made[after.product("lost")].keys()
    assert after.missing("lost") == after.injected("lost") & own


@pytest.mark.parametrize("name", HOLED)
def test_the_ledgers_holes_are_those_that_were_injected(after: After, name: str) -> None:
    assert covered(after.holes, after.product(name)) == after.injected(name)
    assert after.injected(name)


@pytest.mark.parametrize("name", UNHARMED)
def test_a_fault_that_loses_no_trade_opens_no_hole(after: After, name: str) -> None:
    assert [hole for hole in after.holes if hole["product"] == after.product(name)] == []
    assert after.missing(name) == set()


@pytest.mark.parametrize(("name", "shard"), ENDED.items())
def test_an_ended_connection_is_an_interval_of_its_shard_that_is_closed(after: After, name: str, shard: int) -> None:
    kind = {"cut": "close", "refused": "close"}.get(name, name)
    [at] = [line["at"] for line in after.faults if line["kind"] == kind and line["product"] == after.product(name)]

    [(opened, closed)] = after.away(shard)

    assert opened <= at + MICROS_PER_SECOND
    assert closed > at
    assert all(gap["closed"] for gap in after.intervals)


@pytest.mark.parametrize("shard", STANDING)
def test_a_connection_that_no_fault_ends_has_no_interval(after: After, shard: int) -> None:
    assert after.away(shard) == []


@pytest.mark.parametrize(("name", "shard"), ENDED.items())
def test_holes_of_an_ended_connections_product_lie_in_its_interval(after: After, name: str, shard: int) -> None:
    product = after.product(name)

    holes = covered(after.holes, product) & after.made[product].keys()

    # Kraken begins each subscription with the last 50 trades: a short interval leaves no hole there.
    assert holes or after.arena.venue == "kraken"
    times = [after.made[product][number]["time"] for number in holes]
    assert [at for at in times if not within(at, after.away(shard), slack=LAG)] == []


def test_ticks_are_stored_once_and_only_those_lost_are_missing(after: After) -> None:
    """From the first one stored on, by the order of making: a subscription can begin between two of one moment."""
    shards = {fault.label: fault.shard for fault in after.plan if not fault.everything}
    gone = (line for line in after.faults if line["kind"] == "drop" and not line["trade_ids"])
    dropped = Counter(line["product"] for line in gone if line["time"] <= after.until)

    for label, product in after.arena.products.items():
        made, got = after.made_ticks[product], set(after.stored_ticks[product])
        assert len(got) == len(after.stored_ticks[product])
        known = list(dropwhile(set(made).difference(got).__contains__, made))
        away = after.away(shards[label])
        lost = [event for event in known if event not in got and not within(made[event], away, slack=LAG)]
        assert made
        assert len(lost) == (dropped[product] if label == "UNTICKED" else 0), _told(product, lost, made, got, away)


def _told(
    product: str, lost: Sequence[str], made: Mapping[str, int], got: Collection[str], away: Collection[tuple[int, int]]
) -> str:
    """Say which ticks are lost, and what is around the first one: (seconds since the market began, stored)."""
    order = list(made)
    begun, place = made[order[0]], order.index(lost[0]) if lost else 0
    around = [(round((made[event] - begun) / 1e6, 3), event in got) for event in order[max(place - 4, 0) : place + 5]]
    intervals = [tuple(round((end - begun) / 1e6, 3) for end in interval) for interval in away]
    return f"{product}: {lost[:5]} of {len(order)}, the first at {place}: {around}; away {intervals}"


def test_no_connection_is_attempted_in_a_tight_loop(after: After) -> None:
    connections = {fault.shard for fault in after.plan if not fault.everything}
    begun = min(after.attempts) + MICROS_PER_SECOND
    again = [at for at in after.attempts if at > begun]

    assert len(after.attempts) - len(again) <= len(connections)
    ends = sum(line["kind"] in ("close", "half_open", "oversize") for line in after.faults)
    assert len(again) <= 2 * ends + 2
    crowded = [sum(at <= other < at + MICROS_PER_SECOND for other in again) for at in again]
    assert max(crowded) <= len(ENDED) + 1
