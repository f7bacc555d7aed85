"""One shard: everything known about the keys of one state partition, and what each batch, tick and rule does to it.

Pure: records, rule changes and the clock go in, outputs and checkpoints come out; sending, acknowledging and writing
are the lane's. What depends on anything but records and rules with their append times (the clock, and a rule's end
before any later record) is an input: it goes into a checkpoint before it has an effect outside.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from pulsestream.core.headers import Headers, cloud_event
from pulsestream.core.log import logger
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Alert, Bar, Stat
from streams.changes import Changes, Cut, TenantCut
from streams.engine import fold as engine
from streams.engine import snapshot
from streams.engine.fold import Folded, KeyState
from streams.engine.inputs import Row
from streams.engine.rules import ActiveRule, applies
from streams.entries import PendingAlert, Position, Restored, alert_entry, rule_entry
from streams.eventclock import EventClocks
from streams.intake import RawRecord, Source, parts_of, source_topic, take_in
from streams.outbox import Outbox
from streams.rulebook import RuleChange

_log = logger(__name__)
_STAT: Final = codec(Stat)
_ALERT: Final = codec(Alert)
_BAR: Final = codec(Bar)
_V = TypeVar("_V")

ConnectionOf = Callable[[str, str], str]
"""Returns the name of the connection that a product (of an exchange) comes over."""
Running = Callable[[str], int]
"""Returns the running time of a connection in microseconds; it stands still while that is away."""
AtEnd = Callable[[str], bool]
"""Returns whether everything in this shard's partition of a source topic is folded, by a fetch of just now."""
ReadWhole = Callable[[str], bool]
"""Returns the same for all sources of a tenant, those included of which nothing was folded yet."""


@dataclass(frozen=True, slots=True)
class Output:
    """A record for one of a tenant's topics; `alert` is its number when it is a pending alert."""

    tenant: str
    dataset: str
    key: bytes
    value: bytes
    headers: Headers
    alert: int | None = None

    @property
    def topic(self) -> str:
        """The topic that it goes to."""
        return tenant_topic(self.tenant, self.dataset)


@dataclass(frozen=True, slots=True)
class Folding:
    """What a batch brought about: records to send, records left out by reason, and how many were folded."""

    outputs: list[Output] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    folded: int = 0


