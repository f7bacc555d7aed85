"""Ticks of one key for tests of the engine, and ways to fold them: whole, in parts, with the event clock between."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import strategies as st

from schemas.records import Alert, AsOf, Bar, Stat, Tick
from streams.engine import fold as engine
from streams.engine.fold import Folded, KeyState
from streams.engine.inputs import Row, row_of
from streams.engine.rules import ActiveRule, RuleDefinition, parse_rule
from tests.support.oracle import Sourced

SECOND = 1_000_000
START = 1_600_000_000
"""A whole second that the tests count from; a multiple of 5 minutes is 1_600_000_200."""
EXCHANGE, PRODUCT, TOPIC = "coinbase", "BTC-USD", "topic-id"


def micros(seconds: float) -> int:
    """Return the event time `seconds` after START."""
    return START * SECOND + round(seconds * SECOND)


def tick(seconds: float, price: float, sequence: int | None = None, **fields: Any) -> Tick:
    """Return a tick `seconds` after START; without a sequence its id is that of its time."""
    at = micros(seconds)
    name = f"t{at}" if sequence is None else sequence
    return Tick(
        event_id=f"{EXCHANGE}:{PRODUCT}:{name}",
        exchange=EXCHANGE,
        product=PRODUCT,
        sequence=sequence,
        price=price,
        exchange_time=at,
        received_time=at,
        **fields,
    )


def inputs(ticks: Iterable[Tick], *, first_offset: int = 0, appended_at: int | None = None) -> list[Sourced]:
    """Return ticks at consecutive offsets, appended when they happened unless said otherwise."""
    return [
        Sourced(
            tick,
            AsOf(topic_id=TOPIC, partition=0, offset=offset),
            tick.exchange_time if appended_at is None else appended_at,
        )
        for offset, tick in enumerate(ticks, first_offset)
    ]


def rows(records: Iterable[Sourced]) -> list[Row]:
    """Return records as the engine takes them one by one."""
    return [row_of(record.record, record.as_of.offset, record.appended_at) for record in records]


def rule(condition: dict[str, Any], rule_id: str = "rule", version: int = 1, **fields: Any) -> ActiveRule:
    """Return an active rule; `for_` is written so, effective_at and ended_at are micros."""
    times = {name: fields.pop(name) for name in ("effective_at", "ended_at") if name in fields}
    return ActiveRule("acme", rule_id, version, definition(condition, **fields), **({"effective_at": 0} | times))


def definition(condition: dict[str, Any], **fields: Any) -> RuleDefinition:
    """Return a rule's definition for every product."""
    named = {name.removesuffix("_"): value for name, value in fields.items()}
    return parse_rule(
        json.dumps({"name": "a rule", "product": "*", "condition": {"type": "price"} | condition} | named)
    )


@dataclass
class Run:
    """A key that records and clocks are given to, with everything that came out."""

    rules: Sequence[ActiveRule] = ()
    state: KeyState = field(default_factory=lambda: engine.new_state(EXCHANGE, PRODUCT, topic_id=TOPIC))
    stats: list[Stat] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def fold(self, batch: Sequence[Sourced]) -> "Run":
        return self.take(engine.fold(self.state, rows(batch), self.rules))

    def advance(self, clock: int) -> "Run":
        return self.take(engine.advance(self.state, clock, self.rules))

    def take(self, folded: Folded) -> "Run":
        self.state = folded.state
        self.stats += folded.stats
        self.bars += folded.bars
        self.alerts += folded.alerts
        for name, count in folded.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        return self

    @property
    def final(self) -> dict[str, Stat]:
        """The last revision of each statistic."""
        return {stat.event_id: stat for stat in self.stats}

    def stat(self, window: str, seconds: int, basis: str = "ticks") -> Stat:
        return self.final[f"{EXCHANGE}:{PRODUCT}:{window}:{START + seconds}:{basis}"]

    @property
    def transitions(self) -> list[tuple[str, float]]:
        """States and times, in seconds after START."""
        return [(alert.state, (alert.at - START * SECOND) / SECOND) for alert in self.alerts]


def unrevised(stats: Iterable[Stat]) -> dict[str, Stat]:
    """Return statistics by id without their informative revision."""
    return {stat.event_id: msgspec.structs.replace(stat, revision=0) for stat in stats}


def folded(ticks: Iterable[Tick], rules: Sequence[ActiveRule] = ()) -> Run:
    """Return a run of one batch."""
    return Run(rules).fold(inputs(ticks))


# ---- streams of ticks ----

_STEPS = st.one_of(
    st.sampled_from([0, 1, 250_000, SECOND, 2_500_000, 12 * SECOND, 59 * SECOND, 61 * SECOND, 305 * SECOND]),
    st.integers(-14 * SECOND, 14 * SECOND),
    st.integers(0, 700 * SECOND),
)
_PRICES = st.one_of(st.sampled_from([98.0, 99.0, 99.5, 100.0, 100.5, 101.0, 103.0]), st.floats(1e-6, 1e12))


@st.composite
def streams(draw: st.DrawFn, max_size: int = 40) -> list[Sourced]:
    """Draw a key's records in offset order: late, out of order, repeated, quiet for minutes, with gaps in fields."""
    sequenced = draw(st.booleans())
    time, taken = 500 * SECOND, list[Tick]()
    for number in range(draw(st.integers(1, max_size))):
        if taken and draw(st.integers(0, 9)) == 0:
            taken.append(draw(st.sampled_from(taken[-12:])))
            continue
        time = max(time + draw(_STEPS), 0)
        taken.append(_drawn(draw, time, number, sequenced=sequenced))
    return inputs(taken)


def _drawn(draw: st.DrawFn, time: int, number: int, *, sequenced: bool) -> Tick:
    price = draw(_PRICES)
    one = tick(
        time / SECOND,
        price,
        1_000 + 3 * number if sequenced else None,
        size=draw(st.none() | st.sampled_from([0.0, 0.25, 3.0]) | st.floats(1e-18, 1e9)),
        side=draw(st.sampled_from([None, "buy", "sell"])),
        best_bid=draw(st.none() | st.just(price * 0.999)),
        best_ask=draw(st.sampled_from([price * 1.001, price * 1.002, None])),
        quote_time=draw(st.none() | st.integers(micros(0), micros(time / SECOND))),
    )
    return one if sequenced else msgspec.structs.replace(one, event_id=f"{EXCHANGE}:{PRODUCT}:u{number}")


@st.composite
def splits(draw: st.DrawFn, records: Sequence[Sourced]) -> list[list[Sourced]]:
    """Draw a way to cut records into batches."""
    cuts = sorted(draw(st.sets(st.integers(1, max(len(records) - 1, 1)), max_size=len(records))))
    edges = [0, *cuts, len(records)]
    return [list(records[start:end]) for start, end in itertools.pairwise(edges) if end > start]
