"""Token buckets: in any window no more than burst and rate, whoever else draws and whatever is forgotten."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from api.auth import Caller
from api.limits.accounts import Accounts
from api.limits.bucket import SECOND, Bucket, Shape, Twice
from api.limits.plan import BURST, Plan, plans
from api.limits.tiers import TIERS, Tier

RATES = st.integers(1, 100_000)
GAPS = st.one_of(st.integers(0, 1000), st.integers(0, 30 * SECOND))
DRAWS = st.lists(st.tuples(GAPS, st.integers(1, 1000)), max_size=60)
"""Nanoseconds since the last draw, and how many tokens this one wants."""
Passed = Sequence[tuple[int, int]]


def passed_by_one(shape: Shape, draws: Passed, begin: int = 0) -> list[tuple[int, int]]:
    """Return when how many tokens passed a bucket that was asked for these."""
    bucket, now, passed = Bucket(), begin, []
    for gap, tokens in draws:
        now += gap
        if not bucket.wait(shape, tokens, now):
            bucket.take(shape, tokens, now)
            passed.append((now, tokens))
    return passed


def assert_bounded(passed: Passed, burst: int, rate: Fraction) -> None:
    """Fail where a window that begins and ends with a draw let more pass than burst and rate (a nanosecond) allow."""
    total, least = 0, Fraction(0)
    for at, tokens in passed:
        least = min(least, total - rate * at)  # of windows that begin here or before
        total += tokens
        assert total - rate * at - least <= burst


@given(rate=RATES, seconds=st.integers(1, 60), share=st.integers(1, 64), draws=DRAWS)
def test_no_window_lets_more_pass_than_the_burst_and_the_rate(
    rate: int, seconds: int, share: int, draws: Passed
) -> None:
    shape = Shape.of(rate, seconds, share=share, at_least=1000)

    assert_bounded(passed_by_one(shape, draws), shape.burst, Fraction(rate, share * SECOND))


@given(rate=st.integers(1, 10_000), draws=DRAWS)
def test_a_bucket_is_a_counter_that_is_filled_all_the_time(rate: int, draws: Passed) -> None:
    shape = Shape.of(rate, 10)
    level, last, expected = Fraction(shape.burst), 0, []
    for at, tokens in _at(draws):
        level = min(Fraction(shape.burst), level + Fraction(at - last, shape.cost))
        last = at
        if tokens <= level:
            level -= tokens
            expected.append((at, tokens))

    assert passed_by_one(shape, draws) == expected


@given(rate=RATES, draws=DRAWS)
def test_what_is_left_can_be_taken_and_no_more_and_the_wait_is_exact(rate: int, draws: Passed) -> None:
    shape, bucket, now = Shape.of(rate, 10, at_least=1000), Bucket(), 0
    for gap, tokens in draws:
        now += gap
        left = bucket.left(shape, now)
        assert bucket.wait(shape, left, now) == 0
        assert bucket.wait(shape, left + 1, now) > 0
        wait = bucket.wait(shape, tokens, now)
        assert bucket.wait(shape, tokens, now + wait) == 0
        assert wait == 0 or bucket.wait(shape, tokens, now + wait - 1) == 1
        if not wait:
            bucket.take(shape, tokens, now)


@given(rates=st.tuples(st.integers(1, 200), st.integers(1, 200)), draws=DRAWS)
@example(rates=(1, 100), draws=[(0, 10), (0, 1)])
@example(rates=(100, 1), draws=[(0, 10), (0, 1)])
def test_two_buckets_at_once_are_two_buckets_and_take_from_both_or_from_none(
    rates: tuple[int, int], draws: Passed
) -> None:
    shapes = [Shape.of(rate, 10) for rate in rates]
    plain = [Bucket(), Bucket()]
    both = Twice(Bucket(), shapes[0], Bucket(), shapes[1])
    for at, tokens in _at(draws):
        waits = tuple(bucket.wait(shape, tokens, at) for bucket, shape in zip(plain, shapes, strict=True))
        assert both.waits(tokens, at) == waits
        assert both.left(at) == tuple(bucket.left(shape, at) for bucket, shape in zip(plain, shapes, strict=True))
        if not any(waits):
            for bucket, shape in zip(plain, shapes, strict=True):
                bucket.take(shape, tokens, at)
        assert both.take(tokens, at) is not any(waits)


@example(rate=10, gaps=[100 * SECOND] * 5, tokens=1000)
@given(rate=RATES, gaps=st.lists(GAPS, min_size=1, max_size=5), tokens=st.integers(1, 1000))
def test_processes_together_let_no_more_pass_than_the_tier_says(rate: int, gaps: list[int], tokens: int) -> None:
    processes = len(gaps)
    plan = plan_of(Tier(rate, rate, 1, 1, 1, 1, 1, 1, 1, 1, 1), processes)
    passed = sorted(at for gap in gaps for at in passed_by_one(plan.events, [(gap, tokens)] * 100))

    assert_bounded(passed, processes * plan.events.burst, Fraction(rate, SECOND))
    assert processes * plan.events.burst <= max(rate * BURST, processes * 1000)


def test_a_batch_of_the_most_events_passes_under_every_tier_however_many_processes_share_it() -> None:
    for tier in TIERS.values():
        for processes in (1, 7, 1000):
            plan = plan_of(tier, processes)
            assert passed_by_one(plan.events, [(0, 1000)]) == passed_by_one(plan.key_events, [(0, 1000)]) != []


def _at(draws: Passed) -> list[tuple[int, int]]:
    now, found = 0, []
    for gap, tokens in draws:
        now += gap
        found.append((now, tokens))
    return found


def plan_of(tier: Tier, processes: int = 1) -> Plan:
    return plans({"free": tier}, processes)["free"]


# ---- accounts ----

TENTH = SECOND // 10
TWO, THREE = st.integers(0, 1), st.integers(0, 2)
SMALL = {"free": Tier(5, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1), "pro": Tier(50, 50, 1, 1, 1, 1, 1, 1, 1, 1, 1)}


def caller(number: int, tenant: int = 0, tier: str = "free") -> Caller:
    return Caller(f"tenant-{tenant}", "owner", f"key-{tenant}-{number}", tier)


class Remembering:
    """Accounts that forget nothing: what the real ones have to equal."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.buckets: dict[str, Bucket] = {}

    def take(self, who: Caller, now: int) -> bool:
        both = Twice(
            self.buckets.setdefault(who.tenant, Bucket()),
            self.plan.requests,
            self.buckets.setdefault(who.key_id, Bucket()),
            self.plan.key_requests,
        )
        return both.take(1, now)


