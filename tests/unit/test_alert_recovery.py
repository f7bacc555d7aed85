"""After a crash: states are read back from their entries, looks are forgotten, decisions stand; alerts are the same."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Alert
from streams.engine import fold as engine
from streams.engine import snapshot
from streams.engine.fold import KeyState
from streams.engine.rules import ActiveRule
from streams.engine.transitions import QUIET_MARKET
from tests.support.oracle import Sourced
from tests.support.ticking import SECOND, Run, rule, splits, streams

RULES = [
    rule({"type": "change", "window": "1m", "above_pct": 0.4}, "change", for_="2500ms", cooldown="10s"),
    rule({"type": "volatility", "window": "5m", "above": 0.5}, "volatility", keep_firing_for="10s"),
    rule({"type": "volume", "window": "1m", "baseline": "5m", "above_ratio": 2}, "volume", for_="10s"),
    rule({"type": "spread", "above_bps": 15, "clear_bps": 5}, "spread", for_="10s"),
    rule({"above": 100}, "price", for_="10s", keep_firing_for="10s", cooldown="1m"),
    rule({"type": "no_data", "after": "11s"}, "silent", for_="2500ms"),
]
KEY = "acme/ticks/coinbase/BTC-USD"


def stored_and_read(state: KeyState) -> KeyState:
    """Return the state that a successor reads."""
    written = snapshot.entries(KEY, None, state)
    (read,) = snapshot.restore({name: value for name, value in written.items() if value is not None}).values()
    return read


def clocked(state: KeyState, until: int, rules: Sequence[ActiveRule]) -> tuple[KeyState, list[Alert]]:
    """Let the event clock and the silence run to a time; return what follows."""
    first = engine.advance(state, until, [one for one in rules if one.silence is None])
    second = engine.silence(first.state, until, rules, reason=QUIET_MARKET)
    return second.state, [*first.alerts, *second.alerts]


@settings(max_examples=60, deadline=None)
@given(streams(max_size=30), st.data())
def test_a_worker_that_crashes_after_any_batch_gives_the_same_alerts(
    records: list[Sourced], data: st.DataObject
) -> None:
    steady = Run(RULES)
    crashing, checkpoint, since = Run(RULES), Run(RULES).state, list[list[Sourced]]()
    lasting = list[Alert]()
    for batch in data.draw(splits(records)):
        steady.fold(batch)
        crashing.fold(batch)
        since.append(batch)
        clock = steady.state.watermark + data.draw(st.integers(0, 90)) * SECOND
        steady.state, decided = clocked(steady.state, clock, RULES)
        steady.alerts += decided
        crashing.state, again = clocked(crashing.state, clock, RULES)
        crashing.alerts += again
        assert again == decided
        if decided or data.draw(st.booleans()):
            checkpoint, since = stored_and_read(crashing.state), []
            lasting = list(crashing.alerts)
        if data.draw(st.booleans()):
            crashing.state, crashing.alerts = checkpoint, list(lasting)
            for lost in since:
                crashing.fold(lost)

    assert crashing.alerts == steady.alerts
