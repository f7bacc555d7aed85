"""Keys to callers, and the cache between them and the database."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from api import errors, keys
from api.auth import FRESH, ROLES, STALE, Authenticator, Caller, Permission, StoredKey
from api.cache import AnswerCache
from api.errors import Problem
from pulsestream.core.clock import to_datetime

NOW = 1_618_677_817_056_746
PEPPERS = {1: b"pepper of the tests"}


@dataclass
class Keys:
    """Stored keys, and how often they were asked for."""

    stored: dict[str, StoredKey] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    away: bool = False
    now: float = 0.0

    def add(self, **changes: object) -> keys.ApiKey:
        key = keys.generate()
        row = StoredKey("acme", "owner", keys.digest(key, PEPPERS[1]), 1, None, None, "active", "free")
        self.stored[key.id] = replace(row, **changes)  # type: ignore[arg-type] # fields of StoredKey
        return key

    async def find(self, key_id: str) -> StoredKey | None:
        self.asked.append(key_id)
        await asyncio.sleep(0)
        if self.away:
            raise errors.database_away()
        return self.stored.get(key_id)

    def authenticator(self) -> Authenticator:
        return Authenticator(self.find, PEPPERS, lambda: NOW, lambda: self.now)


def status_of(call: Awaitable[object]) -> int:
    async def run() -> None:
        await call

    with pytest.raises(Problem) as raised:
        asyncio.run(run())
    return raised.value.status


def test_a_valid_key_gives_its_tenant_and_role() -> None:
    known = Keys()
    key = known.add(role="viewer", tier="pro")

    assert asyncio.run(known.authenticator().caller(key.text)) == Caller("acme", "viewer", key.id, "pro")


@pytest.mark.parametrize("text", [None, "", "secret", "ps_live_a_b_c"])
def test_what_is_no_key_is_401_without_asking_the_database(text: str | None) -> None:
    known = Keys()

    assert status_of(known.authenticator().caller(text)) == 401
    assert known.asked == []


def test_a_key_that_is_not_stored_is_401() -> None:
    assert status_of(Keys().authenticator().caller(keys.generate().text)) == 401


def test_the_right_id_with_another_secret_is_401() -> None:
    known = Keys()
    key = known.add()

    assert status_of(known.authenticator().caller(keys.ApiKey(key.id, keys.generate().secret).text)) == 401


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"revoked_at": to_datetime(NOW - 1)}, 401),
        ({"expires_at": to_datetime(NOW)}, 401),
        ({"pepper_version": 2}, 401),
        ({"tenant_status": "suspended"}, 403),
        ({"tenant_status": "deleted"}, 403),
    ],
)
def test_a_key_that_may_not_be_used_is_refused(changes: dict[str, object], status: int) -> None:
    known = Keys()
    key = known.add(**changes)

    assert status_of(known.authenticator().caller(key.text)) == status


def test_a_key_that_expires_later_is_taken() -> None:
    known = Keys()
    key = known.add(expires_at=to_datetime(NOW + 1))

    assert asyncio.run(known.authenticator().caller(key.text)).tenant == "acme"


def test_a_revoked_key_is_refused_within_seconds() -> None:
    known = Keys()
    key = known.add()

    async def scenario() -> None:
        authenticator = known.authenticator()
        await authenticator.caller(key.text)
        known.stored[key.id] = replace(known.stored[key.id], revoked_at=to_datetime(NOW))
        known.now += FRESH + 0.1
        await authenticator.caller(key.text)

    assert status_of(scenario()) == 401


def test_a_key_that_was_revoked_while_the_database_was_asked_lives_no_longer_for_the_time_that_took() -> None:
    known = Keys()
    key = known.add()
    found = known.find

    async def slowly(key_id: str) -> StoredKey | None:
        stored = await found(key_id)
        known.now += FRESH
        return stored

    async def scenario() -> None:
        authenticator = Authenticator(slowly, PEPPERS, lambda: NOW, lambda: known.now)
        await authenticator.caller(key.text)
        known.stored[key.id] = replace(known.stored[key.id], revoked_at=to_datetime(NOW))
        known.now += 0.1
        assert authenticator.recent(key.text.encode()) is None
        await authenticator.caller(key.text)

    assert status_of(scenario()) == 401


def test_a_key_that_is_forgotten_is_asked_for_again_also_when_an_answer_was_on_its_way() -> None:
    known = Keys()
    key = known.add()
    asked, answer = asyncio.Event(), asyncio.Event()
    found = known.find

    async def held_up(key_id: str) -> StoredKey | None:
        stored = await found(key_id)
        asked.set()
        await answer.wait()
        return stored

    async def scenario() -> None:
        authenticator = Authenticator(held_up, PEPPERS, lambda: NOW, lambda: known.now)
        before = asyncio.create_task(authenticator.caller(key.text))
        await asked.wait()
        known.stored[key.id] = replace(known.stored[key.id], revoked_at=to_datetime(NOW))
        authenticator.forget(key.id)
        answer.set()
        await before
        assert authenticator.recent(key.text.encode()) is None
        await authenticator.caller(key.text)

    assert status_of(scenario()) == 401


def test_a_key_is_not_taken_for_what_it_was_before_somebody_else_asked_about_it() -> None:
    known = Keys()
    key = known.add()

    async def scenario() -> None:
        authenticator = known.authenticator()
        await authenticator.caller(key.text)
        known.stored[key.id] = replace(known.stored[key.id], revoked_at=to_datetime(NOW))
        known.now += FRESH + 0.1
        with pytest.raises(Problem):
            await authenticator.still(key.id)  # as the live view does; the newer answer is fresh now
        assert authenticator.recent(key.text.encode()) is None
        await authenticator.caller(key.text)

    assert status_of(scenario()) == 401


def test_a_key_ends_on_time_also_where_it_was_just_asked_for() -> None:
    known = Keys()
    key = known.add(expires_at=to_datetime(NOW + 1))
    wall = NOW

    async def scenario() -> None:
        nonlocal wall
        authenticator = Authenticator(known.find, PEPPERS, lambda: wall, lambda: known.now)
        await authenticator.caller(key.text)
        assert authenticator.recent(key.text.encode()) is not None
        wall = NOW + 1
        assert authenticator.recent(key.text.encode()) is None
        await authenticator.caller(key.text)

    assert status_of(scenario()) == 401


def test_ids_that_no_key_has_are_asked_for_once_and_push_no_known_key_out() -> None:
    known = Keys()
    key = known.add()

    async def scenario() -> None:
        authenticator = known.authenticator()
        await authenticator.caller(key.text)
        for text in [keys.generate().text for _ in range(10_001)]:
            for _ in range(2):
                with pytest.raises(Problem):
                    await authenticator.caller(text)
        known.away = True
        assert authenticator.recent(key.text.encode()) is not None

    asyncio.run(scenario())

    assert len(known.asked) == 1 + 10_001


def test_a_key_that_was_deleted_is_not_taken_again_when_the_database_goes_away() -> None:
    known = Keys()
    key = known.add()

    async def scenario() -> None:
        authenticator = known.authenticator()
        await authenticator.caller(key.text)
        del known.stored[key.id]
        known.now += FRESH + 0.1
        with pytest.raises(Problem, match="unknown"):
            await authenticator.caller(key.text)
        known.now += FRESH + 0.1
        known.away = True
        await authenticator.caller(key.text)

    assert status_of(scenario()) == 503


def test_a_key_in_use_is_noted_at_least_once_in_the_seconds_that_it_is_fresh_and_no_refusal_is() -> None:
    known = Keys()
    key, ended = known.add(), known.add(revoked_at=to_datetime(NOW))
    noted: list[str] = []

    async def scenario() -> None:
        authenticator = Authenticator(known.find, PEPPERS, lambda: NOW, lambda: known.now, noted.append)
        for _ in range(2):
            assert authenticator.recent(key.text.encode()) is None
            await authenticator.caller(key.text)
            for _ in range(10):
                assert authenticator.recent(key.text.encode())
                known.now += FRESH / 10 - 0.001
            known.now += 0.011
        for text in (ended.text, keys.ApiKey(key.id, ended.secret).text):
            with pytest.raises(Problem):
                await authenticator.caller(text)

    asyncio.run(scenario())

    assert noted == [key.id] * 2


def test_a_known_key_is_taken_while_the_database_is_away_but_not_for_ever() -> None:
    known = Keys()
    key = known.add()

    async def scenario() -> None:
        authenticator = known.authenticator()
        await authenticator.caller(key.text)
        known.away = True
        known.now += STALE - 1
        assert (await authenticator.caller(key.text)).tenant == "acme"
        known.now += 2
        await authenticator.caller(key.text)

    assert status_of(scenario()) == 503


def test_requests_at_once_ask_the_database_once() -> None:
    known = Keys()
    key = known.add()

    async def scenario() -> None:
        authenticator = known.authenticator()
        await asyncio.gather(*(authenticator.caller(key.text) for _ in range(50)))

    asyncio.run(scenario())

    assert known.asked == [key.id]


def test_a_viewer_may_read_everything_but_keys_logins_channels_and_the_audit_and_write_nothing() -> None:
    assert {permission.value for permission in ROLES["viewer"]} == {
        permission.value for permission in Permission if permission.value.endswith(":read")
    } - {"keys:read", "kafka-credentials:read", "channels:read", "audit:read"}


def test_a_missing_permission_is_403_and_says_which_roles_have_it() -> None:
    with pytest.raises(Problem, match="needs one of: owner, admin") as raised:
        Caller("acme", "viewer", "id", "free").require(Permission.RULES_WRITE)

    assert raised.value.status == 403


def cache_of(load: Callable[[str], Awaitable[int]], **options: float) -> AnswerCache[int]:
    return AnswerCache(load, lambda: 0.0, **({"fresh": 1.0} | options))  # type: ignore[arg-type] # size is an int


def test_the_cache_holds_no_more_than_its_size_and_drops_the_least_used() -> None:
    asked: list[str] = []

    async def load(key: str) -> int:
        asked.append(key)
        return len(asked)

    async def scenario() -> None:
        cache = cache_of(load, size=2)
        for key in ("a", "b", "a", "c", "a", "b"):
            await cache.get(key)

    asyncio.run(scenario())

    assert asked == ["a", "b", "c", "b"]


def test_a_cancelled_request_does_not_fail_the_others_that_wait_for_the_same_answer() -> None:
    gate = asyncio.Event()

    async def load(_: str) -> int:
        await gate.wait()
        return 7

    async def scenario() -> int:
        cache = cache_of(load)
        first = asyncio.create_task(cache.get("a"))
        second = asyncio.create_task(cache.get("a"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        gate.set()
        return await second

    assert asyncio.run(scenario()) == 7


def test_a_refusal_is_not_hidden_by_an_old_answer() -> None:
    answers = iter([1])

    async def load(_: str) -> int:
        try:
            return next(answers)
        except StopIteration:
            raise errors.not_found("gone") from None

    async def scenario() -> None:
        cache = cache_of(load, fresh=-1.0, stale=100.0)
        await cache.get("a")
        await cache.get("a")

    assert status_of(scenario()) == 404
