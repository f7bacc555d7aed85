import json
import re
from pathlib import Path
from typing import get_args

import pytest

from producers.exchange.dialects import Binance, Coinbase, Kraken
from producers.exchange.dialects.base import Query
from producers.exchange.errors import SimulatorError
from producers.exchange.faults import Deed, Fault, FaultPlan, Injector
from producers.exchange.market import FeedFrame

DOCUMENT = Path(__file__).parents[2] / "docs" / "feeds.md"
TRADE = FeedFrame("matches", "BTC-USD", '{"type":"match","time":"2026-01-31T12:00:00.000000Z"}', 7, 5, (5,))
TICK = FeedFrame("ticker", "BTC-USD", '{"type":"ticker"}', 7, 5)
OTHER = FeedFrame("matches", "ETH-USD", '{"type":"match"}', 9, 6, (6,))


def injector(*planned: dict[str, object], seed: int = 7) -> Injector:
    return Injector(FaultPlan.model_validate({"seed": seed, "faults": planned}), Coinbase())


def deed(of: Injector, frame: FeedFrame = TRADE, elapsed: float = 0.0) -> Deed:
    return of.frame(frame, frame.text, elapsed)


def happened(of: Injector, frames: list[FeedFrame], elapsed: float = 0.0) -> list[int]:
    return [number for number, frame in enumerate(frames) if deed(of, frame, elapsed).injected]


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(SimulatorError) as caught:
        FaultPlan.read(path)
    return str(caught.value)


def test_the_documented_plan_is_a_plan_and_shows_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    documented = re.search(r"^```yaml\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert documented is not None
    path.write_text(documented[1])

    plan = FaultPlan.read(path)

    assert [fault.kind for fault in plan.faults] == list(dict.fromkeys(fault.kind for fault in plan.faults))
    assert {type(fault) for fault in plan.faults} == set(get_args(Fault))
    assert (plan.faults[0].when.during, plan.faults[0].when.count) == (30, 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\nfaults:\n  - kind: dorp\n", "line 3, faults.0: "),
        ("faults:\n  - {kind: drop}\n  - kind: delay\n    seconds: -1\n", "line 4, faults.1.seconds: "),
        ("faults:\n  - kind: drop\n    when:\n      evry: 3\n", "line 4, faults.0.when.evry: Extra inputs"),
        ("faults:\n  - kind: delay\n", "line 2, faults.0.seconds: Field required"),
        ("faults:\n  - kind: drop\n    when: {every: 0}\n", "line 3, faults.0.when.every: "),
        ("sede: 1\n", "line 1, sede: Extra inputs"),
        ("faults: [{kind: drop\n", "line 2 is no YAML"),
        ("- 1\n", "line 1"),
    ],
)
def test_a_wrong_plan_is_refused_with_line_and_field(tmp_path: Path, text: str, told: str) -> None:
    assert told in refused(tmp_path, text)


def test_a_plan_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match=r"none\.yaml: cannot be read"):
        FaultPlan.read(tmp_path / "none.yaml")


def test_a_fault_happens_every_nth_time_at_most_so_often() -> None:
    planned = injector({"kind": "drop", "when": {"every": 3, "count": 2}})

    assert happened(planned, [TRADE] * 20) == [2, 5]


def test_a_fault_happens_in_its_time_only() -> None:
    planned = injector({"kind": "drop", "when": {"after": 5, "for": 10}})

    assert [bool(deed(planned, elapsed=at).injected) for at in (0, 4.9, 5, 14.9, 15, 99)] == [
        False, False, True, True, False, False,
    ]  # fmt: skip


def test_a_fault_concerns_its_channel_and_product_only() -> None:
    by_both = injector({"kind": "drop", "match": {"channel": "trades", "product": "BTC-USD"}})
    by_own_name = injector({"kind": "drop", "match": {"channel": "ticker"}})

    assert happened(by_both, [TRADE, TICK, OTHER]) == [0]
    assert happened(by_own_name, [TRADE, TICK, OTHER]) == [1]


def test_the_same_seed_throws_the_same_dice_and_another_others() -> None:
    rare: dict[str, object] = {"kind": "drop", "when": {"probability": 0.3}}

    first, again, other = (happened(injector(rare, seed=seed), [TRADE] * 300) for seed in (7, 7, 8))

    assert first == again != other
    assert 50 < len(first) < 130


