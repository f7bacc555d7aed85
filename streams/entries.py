"""What a state partition holds beside the engine's entries: positions, rule versions, bases of prices, alerts to send.

Names begin with an underscore, which no tenant slug does, so they never meet the engine's. Values are one format
version byte and MessagePack.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from streams.basis import BasisChange, Product
from streams.engine.rules import ActiveRule, RuleDefinition, parse_rule
from streams.errors import StateError

FORMAT: Final = 1
OWNER: Final = "_owner"
"""Written to prove that a partition is still owned: an empty transaction would not ask the broker."""
_SOURCE: Final = "_source/"
_RULE: Final = "_rule/"
_ALERT: Final = "_alert/"
_BASIS: Final = "_basis/"
_DEFINITIONS: Final = 50_000
"""Definitions of rules that are parsed once for all partitions of a worker."""


class Position(msgspec.Struct, frozen=True, gc=False):
    """How far a source topic's partition is folded; another `topic_id` under the same name begins anew."""

    topic_id: str
    next_offset: int


class PendingAlert(msgspec.Struct, frozen=True, gc=False):
    """An alert that no record but the clock or a rule's end brought about: kept until the broker has it.

    `key` is "{tenant}/{dataset}/{exchange}/{product}", the rest the record as it goes to the tenant's alerts topic.
    """

    key: str
    record_key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class _StoredBasis(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Changes of one product: append time, and whether trades are got from then on."""

    changes: list[tuple[int, bool]]


class _StoredRule(msgspec.Struct, frozen=True, gc=False):
    tenant: str
    rule_id: str
    version: int
    definition: str
    effective_at: int
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Restored:
    """A state partition's entries, sorted: positions by topic, alerts by number, and the engine's as they are."""

    positions: dict[str, Position] = field(default_factory=dict)
    rules: list[ActiveRule] = field(default_factory=list)
    bases: list[BasisChange] = field(default_factory=list)
    alerts: dict[int, PendingAlert] = field(default_factory=dict)
    engine: dict[str, bytes] = field(default_factory=dict)


def position_entry(topic: str, position: Position) -> tuple[str, bytes]:
    """Return the entry of a source position."""
    return f"{_SOURCE}{topic}", _encode(position)


def alert_entry(number: int, alert: PendingAlert | None) -> tuple[str, bytes | None]:
    """Return the entry of an alert that is still to send; None removes it."""
    return f"{_ALERT}{number:016d}", None if alert is None else _encode(alert)


def rule_entry(rule: ActiveRule, *, kept: bool) -> tuple[str, bytes | None]:
    """Return the entry of a rule version, or the one that removes it."""
    name = f"{_RULE}{rule.rule_id}/{rule.version}"
    if not kept:
        return name, None
    definition = rule.definition.model_dump_json()
    stored = _StoredRule(rule.tenant, rule.rule_id, rule.version, definition, rule.effective_at, rule.ended_at)
    return name, _encode(stored)


def basis_entry(product: Product, changes: Sequence[BasisChange]) -> tuple[str, bytes]:
    """Return the entry of what is known about the basis of a product's prices."""
    return f"{_BASIS}{'/'.join(product)}", _encode(_StoredBasis([(change.at, change.trades) for change in changes]))


def is_learned(name: str) -> bool:
    """Tell whether an entry says what was learned from control topics, which computing state again needs too."""
    return name.startswith((_RULE, _BASIS))


def sort(entries: Mapping[str, bytes]) -> Restored:
    """Take a state partition's entries apart; raises StateError for a format of a newer version."""
    restored = Restored()
    for name, value in entries.items():
        if name.startswith(_SOURCE):
            restored.positions[name.removeprefix(_SOURCE)] = _decode(name, value, Position)
        elif name.startswith(_ALERT):
            restored.alerts[int(name.removeprefix(_ALERT))] = _decode(name, value, PendingAlert)
        elif name.startswith(_RULE):
            restored.rules.append(_active(_decode(name, value, _StoredRule)))
        elif name.startswith(_BASIS):
            restored.bases.extend(_basis_changes(name, _decode(name, value, _StoredBasis)))
        elif name != OWNER:
            restored.engine[name] = value
    return restored


def _basis_changes(name: str, stored: _StoredBasis) -> Iterator[BasisChange]:
    tenant, exchange, product = name.removeprefix(_BASIS).split("/", 2)
    return (BasisChange((tenant, exchange, product), at, trades) for at, trades in stored.changes)


def _active(stored: _StoredRule) -> ActiveRule:
    return ActiveRule(
        stored.tenant,
        stored.rule_id,
        stored.version,
        _parsed(stored.definition),
        stored.effective_at,
        stored.ended_at,
    )


@lru_cache(maxsize=_DEFINITIONS)
def _parsed(definition: str) -> RuleDefinition:
    return parse_rule(definition)


_T = TypeVar("_T", bound=msgspec.Struct)


def _encode(value: msgspec.Struct) -> bytes:
    return bytes([FORMAT]) + msgspec.msgpack.encode(value)


def _decode(name: str, value: bytes, kind: type[_T]) -> _T:
    if value[:1] != bytes([FORMAT]):
        raise StateError(f"state entry {name} has format {value[:1].hex()}, this version reads {FORMAT}: upgrade it")
    try:
        return msgspec.msgpack.decode(memoryview(value)[1:], type=kind)
    except msgspec.DecodeError as error:
        raise StateError(f"state entry {name} cannot be read: {error}") from error
