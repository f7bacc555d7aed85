"""A rule tried on what is stored: what the live evaluator makes of it, as `pulsestream backtest` says it.

Bounded in the records that are read and in the transitions that are told. It blocks: `trial_process` runs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from api.stored import Chosen, StoredRecords
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339
from schemas.records import Alert
from streams.engine.definitions import Divergence
from streams.engine.evaluation import TENANT, Choice, RuleEvaluation, Tally
from streams.engine.firings import Firings, told, told_order
from streams.engine.rules import EVERY_PRODUCT, ActiveRule, RuleDefinition

MOST_TOLD: Final = 1_000
"""Transitions that are told, the first ones; all of them count."""

_LEFT_OUT: Final = ("duplicate", "late", "late_for_alerts")


@dataclass(frozen=True, slots=True)
class TooMany:
    """There are more records than a trial reads; from `begin` on, micros, there are not."""

    begin: int


@dataclass(slots=True)
class Outcome:
    """The transitions as they come: the first ones are kept, all are counted."""

    most: int = MOST_TOLD
    count: int = 0
    first: list[Alert] = field(default_factory=list)
    firings: Firings = field(default_factory=Firings)

    def take(self, transitions: Sequence[Alert]) -> None:
        """Take some more."""
        for one in transitions:
            self.firings.take(one)
        self.count += len(transitions)
        self.first = sorted([*self.first, *transitions], key=told_order)[: self.most]


def try_rule(records: StoredRecords, rule: RuleDefinition, most: int) -> dict[str, Any] | TooMany:
    """Return what becomes of a rule over at most so many records, as the answer says it."""
    chosen = chosen_for(rule)
    traded = records.traded(replace(chosen, tables=("trades",)))
    chosen = replace(chosen, traded=traded) if "trades" in chosen.tables else chosen
    begin = records.begin_of(most, chosen)
    if begin is not None:
        return TooMany(begin)
    outcome, evaluation = Outcome(), RuleEvaluation([rule], Choice(traded=traded))
    for part in records.slices(chosen):
        outcome.take(evaluation.take(part.batches))
    outcome.take(evaluation.finish())
    outcome.firings.finish(max(evaluation.tally.last, records.newest() or 0))
    return _shown(outcome, evaluation.tally)


def chosen_for(rule: RuleDefinition) -> Chosen:
    """Return which records a rule looks at; ticks of products that have trades are yet to be left out."""
    active = ActiveRule(TENANT, "0", 1, rule, 0)
    exchanges = rule.condition.exchanges if isinstance(rule.condition, Divergence) else rule.exchange
    return Chosen(
        ("ticks", "trades") if active.source in {"prices", "clock"} else ("ticks",),
        None if rule.product == EVERY_PRODUCT else _several(rule.product),
        None if exchanges is None else _several(exchanges),
    )


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _shown(outcome: Outcome, tally: Tally) -> dict[str, Any]:
    firings = outcome.firings
    return {
        "transitions": [told(one) for one in outcome.first],
        "count": outcome.count,
        "truncated": outcome.count > len(outcome.first),
        "summary": {
            "fired": firings.fired,
            "would_notify": firings.fired,
            "firing_seconds": firings.lasting / MICROS_PER_SECOND,
            "longest_seconds": firings.longest / MICROS_PER_SECOND,
            "firing_at_end": firings.still,
        },
        "records": {
            "count": tally.records,
            "first": None if tally.first is None else format_rfc3339(tally.first),
            "last": None if tally.first is None else format_rfc3339(tally.last),
            "left_out": {name: tally.counts[name] for name in _LEFT_OUT if tally.counts.get(name)},
        },
    }
