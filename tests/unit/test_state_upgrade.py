"""Rolling upgrade and rollback by one version: what is written before is read after, and the other way round."""

from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from streams.engine import snapshot
from streams.engine.divergence import DivergenceState
from streams.engine.fold import KeyState
from streams.engine.machine import Phase
from streams.entries import PendingAlert, Position, sort
from streams.kinds import entries
from streams.pipeline import Shard
from tests.support import golden_state
from tests.support.golden_state import BEGIN, SECOND

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "state-2.txt"
TICKS: Final = "acme/ticks/coinbase/BTC-USD"
LAST: Final = BEGIN + 118 * SECOND


def restored(written: dict[str, bytes]) -> Shard:
    return Shard(sort(written), lambda exchange, _: exchange, lambda _: 0)


def test_entries_of_a_released_version_are_read_as_what_they_were() -> None:
    shard = restored(golden_state.read(GOLDEN))
    ticks, compared = shard.states[TICKS], shard.states["acme/ticks/*/BTC-USD"]

    assert isinstance(ticks, KeyState)
    assert (ticks.watermark, ticks.prices, ticks.topic_id) == (LAST, True, "id-of-ps.acme.ticks.v1")
    assert (len(ticks.series.seconds) + len(ticks.series.tail), len(ticks.series.minutes)) == (119, 2)
    assert ticks.series.tail[-1].close == 108.0
    phases = {rule_id: held.standing.phase for (rule_id, _), held in ticks.book.machines.items()}
    assert phases == {"level": Phase.FIRING, "fall": Phase.INACTIVE}
    assert isinstance(compared, DivergenceState)
    assert {name: leg.price for name, leg in compared.legs.items()} == {"coinbase": 108.0, "kraken": 108.0}
    assert shard.positions == {
        "ps.acme.ticks.v1": Position("id-of-ps.acme.ticks.v1", 238),
        "ps.zeta.trades.v1": Position("id-of-ps.zeta.trades.v1", 119),
    }
    assert {alert.key for _, alert in shard.outbox.take_ready(())} == {TICKS, TICKS.replace("coinbase", "kraken")}


def test_what_is_written_of_a_released_versions_state_is_what_that_version_wrote() -> None:
    written = golden_state.read(GOLDEN)
    shard = restored(written)

    again = {name: value for key in shard.states for name, value in entries(key, None, shard.states[key], 0).items()}

    heads = {name for name in again if name.endswith("|head")}
    assert {name: value for name, value in again.items() if name not in heads} == {
        name: value for name, value in written.items() if not name.startswith("_") and name not in heads
    }


def examples() -> list[Any]:
    """Return one of each struct that state entries are made of, from the golden file and by hand."""
    shard = restored(golden_state.read(GOLDEN))
    state = shard.states[TICKS]
    assert isinstance(state, KeyState)
    block = snapshot._BLOCKS.decode(
        next(memoryview(value)[1:] for name, value in entries(TICKS, None, state, 0).items() if value and "sec" in name)
    )
    pane = snapshot._stored_pane(state.series.tail[-1])
    (rule_id, version), held = next(iter(state.book.machines.items()))
    rule = snapshot._rule(rule_id, version, held)
    ids = snapshot._stored_ids(1, state.seen[0].numbers, [])
    return [
        snapshot._head(state, 0),
        rule,
        ids,
        block,
        pane,
        Position("id", 7),
        PendingAlert(TICKS, b"k", b"v", [("a", b"b")]),
    ]


EXAMPLES: Final = examples()


def next_version_of(example: Any) -> type[msgspec.Struct]:
    """Return the struct as the next version may have it: with a field more, at the end, that has a default."""
    kind = type(example)
    options = {"frozen": True, "array_like": kind.__struct_config__.array_like}
    return msgspec.defstruct("Next", [("added", str, "unset")], bases=(kind,), **options)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__.strip("_"))
def test_the_next_version_reads_what_this_one_wrote(example: Any) -> None:
    later = msgspec.msgpack.decode(msgspec.msgpack.encode(example), type=next_version_of(example))

    assert [getattr(later, name) for name in example.__struct_fields__] == list(msgspec.structs.astuple(example))
    assert later.added == "unset"  # type: ignore[attr-defined] # the field that was added


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__.strip("_"))
def test_this_version_reads_what_the_next_one_writes(example: Any) -> None:
    later = next_version_of(example)(*msgspec.structs.astuple(example), added="something new")

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(later), type=type(example)) == example


def test_a_head_is_seen_through_by_what_it_says_of_its_clock() -> None:
    written = golden_state.read(GOLDEN)
    head = snapshot._HEADS.decode(memoryview(written[f"{TICKS}|head"])[1:])

    seen = snapshot.glance(TICKS, {"head": written[f"{TICKS}|head"]})

    names = ("exchange", "product", "dataset", "prices", "watermark", "clock_mark", "due")
    assert [getattr(seen, name) for name in names] == [getattr(head, name) for name in names]
    assert seen.__struct_fields__ == head.__struct_fields__[: len(seen.__struct_fields__)]
