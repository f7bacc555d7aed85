"""Two kinds of state stand under a key: a source of a product, and a product on all exchanges that rules compare. Pure.

What the shard does with either is said here once; the key of the latter has `*` for its exchange.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from schemas.records import Alert, Bar, Stat
from schemas.validate import EVERY_EXCHANGE
from streams.basis import Records
from streams.engine import divergence, snapshot
from streams.engine import fold as engine
from streams.engine.cut import KeyBatch
from streams.engine.divergence import Diverged, DivergenceState, Priced, StoredDivergence
from streams.engine.fold import Folded, KeyState
from streams.engine.inputs import Row
from streams.engine.rules import ActiveRule, RuleKey, lives_on
from streams.engine.snapshot import SnapshotError
from streams.tables import Name

State = KeyState | DivergenceState

_PART: Final = "product"
"""The name of the entry of a product on all exchanges; those with further machines are numbered."""
MACHINES_PER_ENTRY: Final = 1_000
"""Of at most 200 bytes each, so that an entry stays under 256 KB."""
_FORMAT: Final = b"\x01"
_STORED: Final = msgspec.msgpack.Decoder(StoredDivergence)


@dataclass(frozen=True, slots=True)
class Step:
    """The state that follows, and what to send."""

    state: State
    alerts: list[Alert]
    stats: list[Stat] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)


def advance(state: State, clock: int, rules: Sequence[ActiveRule]) -> Step:
    """Let the event clock act; the same state where nothing was to be done."""
    if isinstance(state, KeyState):
        return step_of(engine.advance(state, clock, rules))
    return step_of(divergence.advance(state, clock, rules))


def retire(state: State, rule: ActiveRule, at: int) -> Step:
    """End a version of a rule."""
    if isinstance(state, KeyState):
        return step_of(engine.retire(state, rule, at))
    return step_of(divergence.retire(state, rule, at))


def next_deadline(state: State, rules: Sequence[ActiveRule]) -> int | None:
    """Return when `advance` next has something to do."""
    if isinstance(state, KeyState):
        return engine.next_deadline(state, rules)
    return divergence.deadline(state, rules)


def evaluated(rules: Iterable[ActiveRule], state: State) -> tuple[ActiveRule, ...]:
    """Return those rules, of a product, that are evaluated on a state."""
    if isinstance(state, KeyState):
        return tuple(rule for rule in rules if lives_on(rule, state.dataset, prices=state.prices))
    return tuple(rule for rule in rules if rule.source == "product")


def holds(state: State, rule: RuleKey) -> bool:
    """Tell whether a version of a rule has left anything in a state."""
    return rule in (state.book.machines if isinstance(state, KeyState) else state.machines)


def step_of(step: Folded | Diverged) -> Step:
    """Return what the engine gave as a step."""
    if isinstance(step, Folded):
        return Step(step.state, step.alerts, step.stats, step.bars)
    return Step(step.state, step.alerts)


def prices_of(records: Mapping[Name, Records]) -> dict[str, list[Priced]]:
    """Return the prices of each product on all exchanges, in offset order."""
    found: dict[str, list[tuple[int, Priced]]] = {}
    for (exchange, product), theirs in records.items():
        rows = theirs.rows() if isinstance(theirs, KeyBatch) else theirs
        found.setdefault(product, []).extend((row.offset, _priced(exchange, row)) for row in rows)
    return {product: [priced for _, priced in sorted(prices)] for product, prices in found.items()}


def _priced(exchange: str, row: Row) -> Priced:
    return Priced(exchange, row.time, row.price, row.appended_at)


# ---- entries ----


def entries(key: str, old: State | None, new: State, due: int) -> dict[str, bytes | None]:
    """Return the entries that changed, as `snapshot.entries` does."""
    if isinstance(new, DivergenceState):
        written = _divergence_parts(new)
        gone = _divergence_parts(old).keys() - written.keys() if isinstance(old, DivergenceState) else ()
        return {f"{key}|{name}": value for name, value in written.items()} | {f"{key}|{name}": None for name in gone}
    return snapshot.entries(key, old if isinstance(old, KeyState) else None, new, due)


def load(key: str, parts: Mapping[str, bytes]) -> State:
    """Return the state that a key's entries hold; raises SnapshotError for what cannot be read."""
    if not is_compared(key):
        return snapshot.load(key, parts)
    first, *others = [_divergence(f"{key}|{name}", parts[name]) for name in (_PART, *(parts.keys() - {_PART}))]
    machines = {rule: held for state in (first, *others) for rule, held in state.machines.items()}
    return replace(first, machines=machines)


def _divergence_parts(state: DivergenceState) -> dict[str, bytes]:
    """Return the entries of a product on all exchanges: what is known of it, and no more machines in one than fit."""
    rules = sorted(state.machines)
    parts = [rules[start : start + MACHINES_PER_ENTRY] for start in range(0, len(rules), MACHINES_PER_ENTRY)] or [[]]
    states = [replace(state, machines={rule: state.machines[rule] for rule in part}) for part in parts]
    states[1:] = [replace(part, legs={}) for part in states[1:]]
    names = (_PART, *(f"{_PART}:{number}" for number in range(1, len(states))))
    return {
        name: _FORMAT + msgspec.msgpack.encode(divergence.stored(part))
        for name, part in zip(names, states, strict=True)
    }


def _divergence(name: str, value: bytes) -> DivergenceState:
    if value[:1] != _FORMAT:
        raise SnapshotError(
            f"state entry {name!r} has format version {value[:1].hex()}, this program reads {_FORMAT.hex()}: "
            "start the version that wrote it, or run `pulsestream stream --rebuild`"
        )
    try:
        return divergence.restored(_STORED.decode(memoryview(value)[1:]))
    except msgspec.DecodeError as error:
        raise SnapshotError(f"state entry {name!r} cannot be read: {error!r}") from error


def is_compared(key: str) -> bool:
    """Tell whether a key is that of a product on all exchanges."""
    return key.split("/", 3)[2] == EVERY_EXCHANGE
