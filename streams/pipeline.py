"""One shard: everything known about the keys of one state partition, and what each batch, tick and rule does to it.

Pure: records, rule changes and the clock go in, outputs and checkpoints come out; sending, acknowledging and writing
are the lane's. What depends on anything but records and rules with their append times (the clock, and a rule's end
before any later record) is an input: it goes into a checkpoint before it has an effect outside.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from pulsestream.core.log import logger
from pulsestream.core.topics import parse_tenant_topic
from schemas.records import Alert
from schemas.validate import EVERY_EXCHANGE
from streams import kinds
from streams.awaiting import Awaiting
from streams.basis import OWN, Bases, BasisChange, Product, Records, prices_live_on, product_of, sources_of
from streams.changes import Changes, Cut, TenantChanges, TenantCut
from streams.deadlines import ADVANCED_AT_ONCE, ConnectionOf, Deadlines, Queue, Running
from streams.emission import Output, alert_output, emitted, pending_output
from streams.engine import divergence
from streams.engine import fold as engine
from streams.engine.cut import KeyBatch
from streams.engine.divergence import DivergenceState
from streams.engine.fold import Folded, KeyState
from streams.engine.rules import EVERY_PRODUCT, ActiveRule
from streams.engine.snapshot import Glance
from streams.engine.transitions import FEED_DOWN, QUIET_MARKET
from streams.entries import PendingAlert, Position, Restored, alert_entry, basis_entry, position_entry, rule_entry
from streams.holding import Held
from streams.intake import Intake, Source, key_of, parts_of, source_topic
from streams.kinds import State, Step, prices_of, step_of
from streams.outbox import Outbox
from streams.rulebook import RuleChange
from streams.ruleset import Concern, RuleSet, concerns
from streams.states import States
from streams.tables import Name

HELD_AT_MOST: Final = 2_000
"""Records of a source that are held before they are folded together."""
REST_AFTER: Final = 60_000_000
"""Microseconds without a change after which, at the second look, a state is kept as bytes."""
RESTED_AT_ONCE: Final = 100
CHECKED_AT_ONCE: Final = 50_000
"""Keys that are looked at in one tick for what ended rules left open."""

_log = logger(__name__)
_V = TypeVar("_V")

AtEnd = Callable[[str], bool]
"""Returns whether everything in this shard's partition of a source topic is folded, by a fetch of just now."""
ReadWhole = Callable[[str], bool]
"""Returns the same for all sources of a tenant, those included of which nothing was folded yet."""


@dataclass(frozen=True, slots=True)
class Folding:
    """What a batch brought about: records to send, records left out by reason, and how many were folded."""

    outputs: list[Output] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    folded: int = 0


@dataclass(slots=True)
class _Result:
    """A folding while keys are folded: alerts come first among its outputs."""

    skipped: Counter[str] = field(default_factory=Counter)
    alerts: list[Output] = field(default_factory=list)
    others: list[Output] = field(default_factory=list)
    folded: int = 0

    def folding(self) -> Folding:
        """Return what it has come to."""
        return Folding(self.alerts + self.others, self.skipped, self.folded)


