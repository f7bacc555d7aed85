"""The rule versions that one shard knows, found by the tenant and product that they are about. Pure.

Learning is cheap however many rules and keys there are: it names the products concerned, and only their keys ask
again which rules apply to them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from streams.engine.rules import EVERY_PRODUCT, ActiveRule, RuleKey, applies
from streams.rulebook import RuleChange

Concern = tuple[str, str]
"""A tenant and one of its products, or EVERY_PRODUCT."""
_Outer = TypeVar("_Outer")
_Inner = TypeVar("_Inner")


class RuleSet:
    """Versions in force, and those that ended but may still be for records that were not folded."""

    def __init__(self, rules: Iterable[ActiveRule]) -> None:
        self._versions: dict[str, dict[int, ActiveRule]] = {}
        self._about: dict[Concern, dict[RuleKey, ActiveRule]] = {}
        self._ended: dict[str, dict[RuleKey, ActiveRule]] = {}
        #: Of those: rules that compare exchanges, and rules on missing records.
        self._comparing: dict[Concern, dict[RuleKey, ActiveRule]] = {}
        self._waiting: dict[Concern, dict[RuleKey, ActiveRule]] = {}
        for rule in rules:
            self.put(rule)

    def learn(self, change: RuleChange) -> list[ActiveRule]:
        """Take a change in; return the versions that ended or began with it, as they are now."""
        known = self._versions.get(change.rule_id, {})
        put = [
            replace(rule, ended_at=change.at)
            for version, rule in known.items()
            if rule.ended_at is None and version < change.version
        ]
        if change.rule is not None and change.version not in known:
            put.append(change.rule)
        for rule in put:
            self.put(rule)
        return put

    def put(self, rule: ActiveRule) -> None:
        """Know a version, or know it anew."""
        self._versions.setdefault(rule.rule_id, {})[rule.version] = rule
        for concern in concerns(rule):
            self._about.setdefault(concern, {})[rule.key] = rule
            if rule.source == "product":
                self._comparing.setdefault(concern, {})[rule.key] = rule
            if rule.silence is not None:
                self._waiting.setdefault(concern, {})[rule.key] = rule
        if rule.ended_at is not None:
            self._ended.setdefault(rule.tenant, {})[rule.key] = rule

    def remove(self, rule: ActiveRule) -> None:
        """Forget a version."""
        _drop(self._versions, rule.rule_id, rule.version)
        _drop(self._ended, rule.tenant, rule.key)
        for concern in concerns(rule):
            for table in (self._about, self._comparing, self._waiting):
                _drop(table, concern, rule.key)

    def of(self, tenant: str, exchange: str, product: str) -> Iterator[ActiveRule]:
        """Give the versions about a product of an exchange, by rule and version."""
        named = self._about.get((tenant, product), {}) | self._about.get((tenant, EVERY_PRODUCT), {})
        return (rule for _, rule in sorted(named.items()) if applies(rule, exchange, product))

    def of_tenant(self, tenant: str) -> list[ActiveRule]:
        """Return all versions of a tenant's rules."""
        return [rule for rule in self._all() if rule.tenant == tenant]

    def tenants(self) -> set[str]:
        """Return whose rules are known."""
        return {rule.tenant for rule in self._all()}

    def _all(self) -> Iterator[ActiveRule]:
        return (rule for versions in self._versions.values() for rule in versions.values())

    @property
    def compares(self) -> bool:
        """Whether any version compares exchanges."""
        return bool(self._comparing)

    def compare(self, tenant: str, product: str) -> bool:
        """Tell whether some versions about a product compare exchanges."""
        return _either(self._comparing, tenant, product)

    def wait(self, tenant: str, product: str) -> bool:
        """Tell whether some versions about a product are on missing records."""
        return _either(self._waiting, tenant, product)

    @property
    def ended(self) -> dict[str, list[ActiveRule]]:
        """The versions that have ended, by tenant."""
        return {tenant: list(rules.values()) for tenant, rules in self._ended.items()}


def concerns(rule: ActiveRule) -> list[Concern]:
    """Return what a rule is about."""
    products = rule.definition.product
    return [(rule.tenant, product) for product in ([products] if isinstance(products, str) else set(products))]


def _either(table: Mapping[Concern, object], tenant: str, product: str) -> bool:
    return (tenant, product) in table or (tenant, EVERY_PRODUCT) in table


def _drop(table: dict[_Outer, dict[_Inner, ActiveRule]], outer: _Outer, inner: _Inner) -> None:
    held = table.get(outer, {})
    held.pop(inner, None)
    if not held:
        table.pop(outer, None)
