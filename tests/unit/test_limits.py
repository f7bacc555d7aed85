"""Tiers from their setting, header fields by their grammar, and what an address may try."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import errors, keys
from api.auth import Caller
from api.errors import Problem
from api.limits.addresses import Addresses, check_networks, group_of
from api.limits.bucket import SECOND, Shape
from api.limits.entrance import FAILURES, WITHIN, Entrance
from api.limits.limiter import Limiter
from api.limits.tiers import TIERS, tiers
from api.limits.usage import Counts, Usage
from pulsestream.core.errors import SettingsError

TODAY = date(2026, 1, 31)
FREE = Caller("acme", "owner", "key", "free")
ITEM = re.compile(r'"([a-z-]+)"((?:;[a-z]+=(?:[0-9]{1,15}|"[a-z]+"))*)')


def parsed(value: bytes) -> dict[str, dict[str, str]]:
    """Take a List of Strings with parameters (RFC 9651) apart; fails for anything else."""
    found = {}
    for item in value.decode("ascii").split(", "):
        match = ITEM.fullmatch(item)
        assert match is not None, item
        found[match[1]] = dict(part.split("=") for part in match[2].split(";")[1:])
    return found


def limiter(text: str = "", processes: int = 1, now: int = 0) -> Limiter:
    return Limiter(tiers(text), processes, lambda: now, Usage(TODAY))


# ---- tiers ----


def test_a_higher_tier_has_less_of_nothing() -> None:
    free, pro, enterprise = (asdict(TIERS[name]) for name in ("free", "pro", "enterprise"))

    assert all(free[name] < pro[name] < enterprise[name] for name in free)


def test_a_setting_changes_the_figures_that_it_names_and_no_other() -> None:
    changed = tiers(" free.events=7 ,pro.keys=0,, ")

    assert changed is not None
    assert (changed["free"].events, changed["pro"].keys) == (7, 0)
    assert (changed["free"].requests, changed["enterprise"]) == (TIERS["free"].requests, TIERS["enterprise"])


@pytest.mark.parametrize(
    "text",
    [
        "free",
        "free.events",
        "free.events=",
        "free.events=-1",
        "free.events=1.5",
        "free.events=0",
        "gold.events=1",
        "free.event=1",
        "free.rules=1000000001",
        "free.rules=²",
        "off, free.rules=1",
        "free.rules=1;pro.rules=2",
    ],
)
def test_a_wrong_setting_is_one_error_that_quotes_it(text: str) -> None:
    with pytest.raises(SettingsError, match=r"PULSESTREAM_LIMITS has '(f|g|o)"):
        tiers(text)


def test_off_limits_nothing() -> None:
    unlimited, scope = limiter("off"), dict[str, Any]()

    for _ in range(1000):
        unlimited.admit(FREE, scope)
        unlimited.spend(FREE, 1000)

    assert (scope, unlimited.fields(scope), unlimited.event_fields(scope)) == ({}, (), ())


# ---- header fields ----


def test_the_policies_of_a_tier_are_what_its_buckets_hold() -> None:
    scope: dict[str, Any] = {}
    limited = limiter("free.requests=5, free.events=500")
    limited.admit(FREE, scope)

    fields = dict(limited.event_fields(scope))

    assert parsed(fields[b"ratelimit-policy"]) == {
        "requests": {"q": "50", "w": "10"},
        "key-requests": {"q": "40", "w": "10"},
        "events": {"q": "5000", "w": "10", "qu": '"events"'},
        "key-events": {"q": "4000", "w": "10", "qu": '"events"'},
    }
    assert parsed(fields[b"ratelimit"]) == {
        "requests": {"r": "49", "t": "1"},
        "key-requests": {"r": "39", "t": "1"},
        "events": {"r": "5000", "t": "1"},
        "key-events": {"r": "4000", "t": "1"},
    }


def test_answers_that_no_events_were_for_tell_of_requests_only() -> None:
    scope: dict[str, Any] = {}
    limited = limiter()
    limited.admit(FREE, scope)

    assert [[*parsed(value)] for _, value in limited.fields(scope)] == [["requests", "key-requests"]] * 2


def test_a_process_of_several_tells_of_its_share() -> None:
    scope: dict[str, Any] = {}
    limited = limiter("free.requests=5", processes=10)
    limited.admit(FREE, scope)

    policy, left = (parsed(value) for _, value in limited.fields(scope))

    assert policy["requests"] == {"q": "5", "w": "10"}
    assert left["requests"] == {"r": "4", "t": "2"}


def test_a_refusal_names_the_policies_and_when_to_come_again() -> None:
    scope: dict[str, Any] = {}
    limited = limiter("free.requests=5")
    for _ in range(40):
        limited.admit(FREE, scope)

    with pytest.raises(Problem, match="rate-limited") as raised:
        limited.admit(FREE, scope)

    assert (raised.value.status, raised.value.headers) == (429, {"Retry-After": "1"})
    assert raised.value.body()["violated-policies"] == ["key-requests"]
    assert parsed(limited.fields(scope)[1][1])["key-requests"] == {"r": "0", "t": "1"}


def test_a_batch_that_does_not_fit_takes_nothing() -> None:
    limited = limiter("free.events=100")
    limited.spend(FREE, 900)

    with pytest.raises(Problem) as raised:
        limited.spend(FREE, 101)

    assert raised.value.headers["Retry-After"] == "1"
    limited.spend(FREE, 100)
    with pytest.raises(Problem) as raised:
        limited.spend(FREE, 1000)
    assert raised.value.body()["violated-policies"] == ["events", "key-events"]
    assert raised.value.headers["Retry-After"] == "13"


@given(st.integers(1, 10**9), st.integers(1, 1000), st.integers(0, 60))
def test_the_fields_are_structured_whatever_the_figures(rate: int, processes: int, seconds: int) -> None:
    limited = limiter(f"free.requests={rate}, free.events={rate}", processes, seconds * SECOND)
    scope: dict[str, Any] = {}
    limited.admit(FREE, scope)

    policy, left = (parsed(value) for _, value in limited.event_fields(scope))

    assert policy.keys() == left.keys()
    assert all(int(left[name]["r"]) <= int(policy[name]["q"]) and int(left[name]["t"]) >= 1 for name in policy)


# ---- usage ----


def counted(usage: Usage) -> dict[tuple[date, str], int]:
    """Return the requests in all batches by day and tenant."""
    found: dict[tuple[date, str], int] = {}
    for batch in usage.waiting:
        for tenant, counts in batch.counts.items():
            found[batch.day, tenant] = found.get((batch.day, tenant), 0) + counts.requests
    return found


def test_every_request_is_counted_and_of_the_refused_ones_that_they_were() -> None:
    limited = limiter("free.requests=5")
    for _ in range(45):
        with suppress(Problem):
            limited.admit(FREE, {})
    limiter_off = limiter("off")
    limiter_off.admit(FREE, {})

    assert (limited.usage.of("acme").requests, limited.usage.of("acme").refused) == (45, 5)
    assert limiter_off.usage.of("acme").requests == 1


@given(
    st.lists(st.one_of(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), st.sampled_from(["close", "send", "day"])))
)
def test_batches_hold_all_that_was_counted_by_day_and_none_changes_once_it_was_sent(does: list[Any]) -> None:
    usage, day, expected, sent = Usage(TODAY), TODAY, dict[tuple[date, str], int](), dict[int, tuple[Any, ...]]()
    for doing in does:
        match doing:
            case "close":
                usage.close(day)
            case "day":
                day += timedelta(days=1)
                usage.close(day)
            case "send" if usage.waiting:
                usage.waiting[0].is_sent = True
                sent.setdefault(usage.waiting[0].number, _contents(usage.waiting[0].counts))
            case (tenant, count):
                usage.of(tenant).requests += count
                expected[day, tenant] = expected.get((day, tenant), 0) + count
    usage.close(day)

    assert counted(usage) == expected
    numbers = [batch.number for batch in usage.waiting]
    assert numbers == sorted(set(numbers))
    assert all(_contents(batch.counts) == sent.get(batch.number, _contents(batch.counts)) for batch in usage.waiting)


def _contents(counts: Mapping[str, Counts]) -> tuple[Any, ...]:
    return tuple((tenant, each.requests) for tenant, each in counts.items())


def test_an_outage_of_hours_leaves_two_batches_of_a_day_not_one_for_each_minute() -> None:
    usage = Usage(TODAY)
    for _ in range(500):
        usage.of("acme").requests += 1
        usage.close(TODAY)
        usage.waiting[0].is_sent = True

    assert [batch.counts["acme"].requests for batch in usage.waiting] == [1, 499]


# ---- addresses ----

ONE_A_SECOND = Shape(3, SECOND)


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("not an address", ""),
    ],
)
def test_addresses_of_one_host_are_one(address: str, group: str) -> None:
    assert group_of(address) == group


def test_an_address_that_has_failed_too_often_waits_and_no_other_does() -> None:
    table = Addresses(ONE_A_SECOND)

    for _ in range(3):
        assert table.wait("192.0.2.7", 0) == 0
        table.count("192.0.2.7", 0)

    assert table.wait("192.0.2.7", 0) == SECOND
    assert table.wait("192.0.2.8", 0) == 0
    assert table.wait("192.0.2.7", SECOND) == 0


@given(st.lists(st.tuples(st.integers(0, 2 * SECOND), st.integers(0, 5)), max_size=100))
def test_no_address_is_forgotten_before_it_may_fail_again(tries: list[tuple[int, int]]) -> None:
    table, tried, now = Addresses(ONE_A_SECOND), dict[int, list[int]](), 0
    for gap, address in tries:
        now += gap
        if table.wait(f"192.0.2.{address}", now) == 0:
            table.count(f"192.0.2.{address}", now)
            tried.setdefault(address, []).append(now)

    for moments in tried.values():
        for first, began in enumerate(moments):
            for count, at in enumerate(moments[first:], 1):
                assert count * SECOND <= 3 * SECOND + at - began


def test_a_flood_of_addresses_grows_nothing_and_frees_nobody() -> None:
    table = Addresses(ONE_A_SECOND, most=100)
    for _ in range(3):
        table.count("192.0.2.7", 0)

    for number in range(10_000):
        table.count(f"2001:db8:{number:x}::1", 0)

    assert len(table) == 100
    assert table.wait("192.0.2.7", 0) > 0
    assert table.wait("203.0.113.1", 0) > 0
    assert table.wait("203.0.113.1", 10 * SECOND) == 0


def test_a_table_is_empty_again_when_nobody_fails() -> None:
    table = Addresses(ONE_A_SECOND)
    for number in range(50):
        table.count(f"192.0.2.{number}", 0)

    assert table.wait("192.0.2.1", 60 * SECOND) == 0
    assert len(table) == 0


@pytest.mark.parametrize("text", ["", "10.0.0.7", "10.0.0.7, 10.1.0.0/16,fd00::/8"])
def test_addresses_and_networks_can_be_trusted(text: str) -> None:
    check_networks(text)


@pytest.mark.parametrize("text", ["*", "proxy.example", "10.0.0.1/8", "10.0.0.0/33"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="PULSESTREAM_TRUSTED_PROXIES"):
        check_networks(text)


# ---- entrance ----


class Authenticating:
    """Stands for the authenticator: it knows one key, and counts what it is asked."""

    def __init__(self, good: str, refusal: Problem) -> None:
        self.good = good
        self.refusal = refusal
        self.known = set[str]()
        self.asked = 0

    def recent(self, text: bytes) -> Caller | None:
        del text
        return None

    def remembers(self, text: str) -> bool:
        return text in self.known

    async def caller(self, text: str | None) -> Caller:
        self.asked += 1
        if text != self.good:
            raise self.refusal
        self.known.add(text)
        return FREE


def tries(entrance: Entrance, *texts: str | None, address: str = "192.0.2.7") -> list[int]:
    """Return the status of each try; 200 for a caller."""

    async def each() -> list[int]:
        statuses = []
        for text in texts:
            try:
                await entrance.caller(text, {"client": (address, 1)})
            except Problem as problem:
                statuses.append(problem.status)
            else:
                statuses.append(200)
        return statuses

    return asyncio.run(each())


def entering(refusal: Problem, text: str = "") -> tuple[Entrance, Authenticating, str]:
    good = keys.generate().text
    asked = Authenticating(good, refusal)
    return Entrance(asked, limiter(text), lambda: 0), asked, good  # type: ignore[arg-type] # the part of it that is used


def test_bad_keys_of_an_address_are_refused_before_anything_is_looked_up() -> None:
    entrance, asked, good = entering(errors.unauthorized("no"))

    assert tries(entrance, *["bad"] * FAILURES) == [401] * FAILURES
    assert tries(entrance, "bad", good) == [429, 429]
    assert asked.asked == FAILURES
    assert tries(entrance, "bad", address="192.0.2.8") == [401]


def test_a_key_that_was_valid_is_taken_from_an_address_that_guesses() -> None:
    entrance, _, good = entering(errors.unauthorized("no"))

    assert tries(entrance, good, *["bad"] * (FAILURES + 1), good) == [200, *[401] * FAILURES, 429, 200]


def test_keys_of_a_suspended_tenant_count_as_bad_ones() -> None:
    entrance, asked, _ = entering(errors.forbidden("suspended"))

    assert tries(entrance, *["theirs"] * (FAILURES + 1)) == [403] * FAILURES + [429]
    assert asked.asked == FAILURES


def test_neither_no_key_nor_a_fault_of_ours_counts_as_a_bad_key() -> None:
    entrance, _, good = entering(errors.database_away())

    assert set(tries(entrance, *["any"] * 100, *[None, ""] * 100)) == {503}
    assert tries(entrance, good) == [200]


def test_the_refusal_of_an_address_says_when_to_come_again() -> None:
    entrance, _, _ = entering(errors.unauthorized("no"))
    tries(entrance, *["bad"] * FAILURES)

    with pytest.raises(Problem, match="too-many-bad-keys") as raised:
        asyncio.run(entrance.caller("bad", {"client": ("192.0.2.7", 2)}))

    assert raised.value.headers == {"Retry-After": str(WITHIN // FAILURES)}


def test_where_limits_are_off_addresses_are_not_counted() -> None:
    entrance, _, _ = entering(errors.unauthorized("no"), "off")

    assert set(tries(entrance, *["bad"] * 100)) == {401}