class Shard:
    """The state of one partition. Not safe to share between threads."""

    def __init__(self, restored: Restored, connection_of: ConnectionOf, running: Running) -> None:
        self.states: dict[str, KeyState] = snapshot.restore(restored.engine)
        self.positions: dict[str, Position] = dict(restored.positions)
        self.outbox = Outbox(restored.alerts)
        self.parked: set[str] = set()
        self._rules = {(rule.rule_id, rule.version): rule for rule in restored.rules}
        self._rules_of: dict[str, tuple[ActiveRule, ...]] = {}
        self._changes = Changes()
        self._clocks = EventClocks()
        self._connection_of = connection_of
        self._running = running
        for key in self.states:
            self._set_clock(key)

    # ---- records ----

    def fold(self, source: Source, records: Sequence[RawRecord]) -> Folding:
        """Fold a batch: records of one source partition, in offset order, the first at or after its position."""
        intake = take_in(source, records)
        result = Folding(skipped=intake.skipped)
        folded = 0
        for key, inputs in intake.inputs.items():
            before = self.states.get(key)
            for step in self._fold_key(source, key, inputs, result.skipped):
                folded += step.counts.get("folded", 0)
                result.outputs.extend(self._outputs(key, step, decided=False))
            self._heard(key, before)
        self._move(source, records[-1].offset + 1)
        return replace(result, folded=folded)

    def _fold_key(self, source: Source, key: str, inputs: Sequence[Row], skipped: Counter[str]) -> Iterable[Folded]:
        tenant, _, exchange, product = parts_of(key)
        state = self.states.get(key) or engine.new_state(
            exchange, product, source.dataset, topic_id=source.topic_id, partition=source.partition
        )
        for step in _fold_or_bisect(state, inputs, self._rules_for(key), skipped):
            self._replace(tenant, key, step.state)
            for reason, count in step.counts.items():
                if reason != "folded" and count:
                    skipped[reason] += count
            yield step

    def _move(self, source: Source, next_offset: int) -> None:
        self._changes.of(source.tenant).positions.setdefault(source.topic, self.positions.get(source.topic))
        self.positions[source.topic] = Position(source.topic_id, next_offset)

    # ---- clock ----

    def tick(self, connected: Callable[[str], bool], at_end: AtEnd) -> list[Output]:
        """Let the event clocks act, on keys whose source is read to its end and whose connection is up."""
        outputs: list[Output] = []
        for topic, connection in self._clocks.queues:
            running = self._running(connection)
            tenant = topic.split(".")[1]
            due = self._clocks.is_due((topic, connection), running)
            if due and tenant not in self.parked and connected(connection) and at_end(topic):
                for key, clock in self._clocks.take_due((topic, connection), running):
                    outputs += self._advance(key, clock)
        return outputs

    def end_rules(self, read_whole: ReadWhole) -> None:
        """Close what ended rules left open, where every record they are for has been folded, and forget them."""
        for rule in [rule for rule in self._rules.values() if rule.ended_at is not None]:
            if rule.tenant not in self.parked and read_whole(rule.tenant):
                for key in [key for key in self.states if key.startswith(f"{rule.tenant}/")]:
                    if self._watches(rule, key):
                        self._retire(key, rule)
                del self._rules[rule.rule_id, rule.version]
                self._changes.of(rule.tenant).ended.append(rule)
                self._forget_rules_of(rule.tenant)

    def _advance(self, key: str, clock: int) -> list[Output]:
        try:
            step = engine.advance(self.states[key], clock, self._rules_for(key))
        except Exception:  # noqa: BLE001 - one key's state must not stop the others; its next record lets it go on
            _log.error("the clock cannot act", key=key, clock=clock, exc_info=True)
            return []
        outputs = self._decide(key, step)
        self._wait(key)
        return outputs

    def _retire(self, key: str, rule: ActiveRule) -> None:
        self._decide(key, engine.retire(self.states[key], rule, rule.ended_at or rule.effective_at))

    def _decide(self, key: str, step: Folded) -> list[Output]:
        if step.state is not self.states[key]:
            self._replace(parts_of(key)[0], key, step.state)
        return self._outputs(key, step, decided=True)

    # ---- rules ----

    def learn(self, changes: Iterable[RuleChange]) -> None:
        """Take rule changes in; each before any record appended after it is folded.

        Then folding a record again gives the same alerts, whatever was learned meanwhile: append times decide.
        """
        for change in changes:
            self._learn(change)

    def _learn(self, change: RuleChange) -> None:
        older = [
            rule
            for (rule_id, version), rule in self._rules.items()
            if rule_id == change.rule_id and rule.ended_at is None and version < change.version
        ]
        for rule in older:
            self._put_rule(replace(rule, ended_at=change.at))
        new = change.rule if change.rule and (change.rule_id, change.version) not in self._rules else None
        if new is not None:
            self._put_rule(new)

    def _put_rule(self, rule: ActiveRule) -> None:
        self._rules[rule.rule_id, rule.version] = rule
        self._changes.entries.update([rule_entry(rule, kept=True)])
        self._forget_rules_of(rule.tenant)

    def _forget_rules_of(self, tenant: str) -> None:
        for key in [key for key in self._rules_of if key.startswith(f"{tenant}/")]:
            del self._rules_of[key]
        for key in [key for key in self.states if key.startswith(f"{tenant}/")]:
            self._wait(key)

    def _rules_for(self, key: str) -> tuple[ActiveRule, ...]:
        rules = self._rules_of.get(key)
        if rules is None:
            tenant = parts_of(key)[0]
            rules = tuple(r for r in self._rules.values() if r.tenant == tenant and self._watches(r, key))
            self._rules_of[key] = rules
        return rules

    @staticmethod
    def _watches(rule: ActiveRule, key: str) -> bool:
        _, _, exchange, product = parts_of(key)
        return applies(rule, exchange, product)

    # ---- outputs ----

    def pending(self) -> list[Output]:
        """Return the pending alerts that may be sent now, in order; each is counted as sent."""
        return [
            Output(parts_of(alert.key)[0], "alerts", alert.record_key, alert.value, alert.headers, number)
            for number, alert in self.outbox.take_ready(self.parked)
        ]

    def put_off(self, output: Output) -> None:
        """Count a pending alert as not sent after all."""
        if output.alert is not None:
            self.outbox.put_off(output.alert)

    def acknowledged(self, number: int) -> None:
        """Drop a pending alert that has reached its topic."""
        if self.outbox.acknowledged(number):
            self._changes.entries.update([alert_entry(number, None)])

    def _outputs(self, key: str, step: Folded, *, decided: bool) -> list[Output]:
        tenant, _, exchange, product = parts_of(key)
        record_key = product.encode()
        direct: list[Output] = []
        for alert in step.alerts:
            headers = cloud_event(alert.alert_id, "pulsestream.alert.v1", f"/{exchange}", alert.at)
            value = _ALERT.encode(alert)
            if decided or self.outbox.holds(key):
                number = self.outbox.add(PendingAlert(key, record_key, value, headers))
                self._changes.of(tenant).alerts.append(number)
            else:
                direct.append(Output(tenant, "alerts", record_key, value, headers))
        for bar in step.bars:
            headers = cloud_event(bar.event_id, "pulsestream.bar.v1", f"/{exchange}", bar.start)
            direct.append(Output(tenant, "bars", record_key, _BAR.encode(bar), headers))
        for stat in step.stats:
            headers = cloud_event(stat.event_id, "pulsestream.stat.v1", f"/{exchange}", stat.at)
            direct.append(Output(tenant, "stats", record_key, _STAT.encode(stat), headers))
        return direct

    # ---- checkpoints ----

    @property
    def dirty(self) -> bool:
        """Whether anything changed since the last cut."""
        return bool(self._changes)

    def cut(self) -> Cut:
        """Return the checkpoint of everything that changed since the last cut."""
        changes, self._changes = self._changes, Changes()
        tenants = {
            tenant: TenantCut(
                former,
                {key: self.states[key] for key in former.states},
                {topic: self.positions[topic] for topic in former.positions},
                {number: self.outbox.get(number) for number in former.alerts},
            )
            for tenant, former in changes.tenants.items()
        }
        return Cut(tenants, changes.entries)

    def written(self, cut: Cut) -> None:
        """Let the alerts of a checkpoint be sent: it is on the broker."""
        self.outbox.checkpointed(cut.alerts)

    def park(self, tenant: str, unwritten: Cut | None) -> None:
        """Take a tenant's part back to its last checkpoint and leave its keys alone until `unpark`.

        `unwritten` is the cut that waits for its outputs; the tenant's part is taken out of it.
        """
        self.parked.add(tenant)
        former = [self._changes.tenants.pop(tenant, None)]
        waiting = unwritten.tenants.pop(tenant, None) if unwritten else None
        former.append(waiting.former if waiting else None)
        for changes in former:
            if changes is not None:
                _put_back(self.states, changes.states)
                _put_back(self.positions, changes.positions)
                self.outbox.drop(changes.alerts)
                self._rules |= {(rule.rule_id, rule.version): rule for rule in changes.ended}
        self.outbox.send_again(tenant)
        self._forget_rules_of(tenant)
        for key in [key for key in self.states if key.startswith(f"{tenant}/")]:
            self._set_clock(key)

    def unpark(self, tenant: str) -> None:
        """Let a tenant's keys be folded again, from `positions` on."""
        self.parked.discard(tenant)

    def forget(self, topic: str, names: Iterable[str]) -> None:
        """Drop the keys of a source topic that was deleted and made anew; `names` are their entries in the state."""
        for key in [key for key in self.states if source_topic(key) == topic]:
            del self.states[key]
            self._clocks.forget(key)
        self.positions.pop(topic, None)
        self._changes.entries.update(dict.fromkeys(names))

    def _replace(self, tenant: str, key: str, state: KeyState) -> None:
        self._changes.of(tenant).states.setdefault(key, self.states.get(key))
        self.states[key] = state

    def _heard(self, key: str, before: KeyState | None) -> None:
        after = self.states.get(key)
        if after is None:
            return
        if before is None or after.watermark > before.watermark:
            self._clocks.heard(key, after.watermark, self._running(self._connection(key)))
        self._wait(key)

    def _set_clock(self, key: str) -> None:
        state = self.states.get(key)
        if state is None:
            self._clocks.forget(key)
            return
        self._clocks.heard(key, max(state.watermark, state.clock_mark), self._running(self._connection(key)))
        self._wait(key)

    def _wait(self, key: str) -> None:
        state = self.states[key]
        deadline = engine.next_deadline(state, self._rules_for(key))
        self._clocks.wait_for((source_topic(key), self._connection(key)), key, deadline)

    def _connection(self, key: str) -> str:
        _, _, exchange, product = parts_of(key)
        return self._connection_of(exchange, product)


def _fold_or_bisect(
    state: KeyState, inputs: Sequence[Row], rules: Sequence[ActiveRule], skipped: Counter[str]
) -> Iterable[Folded]:
    """Fold inputs; where that raises, fold the halves, so that only records that raise on their own are left out."""
    waiting = [inputs]
    while waiting:
        part = waiting.pop()
        try:
            step = engine.fold(state, part, rules)
        except Exception:  # noqa: BLE001 - whatever a record leads the engine into must not stop the ones beside it
            if len(part) == 1:
                skipped["fold_error"] += 1
                _log.error("record skipped: it cannot be folded", identity=part[0].identity, exc_info=True)
            else:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
            continue
        state = step.state
        yield step


def _put_back(current: dict[str, _V], former: Mapping[str, _V | None]) -> None:
    for name, value in former.items():
        if value is None:
            current.pop(name, None)
        else:
            current[name] = value