@given(st.lists(st.tuples(st.sampled_from((0, 0, TENTH, 14 * TENTH, 29 * TENTH)), TWO, THREE), max_size=100))
@example([(0, 0, 0), (29 * TENTH, 0, 0), (0, 0, 1), (0, 0, 1), (2 * TENTH, 0, 2)])
def test_no_account_is_forgotten_before_it_is_full(asked: list[tuple[int, int, int]]) -> None:
    three, two = Shape(3, SECOND), Shape(2, SECOND)
    plan = replace(plans(SMALL, 1)["free"], requests=three, key_requests=two, events=three, key_events=two)
    accounts, oracle, now = Accounts({"free": plan}), Remembering(plan), 0
    for gap, tenant, key in asked:
        now += gap
        who = caller(key, tenant)
        assert accounts.draw(who, now).requests.take(1, now) is oracle.take(who, now)


def test_accounts_of_many_tenants_go_once_they_are_full() -> None:
    accounts = Accounts(plans(TIERS, 1))
    everybody = [caller(key, tenant) for tenant in range(10_000) for key in range(3)]
    for who in everybody:
        accounts.draw(who, 0).requests.take(1, 0)
    assert len(accounts) == 40_000

    now = 0
    for turn in range(1, 4):
        now = turn * BURST * SECOND
        accounts.draw(everybody[0], now)

    assert len(accounts) == 2


def test_callers_that_come_and_go_for_ever_hold_no_more_than_those_of_two_turns() -> None:
    accounts, held = Accounts(plans(TIERS, 1)), []
    for number in range(3_000):
        accounts.draw(caller(number), number * SECOND)
        held.append(len(accounts))

    assert max(held) <= 2 * BURST + 2


def test_a_tenants_keys_share_its_buckets_and_no_key_has_them_all() -> None:
    accounts = Accounts(plans(SMALL, 1))

    passed = [sum(accounts.draw(caller(key), 0).requests.take(1, 0) for _ in range(100)) for key in range(3)]

    assert passed == [40, 10, 0]


def test_a_change_of_tier_holds_at_once_and_fills_nothing() -> None:
    accounts = Accounts(plans(SMALL, 1))
    while accounts.draw(caller(0), 0).requests.take(1, 0):
        pass

    risen = accounts.draw(caller(0, tier="pro"), 0)

    assert risen.plan.tier == "pro"
    assert risen.requests.left(0)[1] == 0
    assert sum(risen.requests.take(1, SECOND) for _ in range(100)) == 40


def test_a_change_of_tier_leaves_no_debt_however_long_the_old_bucket_takes_to_fill() -> None:
    accounts = Accounts(plans(SMALL, 1))
    while accounts.draw(caller(0), 0).events.take(1, 0):
        pass

    risen = accounts.draw(caller(0, tier="pro"), 0)

    assert risen.events.waits(1, 0) == (risen.plan.events.cost, risen.plan.key_events.cost)


def test_every_answer_of_a_key_draws_on_one_pair_of_buckets() -> None:
    accounts = Accounts(plans(SMALL, 1))
    moments = range(0, 60 * SECOND, SECOND)

    tenants = [accounts.draw(caller(at % 2), at).tenant for at in moments]

    assert all(one is other for one, other in pairwise(tenants))
