import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import AsOf
from streams.engine import fold as engine
from streams.engine.fold import KeyState
from streams.engine.snapshot import FORMAT, SnapshotError, entries, restore
from tests.support.oracle import Sourced
from tests.support.ticking import Run, folded, inputs, rule, splits, streams, tick

KEY = "acme/ticks/coinbase/BTC-USD"
LIMIT = 256 * 1024


def stored(key: str, *states: KeyState) -> dict[str, bytes]:
    """Return what the state topic holds after a checkpoint of each state in turn."""
    held: dict[str, bytes] = {}
    old = None
    for state in states:
        for name, value in entries(key, old, state).items():
            if value is None:
                del held[name]
            else:
                held[name] = value
        old = state
    return held


@settings(max_examples=60)
@given(st.data())
def test_checkpoints_add_up_to_the_state(data: st.DataObject) -> None:
    rules = [rule({"above": 100}, for_="1m"), rule({"crosses": 100}, "r2", cooldown="5m")]
    run, states = Run(rules), []
    for batch in data.draw(splits(data.draw(streams()))):
        run.fold(batch).advance(run.state.watermark + 3_000_000)
        states.append(run.state)

    held = stored(KEY, *states)

    assert held == stored(KEY, run.state)
    assert restore(held) == {KEY: run.state}


def test_a_checkpoint_holds_a_late_record_from_before_the_first() -> None:
    first = Run().fold(inputs([tick(20.0, 100.0)])).state
    second = Run(state=first).fold(inputs([tick(11.0, 101.0)], first_offset=1)).state

    assert restore(stored(KEY, first, second)) == {KEY: second}


def test_a_restored_state_goes_on_as_the_one_that_was_stored() -> None:
    rules = [rule({"above": 110}, for_="20s", keep_firing_for="5s")]
    ticks = [tick(n * 0.8, 100 + n % 17, n, size=0.1, best_bid=99.0, best_ask=130.0) for n in range(800)]
    run = Run(rules).fold(inputs(ticks[:500]))

    again = Run(rules, restore(stored(KEY, run.state))[KEY])

    rest = inputs(ticks[500:], first_offset=500)
    assert again.fold(rest).state == run.fold(rest).state
    assert again.stats == run.stats[-len(again.stats) :]
    assert again.alerts == run.alerts[-len(again.alerts) :] != []


def test_keys_are_told_apart() -> None:
    one, other = folded([tick(1, 10.0)]).state, folded([tick(1, 20.0)]).state

    held = stored(KEY, one) | stored("acme-2/ticks/coinbase/BTC-USD", other)

    assert restore(held) == {KEY: one, "acme-2/ticks/coinbase/BTC-USD": other}


def test_a_key_without_records_is_stored_too() -> None:
    state = engine.new_state("coinbase", "BTC-USD")

    assert restore(stored(KEY, state)) == {KEY: state}


def test_a_checkpoint_rewrites_the_head_and_open_blocks_only() -> None:
    run = folded([tick(n * 0.5, 100.0, n) for n in range(500)])
    old = run.state

    run.fold(inputs([tick(250.2, 100.0, 900)], first_offset=500))

    assert entries(KEY, old, run.state).keys() == {
        f"{KEY}|head",
        f"{KEY}|seconds:100000014",
        f"{KEY}|seconds:100000015",
    }
    assert entries(KEY, run.state, run.state) == {}


def test_blocks_that_fell_out_of_reach_are_removed() -> None:
    run = folded([tick(n, 100.0, n) for n in range(100)])
    old = run.state

    run.fold(inputs([tick(1_300, 100.0, 900)], first_offset=100))

    removed = {name for name, value in entries(KEY, old, run.state).items() if value is None}
    assert removed == {f"{KEY}|seconds:{100000000 + n}" for n in range(5)}


def test_a_rule_that_ended_is_removed() -> None:
    active = rule({"above": 10})
    run = folded([tick(1, 11.0)], [active])
    old = run.state

    run.take(engine.retire(run.state, active, 5))

    assert entries(KEY, old, run.state) == {f"{KEY}|rule:rule:1": None}


@pytest.mark.parametrize("sequenced", [True, False])
def test_each_entry_is_small_however_many_records_a_second_holds(sequenced: bool) -> None:  # noqa: FBT001 (parametrised)
    far = 2**62
    ticks = [
        tick(n / 3_000, 1e15 - n, far - n * 2**40 if sequenced else None, size=1e18 - n, best_bid=1e-9, best_ask=1e15)
        for n in range(30_000)
    ]
    rules = [rule({"crosses": 100 + n}, str(uuid.UUID(int=n))) for n in range(2_000)]
    records = positioned(inputs(ticks))
    state = Run(rules).fold(records[:1]).fold(records[1:]).state

    held = stored(KEY, state)

    assert max(map(len, held.values())) < LIMIT
    assert restore(held) == {KEY: state}


def positioned(records: list[Sourced]) -> list[Sourced]:
    """Return records of a topic with a real id, far into its life."""
    topic = "Xq3vJ0yVQ9ekPdEzt6lm4w"
    return [
        Sourced(
            record.record, AsOf(topic_id=topic, partition=11, offset=2**60 + record.as_of.offset), record.appended_at
        )
        for record in records
    ]


def test_another_format_version_is_refused_with_what_to_do() -> None:
    held = stored(KEY, folded([tick(1, 10.0)]).state)
    newer = {name: bytes([FORMAT + 1]) + value[1:] for name, value in held.items()}

    with pytest.raises(SnapshotError, match="has format version 03, this program reads 2: start the version"):
        restore(newer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"{KEY}|head", bytes([FORMAT]) + b"\xc1"),
        (f"{KEY}|head", bytes([FORMAT])),
        (f"{KEY}|head", b""),
        (f"{KEY}|what", bytes([FORMAT]) + b"\x90"),
        (f"{KEY}|seconds:5", bytes([FORMAT]) + b"\x90"),
    ],
)
def test_entries_that_are_no_state_are_refused(name: str, value: bytes) -> None:
    with pytest.raises(SnapshotError, match=r"BTC-USD|head|what"):
        restore({name: value})
