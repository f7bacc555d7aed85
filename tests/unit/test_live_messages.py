"""The first message of a client of the live view, and repeats of alerts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.live.messages import Close, CloseError, Interest, interest, parse_subscribe, shortened
from api.live.repeats import Seen
from api.live.rows import Key
from api.live.view import is_repeat
from schemas.records import Alert

KEY = "ps_live_x"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("", "truncated"),
        ("hello", "malformed"),
        ("[]", "object"),
        ('{"type": "subscribe", "key": "k", "tenant": "acme"}', "tenant"),
        ('{"type": "publish", "key": "k"}', "publish"),
        ('{"type": "subscribe", "key": 1}', "key"),
        ('{"type": "subscribe", "key": "k", "datasets": []}', "datasets"),
        ('{"type": "subscribe", "key": "k", "datasets": ["trades"]}', "trades"),
        ('{"type": "subscribe", "key": "k", "products": "BTC-USD"}', "products"),
        ('{"type": "subscribe", "key": "k", "products": [""]}', "products"),
        (json.dumps({"type": "subscribe", "key": "k" * 201}), "key"),
        ("[" * 5_000, "array"),
        (b"\xff\xfe", "malformed"),
    ],
)
def test_what_is_no_subscribe_message_is_refused_and_says_why(message: str | bytes, words: str) -> None:
    with pytest.raises(CloseError) as refused:
        parse_subscribe(message)

    assert refused.value.code == Close.BAD_MESSAGE
    assert words in refused.value.reason


@given(st.text() | st.binary())
def test_no_message_raises_anything_else(message: str | bytes) -> None:
    with pytest.raises(CloseError):
        parse_subscribe(message)


def test_filters_that_are_left_out_let_everything_through() -> None:
    wanted = interest(parse_subscribe(json.dumps({"type": "subscribe", "key": KEY})))

    assert wanted == Interest()
    assert wanted.wants(Key("coinbase", "BTC-USD", "1m"))


def test_filters_hold_together() -> None:
    asked = {"type": "subscribe", "key": KEY, "products": ["BTC-USD"], "exchanges": ["coinbase"], "windows": ["1m"]}
    wanted = interest(parse_subscribe(json.dumps(asked)))

    assert wanted.wants(Key("coinbase", "BTC-USD"))
    assert wanted.wants(Key("coinbase", "BTC-USD", "1m"))
    assert not wanted.wants(Key("coinbase", "BTC-USD", "5m"))
    assert not wanted.wants(Key("kraken", "BTC-USD"))
    assert not wanted.wants(Key("coinbase", "ETH-USD"))


@given(st.text())
def test_a_reason_fits_into_a_close_frame(reason: str) -> None:
    assert len(shortened(reason).encode()) <= 123


def alert(seq: int, rule: str = "r") -> Alert:
    return Alert(
        alert_id=f"{rule}:{seq}",
        seq=seq,
        rule_id=rule,
        rule_name="n",
        rule_version=1,
        exchange="coinbase",
        product="BTC-USD",
        state="firing",
        at=seq,
        reason="x",
        severity="info",
        labels={},
        last_prices=[],
    )


def test_an_alert_that_is_sent_again_is_a_repeat() -> None:
    seen = Seen()

    verdicts = [is_repeat(seen, alert(seq), is_stored=False) for seq in (1, 2, 3, 2, 3, 4)]

    assert verdicts == [False, False, False, True, True, False]


def test_repeats_of_what_was_stored_before_this_process_began_are_told_by_the_database_one_by_one() -> None:
    seen = Seen()

    verdicts = [is_repeat(seen, alert(seq), is_stored=seq < 8) for seq in (6, 7, 8, 7, 8, 9)]

    assert verdicts == [True, True, False, True, True, False]


def test_rules_are_remembered_in_bounded_number() -> None:
    seen = Seen(2)
    for rule in ("a", "b", "c"):
        is_repeat(seen, alert(1, rule), is_stored=False)

    assert [is_repeat(seen, alert(1, rule), is_stored=False) for rule in ("b", "c", "a")] == [True, True, False]
