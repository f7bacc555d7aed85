"""Every exchange's language against hostile input; `make fuzz` does the same a million times."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.venues.protocol import venues
from tests.fuzz.venues import main, run_batch
from tests.support.venue_fuzz import SessionJudge, frames_of, judge_page, mutated, pages_of

pytestmark = pytest.mark.parametrize("venue", venues())

KEYS = sorted(
    {
        *("type", "product_id", "sequence", "price", "time", "side", "channels", "name", "product_ids", "message"),
        *("stream", "data", "id", "result", "error", "code", "msg", "e", "E", "s", "c", "b", "B", "a", "A", "p", "t"),
        *("channel", "method", "success", "symbol", "timestamp", "last", "bid", "ask", "trade_id", "qty", "req_id"),
    }
)
WORDS = ["ticker", "trade", "match", "heartbeat", "subscriptions", "error", "subscribe", "BTC-USDT", "BTC/USDT"]
WORDS += ["btcusdt@trade", "btcusdt@ticker", "btcusdt@bookTicker", "BTCUSDT", "2023-11-14T22:13:20.123456Z", "buy"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=300) | st.text(max_size=200))
def test_no_bytes_and_no_text_make_a_session_raise(venue: str, frame: bytes | str) -> None:
    SessionJudge(venue, Counter()).hear(frame)


@given(VALUES)
def test_no_json_makes_a_session_raise_or_yield_an_unsound_record(venue: str, value: object) -> None:
    SessionJudge(venue, Counter()).hear(json.dumps(value))


@given(st.integers(0, 2**32))
def test_no_broken_frame_makes_a_session_raise_or_yield_an_unsound_record(venue: str, seed: int) -> None:
    chance, judge, frames = random.Random(seed), SessionJudge(venue, Counter()), frames_of(venue, None)

    for _ in range(10):
        judge.hear(mutated(chance, frames))

    judge.judge_growth()


@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_page_makes_a_parser_raise_anything_but_a_protocol_error(venue: str, body: bytes) -> None:
    judge_page(venue, body, Counter())


@given(st.integers(0, 2**32))
def test_no_broken_page_yields_an_unsound_record(venue: str, seed: int) -> None:
    chance, pages = random.Random(seed), pages_of(venue)

    for _ in range(10):
        judge_page(venue, mutated(chance, pages), Counter())


def test_a_batch_of_the_long_run_reaches_every_outcome_and_is_repeated_by_its_seed(
    venue: str, shared_data: Path
) -> None:
    counts: list[Counter[str]] = [Counter(), Counter()]

    faults = [
        run_batch(venue, seed=7, batch=venues().index(venue), size=3_000, counts=found, recordings=shared_data)
        for found in counts
    ]

    assert faults == [None, None]
    assert counts[0] == counts[1]
    assert {"Tick", "Trade", "Malformed", "Refused", "Subscriptions", "Ignored"} <= set(counts[0])
    assert {"ProtocolError", "Trade of a page", "Bar of a page"} <= set(counts[0])


def test_a_failure_names_the_input_and_the_command_that_repeats_it(
    venue: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unsound(*_: object) -> list[object]:
        raise KeyError("b")

    for name in venues():
        module = __import__(f"producers.venues.{name}", fromlist=["EXCHANGE"])
        session = type(module.EXCHANGE().session())
        monkeypatch.setattr(session, "receive", unsound)

    code = main(["--count", "100", "--seed", "3", "--venue", venue])

    assert code == 1
    assert "KeyError" in (said := capsys.readouterr().err)
    assert "--seed 3 --batch 0" in said


def test_the_judge_sees_a_session_that_grows_with_what_it_hears(venue: str) -> None:
    judge = SessionJudge(venue, Counter())
    hoard = vars(judge._session).setdefault("_hoard", {})
    for number in range(2_000):
        hoard[f"X{number}-USD"] = str(number)

    with pytest.raises(AssertionError, match="grew"):
        judge.judge_growth()
