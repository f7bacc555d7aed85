"""The first trade at a time, found by id."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from producers.history_search import first_id_at
from schemas.records import Trade
from tests.support.trading import make_trade

PAGE = 10


def search(times: dict[int, int], at: int) -> tuple[int, int]:
    """Return the id and the number of questions; `times` by id."""
    ids = sorted(times)
    asked = 0

    def page(wanted: list[int]) -> list[Trade]:
        return [make_trade("B", number, 0, exchange_time=times[number]) for number in wanted]

    async def ask(from_id: int) -> Sequence[Trade]:
        nonlocal asked
        asked += 1
        return page([number for number in ids if number < from_id + PAGE][-PAGE:])

    return asyncio.run(first_id_at(at, page(ids[-PAGE:]), ask)), asked


@given(
    st.lists(st.integers(0, 1_000_000), min_size=1, max_size=400).map(sorted),
    st.integers(-10, 1_000_010),
    st.integers(1, 500),
)
def test_the_first_trade_at_a_time_is_found(moments: list[int], at: int, first: int) -> None:
    times = {first + number: moment for number, moment in enumerate(moments)}

    found, _ = search(times, at)

    assert found == min((number for number, moment in times.items() if moment >= at), default=max(times) + 1)


def test_a_market_that_slept_for_years_costs_few_questions() -> None:
    times = {number: number for number in range(1, 50_001)} | {
        number: 10**12 + number * 1_000 for number in range(50_001, 100_001)
    }

    found, asked = search(times, 10**12 + 70_000_000)

    assert found == 70_000
    assert asked < 40


def test_ids_that_begin_at_a_large_number_cost_few_questions() -> None:
    times = {10**15 + number: number * 1_000_000 for number in range(100_000)}

    found, asked = search(times, 3_000_000_000)

    assert found == 10**15 + 3_000
    assert asked < 10


def test_a_time_before_the_first_trade_costs_few_questions() -> None:
    times = {10**15 + number: number * 1_000_000 for number in range(1_000)}

    found, asked = search(times, -1)

    assert found == 10**15
    assert asked < 60