def test_the_first_fault_that_happens_to_a_frame_is_the_only_one() -> None:
    planned = injector({"kind": "drop", "when": {"count": 1}}, {"kind": "duplicate", "when": {"count": 1}})

    kinds = [done.injected and done.injected.kind for done in (deed(planned), deed(planned), deed(planned))]
    assert kinds == ["drop", "duplicate", None]


def test_what_happens_to_a_frame_is_told_with_all_that_it_concerns() -> None:
    told = deed(injector({"kind": "drop", "rest": False})).injected

    assert told is not None
    assert (told.fault, told.kind, told.product, told.trade_ids) == (0, "drop", "BTC-USD", (5,))
    assert (told.frame, told.detail) == (TRADE, {"rest": False})


def test_a_frame_is_dropped_doubled_delayed_or_held_behind_others() -> None:
    text = TRADE.text

    assert deed(injector({"kind": "drop"})).now == ()
    assert deed(injector({"kind": "duplicate", "times": 2})).now == (text, text, text)
    assert deed(injector({"kind": "delay", "seconds": 1.5})).later == (text, 1.5)
    assert deed(injector({"kind": "reorder", "by": 3, "within": 2})).behind == (text, 3, 2)
    assert deed(injector({"kind": "half_open"})).silent
    assert deed(injector({"kind": "close", "code": 4000, "reason": "why"})).close == (4000, "why")
    assert deed(injector({"kind": "slow_drip", "seconds": 2, "bytes_per_second": 9})).drip == (2, 9)


def test_a_damaged_frame_is_no_json_and_is_told() -> None:
    planned = injector({"kind": "corrupt"})

    for _ in range(100):
        done = deed(planned)
        assert done.injected is not None
        assert done.now == (done.injected.sent,)
        with pytest.raises(json.JSONDecodeError):
            json.loads(done.now[0])


def test_an_oversized_frame_goes_before_the_real_one() -> None:
    large, text = deed(injector({"kind": "oversize", "bytes": 5000})).now

    assert len(large) > 5000
    assert json.loads(large)
    assert text == TRADE.text


def test_a_skewed_frame_has_other_times() -> None:
    done = deed(injector({"kind": "clock_skew", "seconds": -90}))

    assert json.loads(done.now[0])["time"] == "2026-01-31T11:58:30.000000Z"
    assert done.injected is not None
    assert done.injected.sent == done.now[0]


def test_requests_and_handshakes_have_faults_of_their_own() -> None:
    planned = injector(
        {"kind": "http_429", "to": "websocket", "retry_after": 3, "when": {"count": 1}},
        {"kind": "rest_500", "when": {"count": 1}},
        {"kind": "rest_truncated", "when": {"count": 1}},
        {"kind": "accept_then_close", "when": {"count": 1}},
    )
    query = Query("/time")

    handshakes = [planned.handshake(0) for _ in range(3)]
    requests = [planned.request(query, 0) for _ in range(3)]

    assert [done and done[1].kind for done in handshakes] == ["http_429", "accept_then_close", None]
    assert [done and done[1].kind for done in requests] == ["rest_500", "rest_truncated", None]
    assert deed(planned) == Deed((TRADE.text,))


def test_trades_are_hidden_from_rest_by_product() -> None:
    planned = injector({"kind": "rest_missing", "match": {"product": "BTC-USD"}, "when": {"every": 2}})

    hidden = [planned.hidden(product, number, 0) for number in range(4) for product in ("BTC-USD", "ETH-USD")]

    assert [told.trade_ids for told in hidden if told] == [(1,), (3,)]


@pytest.mark.parametrize("dialect", [Binance(), Kraken(), Coinbase()])
def test_channels_have_the_same_names_for_every_exchange(dialect: Binance | Kraken | Coinbase) -> None:
    plan = FaultPlan.model_validate({"faults": [{"kind": "drop", "match": {"channel": "trades"}}]})
    [trades] = [name for name in dialect.kinds["trades"] if name != "aggTrade"]
    [ticks] = dialect.kinds["ticks"]

    planned = Injector(plan, dialect)

    assert deed(planned, FeedFrame(trades, "A-B", '{"a":1}')).injected
    assert not deed(planned, FeedFrame(ticks, "A-B", '{"a":1}')).injected
