"""The lane's order of things: what has to be on the broker before what else may happen."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest

from pulsestream.core.topics import tenant_topic
from streams import lane as lanes
from streams import pipeline
from streams.emission import Output
from streams.entries import Position
from streams.errors import FencedError
from streams.intake import Intake, Source, take_in
from streams.lane import Lane
from streams.outputs import Receipt
from tests.support.batching import block_from
from tests.support.sharding import EXCHANGE, World
from tests.support.streaming import make_tick
from tests.support.ticking import rule

SECOND = 1_000_000
TENANT = "acme"


class HeldOutputs:
    """The producer: acknowledges what it was given when it is told to."""

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal
        self.prompt = True
        self.held: list[Receipt] = []

    async def send(self, outputs: Iterable[Output], receipt: Receipt, wanted: Callable[[], bool]) -> None:
        """Take records."""
        for output in outputs:
            if wanted():
                self.offer(output, receipt)

    def offer(self, output: Output, receipt: Receipt) -> bool:
        """Take a record."""
        self.journal.append(f"sent {output.dataset}")
        receipt.expect()
        self.held.append(receipt)
        if self.prompt:
            self.acknowledge()
        return True

    def acknowledge(self) -> None:
        """Acknowledge everything."""
        held, self.held = self.held, []
        for receipt in held:
            receipt.settle()


class Store:
    """The state partition."""

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal
        self.failure: Exception | None = None

    def commit(self, entries: Mapping[str, bytes | None]) -> None:
        """Write a checkpoint."""
        if self.failure is not None:
            raise self.failure
        self.journal.append("committed" if any(not name.startswith("_owner") for name in entries) else "proved")

    def close(self) -> None:
        """Drop the rest."""
        self.journal.append("closed")


class Tools:
    """The worker."""

    def __init__(self, journal: list[str], pool: Executor) -> None:
        self.outputs: Any = HeldOutputs(journal)
        self.pool = pool
        self.interval = 3_600.0
        self.stood_still = 0
        self.failures: list[Exception] = []
        self.coming: Callable[[], Awaitable[None]] | None = None

    async def give_way(self) -> None:
        """Let a batch come in between."""
        coming, self.coming = self.coming, None
        if coming is not None:
            await coming()

    def pauses(self) -> int:
        """Return how often the process stood still."""
        return self.stood_still

    def at_end(self, _topic: str, _partition: int, _position: Position | None, _since: float) -> bool:
        """Everything is read."""
        return True

    def topics_of(self, tenant: str) -> Collection[str]:
        """Return the topics that are read."""
        return [tenant_topic(tenant, "ticks")]

    def fail(self, error: Exception) -> None:
        """End the process."""
        self.failures.append(error)


class Bench:
    """A lane over a world in memory, and a journal of what happened in which order."""

    def __init__(self, pool: Executor) -> None:
        self.journal: list[str] = []
        self.world = World()
        self.tools = Tools(self.journal, pool)
        self.outputs: HeldOutputs = self.tools.outputs
        self.store = Store(self.journal)
        self.lane = Lane(0, self.world.shard, self.store, self.tools)  # type: ignore[arg-type] # the store's two calls
        self.number = 0

    def batch(self, price: float = 100.0, product: str = "BTC-USD") -> tuple[Source, Intake]:
        """Append a record, a second after the last one, and return it as a batch."""
        self.number += 1
        self.world.now += SECOND
        self.world.append(TENANT, [make_tick(EXCHANGE, product, self.number, price, at=self.world.now)])
        source = self.world.source(TENANT, "ticks")
        return source, take_in(source, [block_from(self.world.logs[source.topic][-1:])])

    async def take(self, price: float = 100.0, product: str = "BTC-USD") -> None:
        """Fold a record."""
        await self.lane.take(*self.batch(price, product), lambda: self.journal.append("acked"), lambda: True)

    async def soon(self, work: Awaitable[Any]) -> asyncio.Future[Any]:
        """Start some work and let it go as far as it can, on the loop and in the pool's one thread."""
        task = asyncio.ensure_future(work)
        for _ in range(4):
            for _ in range(20):
                await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(self.tools.pool, lambda: None)
        return task


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fold every batch as it comes."""
    monkeypatch.setattr(pipeline, "HELD_AT_MOST", 0)


def on(scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> Bench:
    """Run a scenario on an event loop."""

    async def run() -> Bench:
        with ThreadPoolExecutor(1) as pool:
            bench = Bench(pool)
            await scenario(bench)
            return bench

    return asyncio.run(run())


@pytest.mark.usefixtures("at_once")
def test_a_checkpoint_waits_for_the_outputs_that_it_contains_and_batches_for_the_checkpoint() -> None:
    async def scenario(bench: Bench) -> None:
        bench.outputs.prompt = False
        await bench.take()
        await bench.take()
        assert "sent stats" in bench.journal

        checkpoint = await bench.soon(bench.lane.checkpoint())
        assert not {"committed", "acked"} & set(bench.journal)
        bench.outputs.acknowledge()
        await checkpoint

    assert on(scenario).journal[-3:] == ["committed", "acked", "acked"]


def test_what_the_clock_decides_leaves_after_its_checkpoint_only() -> None:
    async def scenario(bench: Bench) -> None:
        bench.world.put_rule(rule({"above": 102}, for_="2s"), "rule", 1)
        await bench.take(103.0)
        bench.journal.clear()
        bench.world.now += 10 * SECOND
        await bench.lane.tick(lambda _: True)
        assert "sent alerts" not in bench.journal

        await bench.lane.checkpoint()

    journal = on(scenario).journal
    assert journal.index("committed") < journal.index("sent alerts")


@pytest.mark.usefixtures("at_once")
def test_after_it_stood_still_the_process_proves_that_the_partition_is_its_own_before_it_folds_on() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.take()
        await bench.lane.checkpoint()
        bench.journal.clear()
        bench.tools.stood_still = 1

        await bench.take()

    assert on(scenario).journal[:2] == ["proved", "sent bars"]


def test_a_process_that_was_replaced_while_it_stood_still_folds_nothing_and_ends() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.take()
        bench.journal.clear()
        bench.tools.stood_still = 1
        bench.store.failure = FencedError("another worker has taken it over")

        with pytest.raises(FencedError):
            await bench.take()
        await asyncio.sleep(0)

    bench = on(scenario)
    assert bench.journal == []
    assert bench.tools.failures


@pytest.mark.usefixtures("at_once")
def test_no_clock_acts_while_the_ownership_is_in_doubt() -> None:
    async def scenario(bench: Bench) -> None:
        bench.outputs.prompt = False
        await bench.take()
        await bench.take()
        bench.journal.clear()
        bench.tools.stood_still = 1
        doubtful = await bench.soon(bench.take())
        bench.world.now += 100 * SECOND

        await bench.lane.tick(lambda _: True)

        assert bench.journal == ["proved"]
        bench.outputs.prompt = True
        bench.outputs.acknowledge()
        await doubtful

    on(scenario)


@pytest.mark.usefixtures("at_once")
def test_nothing_is_folded_while_a_checkpoint_is_too_long_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "UNCONFIRMED_LIMIT", 0.0)

    async def scenario(bench: Bench) -> None:
        bench.outputs.prompt = False
        await bench.take()
        await bench.take()
        checkpoint = await bench.soon(bench.lane.checkpoint())
        bench.journal.clear()

        further = await bench.soon(bench.take())

        assert bench.journal == []
        bench.outputs.prompt = True
        bench.outputs.acknowledge()
        await checkpoint
        await further
        assert "sent stats" in bench.journal

    on(scenario)


def test_a_checkpoint_that_cannot_be_written_ends_the_process_and_acknowledges_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.take()
        bench.store.failure = FencedError("another worker has taken it over")

        with pytest.raises(FencedError):
            await bench.lane.checkpoint()
        await asyncio.sleep(0)

    bench = on(scenario)
    assert "acked" not in bench.journal
    assert [type(error) for error in bench.tools.failures] == [FencedError]


def test_a_batch_that_is_not_wanted_any_more_is_dropped() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.lane.take(*bench.batch(), lambda: bench.journal.append("acked"), lambda: False)
        await bench.lane.checkpoint()

    bench = on(scenario)
    assert "acked" not in bench.journal
    assert bench.lane.shard.positions == {}


def test_a_lane_given_up_without_its_last_checkpoint_writes_none_later() -> None:
    async def scenario(bench: Bench) -> None:
        bench.outputs.prompt = False
        await bench.take()
        await bench.take()

        await bench.lane.close(0.01)
        bench.outputs.acknowledge()
        await bench.lane.checkpoint()
        await bench.soon(asyncio.sleep(0))

    journal = on(scenario).journal
    assert not {"committed", "acked"} & set(journal)


def test_a_lane_given_up_in_time_leaves_a_last_checkpoint() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.take()

        await bench.lane.close(5)

    assert on(scenario).journal[:2] == ["committed", "acked"]


def test_records_that_change_no_alert_wait_for_the_clock_and_are_not_acknowledged_before() -> None:
    async def scenario(bench: Bench) -> None:
        for _ in range(3):
            await bench.take()
        assert bench.journal == []

        await bench.lane.tick(lambda _: True)

        assert "sent stats" in bench.journal
        assert "acked" not in bench.journal
        await bench.lane.checkpoint()
        assert bench.journal[-4:] == ["committed", "acked", "acked", "acked"]

    on(scenario)


def test_a_record_that_changes_an_alert_is_folded_at_once_after_those_that_waited() -> None:
    async def scenario(bench: Bench) -> None:
        bench.world.put_rule(rule({"above": 102}), "rule", 1)
        await bench.take()
        bench.journal.clear()
        await bench.take()
        assert bench.journal == []

        await bench.take(103.0)

        assert bench.journal[0] == "sent alerts"
        assert bench.journal.count("sent bars") == 2

    on(scenario)


def test_a_batch_that_arrives_comes_between_records_that_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "RELEASE_FOR", 0.0)
    monkeypatch.setattr(lanes, "FEW", 0)

    async def scenario(bench: Bench) -> None:
        bench.world.put_rule(rule({"above": 102}), "rule", 1)
        products = [f"P{number}-USD" for number in range(4)]
        for product in [*products, *products]:
            await bench.take(product=product)
        assert bench.lane.shard.held == len(products)
        bench.journal.clear()
        bench.tools.coming = lambda: bench.take(103.0, products[-1])

        await bench.lane.tick(lambda _: True)

        assert bench.journal[0] == "sent alerts"
        assert bench.lane.shard.held == 0

    on(scenario)


def test_more_records_than_may_be_held_are_folded_before_more_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "HELD_AT_MOST", 3)

    async def scenario(bench: Bench) -> None:
        await bench.take()
        for _ in range(3):
            await bench.take()
        assert bench.lane.shard.held
        assert bench.journal == []

        await bench.take()

        assert not bench.lane.shard.held
        assert "sent bars" in bench.journal

    on(scenario)


def test_a_checkpoint_holds_what_waited_and_its_outputs_come_before_it() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.take()
        await bench.take()
        await bench.take()

        await bench.lane.checkpoint()

        assert "sent stats" in bench.journal[: bench.journal.index("committed")]
        assert bench.lane.shard.positions["ps.acme.ticks.v1"].next_offset == 3

    on(scenario)


def test_after_it_stood_still_nothing_that_waited_leaves_before_the_proof() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.take()
        await bench.take()
        await bench.take()
        bench.journal.clear()
        bench.tools.stood_still = 1
        bench.store.failure = FencedError("another worker has taken it over")

        with pytest.raises(FencedError):
            await bench.lane.checkpoint()
        await asyncio.sleep(0)

    bench = on(scenario)
    assert bench.journal == []
    assert bench.tools.failures


def test_what_waits_of_a_parked_tenant_is_dropped_and_read_again() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.take()
        await bench.take()

        bench.lane.park(TENANT)
        await bench.lane.checkpoint()

        assert bench.lane.shard.positions == {}
        assert "acked" not in bench.journal

    on(scenario)
