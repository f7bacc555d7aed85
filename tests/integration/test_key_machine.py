"""Keys and roles against a model: any order of making, rotating, ending, revoking and using them, in two processes.

Database, service and both processes' authenticators are the real ones; the clock is the machine's. The model is the
plainest reading of docs/security.md, and knows nothing of caches, locks or SQL.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from pydantic import SecretStr

from api.auth import FRESH, Authenticator, Caller, Permission, database_lookup
from api.cursor import CursorSeal
from api.database import Database
from api.errors import Problem
from api.keys_admin.service import Keys
from api.limits.quotas import Quotas
from api.limits.tiers import tiers
from api.tenants.service import Asked, Tenants
from pulsestream.core.clock import to_datetime, to_micros
from pulsestream.core.settings import Settings
from tests.support.databases import NamedDatabase
from tests.support.rounds import Rounds

SECOND = 1_000_000
START = 1_767_225_600 * SECOND
PEPPERS = {1: b"pepper of the machine"}
RANKS = ("viewer", "admin", "owner")
MOST = 6
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate)
"""Without making a failure smaller: that takes minutes, and the steps can be read as they are."""
QUOTAS = Quotas(tiers(f"free.keys={MOST}"))
LIVES = st.sampled_from([None, 2, 60, 1000])
PROCESSES = st.integers(0, 1)


@dataclass(frozen=True)
class State:
    """What decides whether a key is taken; times are microseconds."""

    expires_at: int | None
    revoked: bool = False

    def works(self, now: int) -> bool:
        return not self.revoked and (self.expires_at is None or self.expires_at > now)


@dataclass
class Known:
    """A key of the model. `before`: its former states, oldest first, each with when and by which process it ended."""

    id: str
    text: str
    role: str
    state: State
    before: list[tuple[int, int, State]]
    replaced_by: str | None = None

    @property
    def lasting_owner(self) -> bool:
        return self.role == "owner" and not self.state.revoked and self.state.expires_at is None


@dataclass
class World:
    """What all examples share: one loop, one database."""

    runner: asyncio.Runner
    database: Database

    def run(self, call: Any) -> Any:
        return self.runner.run(call)


@contextmanager
def world_of(database: NamedDatabase) -> Iterator[World]:
    with asyncio.Runner() as runner:
        opened = Database(Settings(database_url=SecretStr(database.url("ps_api"))))
        runner.run(opened.open())
        try:
            yield World(runner, opened)
        finally:
            runner.run(opened.close())


class Refused(Exception):  # noqa: N818 - what the model says, not an error
    """The model expects this problem."""


def code_of(call: Callable[[], Any]) -> tuple[str, Any]:
    """Return the code of the problem, or of the model's refusal, that a call ends with, or "", and what it returns."""
    try:
        return "", call()
    except Problem as problem:
        return problem.code, None
    except Refused as refused:
        return str(refused), None