class Shard:
    """The state of one partition. Not safe to share between threads."""

    def __init__(self, restored: Restored, connection_of: ConnectionOf, running: Running) -> None:
        self.states = States(restored.engine)
        self.positions: dict[str, Position] = dict(restored.positions)
        self.outbox = Outbox(restored.alerts)
        self.parked: set[str] = set()
        self._rules = RuleSet(restored.rules)
        self._rules_of: dict[str, tuple[ActiveRule, ...]] = {}
        self._bases = Bases.restored(restored.bases)
        #: Keys whose prices live elsewhere now, or here, from the next record or the end of the source on.
        self._rebased: dict[str, None] = {}
        self._sources: dict[str, Source] = {}
        self._changes = Changes()
        #: Records that are not folded yet, by source topic.
        self._held: dict[str, Held] = {}
        self._awaiting = Awaiting()
        #: Keys of which no record is expected, and about which a rule on missing ones may have something open.
        self._unexpected: dict[str, None] = {}
        #: Keys touched since states were last put to rest, and those that are still to be put to rest.
        self._young: set[str] = set()
        self._resting: list[str] = []
        self._rested_at = 0
        self._deadlines = Deadlines(self.states, self._rules_for, connection_of, running)
        self._wind_up(restored.rules)

    # ---- records ----

    def take(self, source: Source, intake: Intake) -> Folding:
        """Fold of a batch, as `fold` takes it, what can change an alert; the rest is held until it is released.

        Records of a key that are held are folded before those that follow them. Many records are folded at once.
        """
        held = self._held.setdefault(source.topic, Held(source))
        arrived = sum(len(records) for records in intake.records.values())
        if arrived > HELD_AT_MOST or self._compares(source, intake):
            return self.fold(source, intake)
        result = _Result(intake.skipped)
        for name, records in intake.records.items():
            urgent = self._is_urgent(source, key_of(source.tenant, source.dataset, *name), records)
            held.add(name, records)
            if urgent:
                self._fold_held(held, name, result)
        self._drop_empty(held)
        self._move(source, intake.next_offset)
        return result.folding()

    def fold(self, source: Source, intake: Intake) -> Folding:
        """Fold a batch: records of one source partition, in offset order, the first at or after its position.

        Alerts come first among the outputs: many statistics would keep them waiting.
        """
        result, held = _Result(intake.skipped), self._held.pop(source.topic, None) or Held(source)
        for name, records in intake.records.items():
            held.add(name, records)
        for name in list(held.names()):
            self._fold_held(held, name, result)
        if source.dataset == "ticks":
            result.alerts += self._compare(source.tenant, intake.records)
        self._move(source, intake.next_offset)
        return result.folding()

    def release(self, keys: int | None = None) -> list[tuple[Source, Folding]]:
        """Fold what is held, of so many keys at most; those that have waited longest come first."""
        released = []
        left = self.held if keys is None else keys
        for held in [*self._held.values()]:
            result = _Result()
            for name in list(held.names())[:left]:
                self._fold_held(held, name, result)
                left -= 1
            self._drop_empty(held)
            released.append((held.source, result.folding()))
            if left <= 0:
                break
        return released

    @property
    def holds_too_much(self) -> bool:
        """Whether more records of a topic are held than should be, before more are taken."""
        return any(held.count > HELD_AT_MOST for held in self._held.values())

    @property
    def held(self) -> int:
        """How many keys have records that are held."""
        return sum(map(len, self._held.values()))

    def _drop_empty(self, held: Held) -> None:
        if not len(held):
            self._held.pop(held.source.topic, None)

    def _fold_held(self, held: Held, name: Name, result: _Result) -> None:
        """Fold what is held of a key."""
        source = held.source
        key = key_of(source.tenant, source.dataset, *name)
        watermark = self._watermark(key)
        for records in held.take(name):
            for step in self._fold_key(source, key, records, result.skipped):
                result.folded += step.counts.get("folded", 0)
                result.alerts += self._alerts(key, step.alerts, decided=False)
                result.others += emitted(key, step)
        self._after_fold(key, watermark)

    def _is_urgent(self, source: Source, key: str, records: Records) -> bool:
        """Tell whether records may change an alert, or what a key is about."""
        state = self._source_state(key)
        if state is None or state.prices is not prices_live_on(source.dataset, self._bases.newest(product_of(key))):
            return True
        rules = self._rules_for(key, state)
        try:
            return bool(rules) and engine.may_alert(state, records, rules)
        except Exception:  # noqa: BLE001 - folding it finds the record that is to blame
            return True

    def _compares(self, source: Source, intake: Intake) -> bool:
        if source.dataset != "ticks" or not self._rules.compares:
            return False
        return any(self._rules.compare(source.tenant, product) for _, product in intake.records)

    def _fold_key(self, source: Source, key: str, inputs: Records, skipped: Counter[str]) -> Iterable[Folded]:
        tenant = source.tenant
        for part, change in self._bases.split(product_of(key), inputs):
            state = self._source_state(key) or self._new_state(source, key, change)
            if state.prices is not prices_live_on(source.dataset, change):
                step = self._switch(key, state, change)
                state = step.state
                yield step
            for step in _fold_or_bisect(state, part, self._rules_for(key, state), skipped):
                self._replace(tenant, key, step.state)
                for reason, count in step.counts.items():
                    if reason != "folded" and count:
                        skipped[reason] += count
                yield step

    def _new_state(self, source: Source, key: str, change: BasisChange) -> KeyState:
        """Return the state of a key before its first record; prices that lived elsewhere before still have to move."""
        _, exchange, product = product_of(key)
        moved = change in self._bases.of(change.product)[1:]
        prices = not moved and prices_live_on(source.dataset, change)
        return engine.new_state(
            exchange, product, source.dataset, topic_id=source.topic_id, partition=source.partition, prices=prices
        )

    def _switch(self, key: str, state: KeyState, change: BasisChange) -> Folded:
        """Let prices live on a source from a change on, or no longer."""
        rules = self._rules_for(key, state)
        step = engine.switch(state, change.at, rules, prices=prices_live_on(state.dataset, change))
        self._replace(parts_of(key)[0], key, step.state)
        self._rules_of.pop(key, None)
        return step

    def _compare(self, tenant: str, records: Mapping[Name, Records]) -> list[Output]:
        """Let rules that compare exchanges see the prices of their products."""
        compared = {name: theirs for name, theirs in records.items() if self._rules.compare(tenant, name[1])}
        outputs: list[Output] = []
        for product, prices in prices_of(compared).items():
            key = key_of(tenant, "ticks", EVERY_EXCHANGE, product)
            held = self.states.get(key)
            state = held if isinstance(held, DivergenceState) else DivergenceState(product)
            try:
                step = divergence.fold(state, prices, self._rules_for(key, state))
            except Exception:  # noqa: BLE001 - whatever prices lead the engine into must not stop the keys beside them
                _log.error("prices cannot be compared", key=key, exc_info=True)
                continue
            self._replace(tenant, key, step.state)
            outputs += self._outputs(key, step_of(step), decided=False)
            self._after_fold(key, state.watermark)
        return outputs

    def _source_state(self, key: str) -> KeyState | None:
        state = self.states.get(key)
        return state if isinstance(state, KeyState) else None

    def _watermark(self, key: str) -> int:
        state = self.states.get(key)
        return state.watermark if state else 0

    def _after_fold(self, key: str, watermark: int) -> None:
        state = self.states.get(key)
        if state is not None:
            if state.watermark > watermark:
                self._deadlines.heard(key, state.watermark)
            self._deadlines.folded(key)

    def _move(self, source: Source, next_offset: int) -> None:
        self._changes.of(source.tenant).positions.setdefault(source.topic, self.positions.get(source.topic))
        self.positions[source.topic] = Position(source.topic_id, next_offset)

    # ---- clock ----

    def tick(self, connected: Callable[[str], bool], at_end: AtEnd) -> list[Output]:
        """Let the event clocks act, on keys whose source is read to its end and whose connection is up."""
        for key in self._deadlines.stale():
            self._wait(key)
        for key in self._deadlines.unsettled():
            self._wait(key)

        def may_act(queue: Queue) -> bool:
            topic, connection = queue
            return topic.split(".")[1] not in self.parked and connected(connection) and at_end(topic)

        return [output for key, clock in self._deadlines.take_due(may_act) for output in self._advance(key, clock)]

    def rest(self, now: int) -> None:
        """Keep states in which nothing has happened for a while as bytes; `now` is wall time, micros."""
        if now - self._rested_at > REST_AFTER:
            self._resting = [key for key in self.states.loaded() if key not in self._young]
            self._young.clear()
            self._rested_at = now
        resting, self._resting = self._resting[:RESTED_AT_ONCE], self._resting[RESTED_AT_ONCE:]
        changed = [changes.states for changes in self._changes.tenants.values()]
        for key in resting:
            if key not in self._young and key in self.states and not any(key in states for states in changed):
                self.states.pack(key, self._deadlines.due(key))
                self._rules_of.pop(key, None)

    def miss(self, now: int, connected: Callable[[str], bool], at_end: AtEnd) -> None:
        """Let rules on missing records act at wall time `now` (micros), where a source is read to its end.

        Whether the connection is up is only the reason that they give.
        """

        def may_act(queue: Queue) -> bool:
            return queue[0].split(".")[1] not in self.parked and at_end(queue[0])

        for (_, connection), key, clock in self._awaiting.missed(now, may_act, ADVANCED_AT_ONCE):
            self._miss(key, clock, QUIET_MARKET if connected(connection) else FEED_DOWN)
        for key in list(islice(self._unexpected, ADVANCED_AT_ONCE)):
            del self._unexpected[key]
            if parts_of(key)[0] in self.parked:
                self._unexpected[key] = None
                continue
            state = None if self._is_expected(key) else self._source_state(key)
            if state is not None:
                self._decide(key, step_of(engine.expect_nothing(state, now, self._rules_for(key, state))))

    def _miss(self, key: str, clock: int, reason: str) -> None:
        state = self._expected_state(key)
        if state is None:
            return
        since = self._awaiting.since(product_of(key)) or 0
        step = engine.silence(state, clock, self._rules_for(key, state), reason=reason, since=since)
        if step.state is not state:
            self._replace(parts_of(key)[0], key, step.state)
        self._outputs(key, step_of(step), decided=True)
        self._await(key)

    def _expected_state(self, key: str) -> KeyState | None:
        """Return the state of a key of which a record may be expected, whether there was one yet or not."""
        source, state = self._sources.get(source_topic(key)), self._source_state(key)
        if state is None and source is not None:
            change = self._bases.newest(product_of(key))
            prices = prices_live_on(source.dataset, change)
            state = engine.switch(self._new_state(source, key, change), change.at, (), prices=prices).state
        return state if state is not None and state.prices else None

    def _await_about(self, rules: Iterable[ActiveRule]) -> None:
        """Expect records where rules ask for that; what those have open elsewhere is closed."""
        on_missing = {concern for rule in rules if rule.silence is not None for concern in concerns(rule)}
        for product in self._awaiting.about(on_missing, EVERY_PRODUCT):
            self._await_product(product)
        about = self.states.about(on_missing)
        for key in [key for key in about if parts_of(key)[1] == OWN]:
            self._await(key)
        self._unexpected |= dict.fromkeys(about)

    def _is_expected(self, key: str) -> bool:
        """Tell whether records of a key are to come."""
        return parts_of(key)[1] == OWN or self._awaiting.since(product_of(key)) is not None

    def _await(self, key: str) -> None:
        """Queue a key for when its next record is missed, if a rule asks for that."""
        waits = self._rules.wait(parts_of(key)[0], parts_of(key)[3])
        expected = waits and self._is_expected(key)
        state = self._expected_state(key) if expected else None
        if waits and not expected and key in self.states:
            self._unexpected[key] = None
        if state is None:
            self._awaiting.forget(key)
            return
        rules, begun = self._rules_for(key, state), self._awaiting.since(product_of(key)) or 0
        deadline = engine.silence_deadline(state, rules, since=begun)
        self._awaiting.wait(self._deadlines.queue(key), key, state, begun, deadline)

    def change_bases(self, at_end: AtEnd) -> None:
        """Let prices move where no record of the source says so any more: everything before the change is folded."""
        for key in list(self._rebased):
            if parts_of(key)[0] in self.parked or not at_end(source_topic(key)):
                continue
            del self._rebased[key]
            change, state = self._bases.newest(product_of(key)), self._source_state(key)
            if state is not None and state.prices is not prices_live_on(state.dataset, change):
                self._outputs(key, step_of(self._switch(key, state, change)), decided=True)
                self._wait(key)

    def end_rules(self, read_whole: ReadWhole) -> None:
        """Close what ended rules left open, where every record they are for has been folded, and forget them.

        Many that end together are worked off in several calls.
        """
        checked = 0
        for tenant, rules in self._rules.ended.items():
            if tenant in self.parked or checked > CHECKED_AT_ONCE or not read_whole(tenant):
                continue
            done: set[Concern] = set()
            for rule in rules:
                keys = self.states.about(concerns(rule))
                for key in [key for key in keys if self.states.holds_machine(key, rule.key)]:
                    self._retire(key, rule)
                self._rules.remove(rule)
                self._changes.of(tenant).ended.append(rule)
                done.update(concerns(rule))
                checked += len(keys)
                if checked > CHECKED_AT_ONCE:
                    break
            self._ask_again(done)

    def _advance(self, key: str, clock: int) -> list[Output]:
        try:
            state = self.states[key]
            step = kinds.advance(state, clock, self._rules_for(key, state))
        except Exception:  # noqa: BLE001 - one key's state must not stop the others; its next record lets it go on
            _log.error("the clock cannot act", key=key, clock=clock, exc_info=True)
            return []
        outputs = self._decide(key, step)
        self._wait(key)
        return outputs

    def _retire(self, key: str, rule: ActiveRule) -> None:
        self._decide(key, kinds.retire(self.states[key], rule, rule.ended_at or rule.effective_at))

    def _decide(self, key: str, step: Step) -> list[Output]:
        if step.state is not self.states[key]:
            self._replace(parts_of(key)[0], key, step.state)
        return self._outputs(key, step, decided=True)

    def _wind_up(self, rules: Iterable[ActiveRule]) -> None:
        """Set the clocks of restored keys, by what their entries say; rules over windows may ask for more."""
        for key, seen in self.states.glances():
            self._deadlines.restored(key, seen)
            if seen is not None and self._is_rebased(key, seen):
                self._rebased[key] = None
        self._unsettle(rules)
        self._await_about(rules)

    def _is_rebased(self, key: str, seen: Glance) -> bool:
        """Tell whether prices have moved since a state was written."""
        if not self._bases:
            return False
        return seen.prices is not prices_live_on(seen.dataset, self._bases.newest(product_of(key)))

    def _wait(self, key: str) -> None:
        """Queue a key for its next deadline, and for when a record of it is missed."""
        self._deadlines.wait(key)
        self._await(key)

    def _unsettle(self, rules: Iterable[ActiveRule]) -> None:
        """Let keys find their deadlines anew where a rule over a window may bring one; other rules ask for records."""
        timed = {concern for rule in rules if rule.measure is not None for concern in concerns(rule)}
        self._deadlines.unsettle(self.states.about(timed))

    # ---- rules ----

    def learn(self, changes: Iterable[RuleChange]) -> None:
        """Take rule changes in; each before any record appended after it is folded.

        Then folding a record again gives the same alerts, whatever was learned meanwhile: append times decide.
        """
        put = [rule for change in changes for rule in self._rules.learn(change)]
        for rule in put:
            self._changes.rules[rule.key] = rule
        self._ask_again({concern for rule in put for concern in concerns(rule)})
        self._unsettle(put)
        self._await_about(put)

    def read_from(self, sources: Iterable[Source]) -> None:
        """Know the partitions of topics that are read, before the first of their records."""
        self._sources = {source.topic: source for source in sources}

    def expect(self, subscribed: Mapping[Product, int | None]) -> None:
        """Know since when (micros) tenants are subscribed to products, or that they are no more (None)."""
        for product, since in subscribed.items():
            self._awaiting.subscribe(product, since)
            self._await_product(product)

    def _await_product(self, product: Product) -> None:
        for key in sources_of(product):
            self._await(key)

    def learn_bases(self, changes: Iterable[BasisChange]) -> None:
        """Take changes of subscriptions in; each before any record appended after it is folded."""
        for change in changes:
            if self._bases.learn(change):
                self._changes.bases[change.product] = self._bases.of(change.product)
                self._rebase(change.product)
                self._await_product(change.product)

    def _rebase(self, product: Product) -> None:
        if product[1] != EVERY_EXCHANGE:
            self._rebased |= dict.fromkeys(key for key in sources_of(product) if key in self.states)

    def _ask_again(self, about: Iterable[Concern]) -> None:
        for key in self.states.about(about):
            self._rules_of.pop(key, None)

    def _rules_for(self, key: str, state: State) -> tuple[ActiveRule, ...]:
        rules = self._rules_of.get(key)
        if rules is None:
            tenant, _, exchange, product = parts_of(key)
            rules = kinds.evaluated(self._rules.of(tenant, exchange, product), state)
            if key in self.states:
                self._rules_of[key] = rules
        return rules

    # ---- outputs ----

    def pending(self) -> list[Output]:
        """Return the pending alerts that may be sent now, in order; each is counted as sent."""
        return [pending_output(alert, number) for number, alert in self.outbox.take_ready(self.parked)]

    def put_off(self, output: Output) -> None:
        """Count a pending alert as not sent after all."""
        if output.alert is not None:
            self.outbox.put_off(output.alert)

    def acknowledged(self, number: int) -> None:
        """Drop a pending alert that has reached its topic."""
        if self.outbox.acknowledged(number):
            self._changes.entries.update([alert_entry(number, None)])

    def _outputs(self, key: str, step: Step, *, decided: bool) -> list[Output]:
        return self._alerts(key, step.alerts, decided=decided) + emitted(key, step)

    def _alerts(self, key: str, alerts: Iterable[Alert], *, decided: bool) -> list[Output]:
        """Return alerts that may leave at once; what was decided, and what follows it, waits for a checkpoint."""
        direct: list[Output] = []
        for alert in alerts:
            output = alert_output(key, alert)
            if decided or self.outbox.holds(key):
                number = self.outbox.add(PendingAlert(key, output.key, output.value, output.headers))
                self._changes.of(output.tenant).alerts.append(number)
            else:
                direct.append(output)
        return direct

    # ---- checkpoints ----

    @property
    def dirty(self) -> bool:
        """Whether anything changed since the last cut."""
        return bool(self._changes)

    def cut(self) -> Cut:
        """Return the checkpoint of everything that changed since the last cut; nothing may be held."""
        if self._held:
            raise AssertionError("records are held: part of their batches would be folded twice after a crash")
        changes, self._changes = self._changes, Changes()
        for key in self._deadlines.stale(key for former in changes.tenants.values() for key in former.states):
            self._wait(key)
        tenants = {
            tenant: TenantCut(
                former,
                {key: (self.states[key], self._deadlines.due(key)) for key in former.states},
                {topic: self.positions[topic] for topic in former.positions},
                {number: self.outbox.get(number) for number in former.alerts},
            )
            for tenant, former in changes.tenants.items()
        }
        return Cut(tenants, changes.rules, changes.bases, changes.entries)

    def written(self, cut: Cut) -> None:
        """Let the alerts of a checkpoint be sent: it is on the broker."""
        self.outbox.checkpointed(cut.alerts)

    def park(self, tenant: str, unwritten: Cut | None) -> None:
        """Take a tenant's part back to its last checkpoint and leave its keys alone until `unpark`.

        `unwritten` is the cut that waits for its outputs; the tenant's part is taken out of it.
        """
        self.parked.add(tenant)
        self._held = {topic: held for topic, held in self._held.items() if held.source.tenant != tenant}
        former = [self._changes.tenants.pop(tenant, None)]
        waiting = unwritten.tenants.pop(tenant, None) if unwritten else None
        former.append(waiting.former if waiting else None)
        for changes in former:
            if changes is not None:
                self._take_back(changes)
        self.outbox.send_again(tenant)

    def _take_back(self, changes: TenantChanges) -> None:
        self.states.put_back(changes.states)
        _put_back(self.positions, changes.positions)
        self.outbox.drop(changes.alerts)
        for rule in changes.ended:
            self._rules.put(rule)
        self._ask_again({concern for rule in changes.ended for concern in concerns(rule)})
        for key in changes.states:
            self._rebase(product_of(key))
            self._rules_of.pop(key, None)
            self._deadlines.forget(key)
            self._awaiting.forget(key)
            if key in self.states:
                self._wait(key)

    def unpark(self, tenant: str) -> None:
        """Let a tenant's keys be folded again, from `positions` on."""
        self.parked.discard(tenant)

    def forget(self, topic: str, names: Iterable[str]) -> None:
        """Drop the keys of a source topic that was deleted and made anew; `names` are their entries in the state."""
        self._held.pop(topic, None)
        for key in [key for key in self.states if source_topic(key) == topic]:
            self._drop(key)
        self.positions.pop(topic, None)
        self._changes.entries.update(dict.fromkeys(names))

    def tenants(self) -> set[str]:
        """Return the tenants of which anything is known."""
        read = {tenant for topic in self.positions if (tenant := _tenant_of(topic))}
        decided = self.outbox.tenants()
        based = {change.product[0] for change in self._bases.all}
        return self.states.tenants() | self._rules.tenants() | read | decided | based

    def erase(self, tenant: str) -> None:
        """Forget a tenant that is no more, and let the next checkpoint remove every entry of it. Park it before."""
        names = []
        for key in self.states.of(tenant):
            names += self.states.names(key)
            self._drop(key)
        for topic in [topic for topic in self.positions if _tenant_of(topic) == tenant]:
            names.append(position_entry(topic, self.positions.pop(topic))[0])
        for rule in self._rules.of_tenant(tenant):
            self._rules.remove(rule)
            self._changes.rules.pop(rule.key, None)
            names.append(rule_entry(rule, kept=False)[0])
        for product in self._bases.forget(tenant):
            self._changes.bases.pop(product, None)
            names.append(basis_entry(product, ())[0])
        names += [alert_entry(number, None)[0] for number in self.outbox.forget(tenant)]
        self._awaiting.end(tenant)
        self._changes.entries.update(dict.fromkeys(names))

    def _drop(self, key: str) -> None:
        self.states.drop(key)
        self._deadlines.forget(key)
        self._awaiting.forget(key)
        for known in (self._rules_of, self._rebased, self._unexpected):
            known.pop(key, None)

    def _replace(self, tenant: str, key: str, state: State) -> None:
        self._changes.of(tenant).states.setdefault(key, self.states.get(key))
        self._young.add(key)
        self.states[key] = state


def _fold_or_bisect(
    state: KeyState, inputs: Records, rules: Sequence[ActiveRule], skipped: Counter[str]
) -> Iterable[Folded]:
    """Fold inputs; where that raises, fold the halves, so that only records that raise on their own are left out."""
    waiting = [inputs]
    while waiting:
        part = waiting.pop()
        try:
            step = engine.fold(state, part, rules)
        except Exception:  # noqa: BLE001 - whatever a record leads the engine into must not stop the ones beside it
            if isinstance(part, KeyBatch):
                waiting.append(part.rows())
            elif len(part) == 1:
                skipped["fold_error"] += 1
                _log.error("record skipped: it cannot be folded", identity=part[0].identity, exc_info=True)
            else:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
            continue
        state = step.state
        yield step


def _tenant_of(topic: str) -> str | None:
    name = parse_tenant_topic(topic)
    return name.tenant if name else None


def _put_back(current: dict[str, _V], former: Mapping[str, _V | None]) -> None:
    for name, value in former.items():
        if value is None:
            current.pop(name, None)
        else:
            current[name] = value
