"""Two kinds of state stand under a key: a source of a product, and a product on all exchanges that rules compare. Pure.

What the shard does with either is said here once; the key of the latter has `*` for its exchange.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
"""The name of the one entry of a product on all exchanges."""
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
        return {f"{key}|{_PART}": _FORMAT + msgspec.msgpack.encode(divergence.stored(new))}
    return snapshot.entries(key, old if isinstance(old, KeyState) else None, new, due)


def load(key: str, parts: Mapping[str, bytes]) -> State:
    """Return the state that a key's entries hold; raises SnapshotError for what cannot be read."""
    if not is_compared(key):
        return snapshot.load(key, parts)
    value = parts[_PART]
    if value[:1] != _FORMAT:
        raise SnapshotError(
            f"state entry {key + '|' + _PART!r} has format version {value[:1].hex()}, this program reads "
            f"{_FORMAT.hex()}: start the version that wrote it, or run `pulsestream stream --rebuild`"
        )
    try:
        return divergence.restored(_STORED.decode(memoryview(value)[1:]))
    except msgspec.DecodeError as error:
        raise SnapshotError(f"state entry {key + '|' + _PART!r} cannot be read: {error!r}") from error


def is_compared(key: str) -> bool:
    """Tell whether a key is that of a product on all exchanges."""
    return key.split("/", 3)[2] == EVERY_EXCHANGE