class KeyMachine(RuleBasedStateMachine):
    """Two processes over one database, one tenant with an intruder's beside it, and the model."""

    known = Bundle("known")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.now = START
        self.model: dict[str, Known] = {}
        self.processes = [self._process() for _ in range(2)]

    def _process(self) -> tuple[Authenticator, Keys]:
        database = self.world.database
        lookup = database_lookup(database)
        authenticator = Authenticator(lookup, PEPPERS, lambda: self.now, lambda: self.now / SECOND)
        seal = CursorSeal(PEPPERS)
        return authenticator, Keys(database, QUOTAS, PEPPERS, seal, clock=lambda: self.now, forget=authenticator.forget)

    @initialize(target=known)
    def register(self) -> Any:
        tenants = Tenants(self.world.database, PEPPERS, "open", None)
        self.slug = f"m-{secrets.token_hex(6)}"
        own = self.world.run(tenants.register(Asked(self.slug, "", None, "", "r1")))
        other = self.world.run(tenants.register(Asked(f"{self.slug}-b", "", None, "", "r2")))
        self.foreign = other.key_id
        self.model[own.key_id] = Known(own.key_id, own.api_key, "owner", State(None), [])
        return own.key_id

    # ---- what happens ----

    @rule(seconds=st.sampled_from([0.5, 1.0, FRESH, FRESH + 0.1, 30.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    @rule(key=known, process=PROCESSES)
    def a_key_is_used(self, key: str, process: int) -> None:
        self._caller(key, process)

    @rule(target=known, actor=known, role=st.sampled_from(RANKS), life=LIVES, process=PROCESSES)
    def a_key_is_made(self, actor: str, role: str, life: int | None, process: int) -> Any:
        end = None if life is None else self.now + life * SECOND

        def expected() -> None:
            self._check_rank(actor, role)
            self._check_life(actor, end)
            self._check_room(1)

        def done(service: Keys, caller: Caller) -> Any:
            return service.create(caller, "x", role, None if end is None else to_datetime(end))

        made = self._changes(actor, process, expected, done)
        return multiple() if made is None else self._add(made, role, end)

    @rule(target=known, actor=known, held=known, overlap=st.sampled_from([0, 5, 500]), process=PROCESSES)
    def a_key_is_rotated(self, actor: str, held: str, overlap: int, process: int) -> Any:
        key = self.model[held]

        def expected() -> None:
            self._check_rank(actor, key.role)
            if key.replaced_by is not None:
                raise Refused("key-rotated")
            if not key.state.works(self.now):
                raise Refused("key-ended")
            self._check_life(actor, key.state.expires_at)
            self._check_room(1 if overlap else 0)

        made = self._changes(actor, process, expected, lambda service, caller: service.rotate(caller, held, overlap))
        if made is None:
            return multiple()
        end = key.state.expires_at
        over = self.now + overlap * SECOND
        self._becomes(key, process, State(over if end is None else min(end, over)))
        key.replaced_by = made.key.id
        return self._add(made, key.role, end)

    @rule(actor=known, held=known, life=LIVES, process=PROCESSES)
    def a_key_gets_another_end(self, actor: str, held: str, life: int | None, process: int) -> None:
        key = self.model[held]
        end = None if life is None else self.now + life * SECOND

        def expected() -> None:
            self._check_rank(actor, key.role)
            if not key.state.works(self.now):
                raise Refused("key-ended")
            old = key.state.expires_at
            if old is not None and (end is None or end > old):
                self._check_life(actor, end)
            self._check_owner_left(key, lasts=end is None)

        changes: dict[str, Any] = {"expires_at": None if end is None else to_datetime(end)}
        changed = self._changes(actor, process, expected, lambda service, caller: service.change(caller, held, changes))
        if changed is not None:
            self._becomes(key, process, State(end))

    @rule(actor=known, held=known, process=PROCESSES)
    def a_key_is_revoked(self, actor: str, held: str, process: int) -> None:
        key = self.model[held]

        def expected() -> None:
            self._check_rank(actor, key.role)
            self._check_owner_left(key, lasts=False)

        async def revoke(service: Keys, caller: Caller) -> bool:
            await service.revoke(caller, held)
            return True

        if self._changes(actor, process, expected, revoke):
            self._becomes(key, process, replace(key.state, revoked=True))

    @rule(actor=known, process=PROCESSES)
    def another_tenants_key_is_not_there(self, actor: str, process: int) -> None:
        def expected() -> None:
            raise Refused("not-found")

        self._changes(actor, process, expected, lambda service, caller: service.revoke(caller, self.foreign))
        self._changes(actor, process, expected, lambda service, caller: service.rotate(caller, self.foreign, 0))

    # ---- what has to hold ----

    @invariant()
    def the_tenant_has_an_owner_key_without_an_end(self) -> None:
        assert not self.model or any(key.lasting_owner for key in self.model.values())

    @invariant()
    def the_list_is_the_models(self) -> None:
        if not self.model:
            return
        page = self.world.run(self.processes[0][1].list(self.slug, None, 1000, None))
        stored = {
            row.id: (
                row.role,
                None if row.expires_at is None else to_micros(row.expires_at),
                row.revoked_at is not None,
            )
            for row in page.keys
        }
        assert stored == {key.id: (key.role, key.state.expires_at, key.state.revoked) for key in self.model.values()}

    # ---- the model ----

    def _caller(self, key_id: str, process: int) -> Caller | None:
        """Use a key in a process, which may be behind another's changes for `FRESH` seconds."""
        key = self.model[key_id]
        authenticator = self.processes[process][0]
        code, caller = code_of(lambda: self.world.run(authenticator.caller(key.text)))
        allowed = {key.state.works(self.now)}
        for when, by, state in reversed(key.before):
            if by == process or self.now - when > FRESH * SECOND:
                break
            allowed.add(state.works(self.now))
        assert code in {"", "unauthorized"}
        assert (not code) in allowed, (key, self.now)
        assert caller is None or (caller.tenant, caller.role) == (self.slug, key.role)
        return caller

    def _changes(
        self, actor: str, process: int, expected: Callable[[], None], done: Callable[[Keys, Caller], Any]
    ) -> Any:
        """Let an actor do something, as the route would; what comes of it has to be what the model expects."""
        caller = self._caller(actor, process)
        if caller is None:
            return None

        def would() -> None:
            if self.model[actor].role == "viewer":
                raise Refused("forbidden")
            if not self.model[actor].state.works(self.now):
                raise Refused("unauthorized")
            expected()

        def does() -> Any:
            caller.require(Permission.KEYS_WRITE)
            return self.world.run(done(self.processes[process][1], caller))

        wanted, _ = code_of(would)
        got, result = code_of(does)
        assert got == wanted
        return result

    def _check_rank(self, actor: str, role: str) -> None:
        if RANKS.index(role) > RANKS.index(self.model[actor].role):
            raise Refused("forbidden")

    def _check_life(self, actor: str, end: int | None) -> None:
        own = self.model[actor].state.expires_at
        if own is not None and (end is None or end > own):
            raise Refused("forbidden")

    def _check_room(self, more: int) -> None:
        if sum(key.state.works(self.now) for key in self.model.values()) + more > MOST:
            raise Refused("quota-exceeded")

    def _check_owner_left(self, key: Known, *, lasts: bool) -> None:
        if (
            key.lasting_owner
            and not lasts
            and not any(other.lasting_owner for other in self.model.values() if other is not key)
        ):
            raise Refused("last-owner-key")

    def _becomes(self, key: Known, process: int, state: State) -> None:
        key.before.append((self.now, process, key.state))
        key.state = state

    def _add(self, made: Any, role: str, end: int | None) -> str:
        self.model[made.key.id] = Known(made.key.id, made.text, role, State(end), [])
        return str(made.key.id)


def test_keys_and_roles_are_what_the_model_says(database: NamedDatabase, rounds: Rounds) -> None:
    settings = hypothesis.settings(max_examples=rounds(15, 300), stateful_step_count=rounds(30, 60), phases=PHASES)

    with world_of(database) as world:
        hypothesis.stateful.run_state_machine_as_test(lambda: KeyMachine(world), settings=settings)
