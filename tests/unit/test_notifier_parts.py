"""The notifier's pure parts: signatures, retries, answers, matching, grouping, words."""

import base64
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from pulsestream.core.errors import SettingsError
from pulsestream.core.settings import Settings
from schemas.notification import Channel, decode, encode
from sinks.notifier import signing
from sinks.notifier.flushing import MOST, Flush, Group, Held, flush
from sinks.notifier.matching import Matchers, Transition, ended, fits, fresh, group_key, group_labels, labels_of, shown
from sinks.notifier.outbound import Answer
from sinks.notifier.retries import DEFAULT, schedule, wait
from sinks.notifier.sending import of_answer
from tests.support.sinking import alert

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@given(st.binary(max_size=200), st.integers(24, 64))
def test_a_signature_is_the_one_that_the_specifications_library_makes(body: bytes, size: int) -> None:
    secret = signing.PREFIX + base64.b64encode(secrets.token_bytes(size)).decode()
    text = body.decode("latin-1")

    made = signing.signature(secret, "msg_1", 1_700_000_000, text.encode())

    assert made == Webhook(secret).sign("msg_1", datetime.fromtimestamp(1_700_000_000, UTC), text)


def test_the_schedule_is_28_hours_with_jitter() -> None:
    waits = schedule(DEFAULT)

    assert Settings().notify_retries == DEFAULT
    assert [sum(waits[:n]) for n in range(1, 8)] == [5, 305, 2105, 9305, 27305, 63305, 99305]
    drawn = [wait(waits, 1) or 0 for _ in range(200)]
    assert 270 <= min(drawn) < max(drawn) <= 330
    assert len(set(drawn)) > 100
    assert wait(waits, 7) is None
    assert wait(waits, 0, 60) == 60
    assert (wait(waits, 0, 1e9) or 0) == 3600


@pytest.mark.parametrize("text", ["x", "1;2", "-1", "nan", "9" * 9, ", ".join(["1"] * 21)])
def test_a_wrong_schedule_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="PULSESTREAM_NOTIFY_RETRIES"):
        schedule(text)


@pytest.mark.parametrize(
    ("status", "field", "wish"),
    [
        (429, "7", 7.0), (503, "7", 7.0), (500, "7", None), (429, "soon", None), (429, "-1", None),
        (429, "Thu, 01 Jan 1970 00:01:40 GMT", 40.0), (429, "Thu, 01 Jan 1970 00:00:00 GMT", 0.0), (429, "", None),
    ],
)  # fmt: skip
def test_a_wish_to_wait_is_heeded_where_it_makes_sense(status: int, field: str, wish: float | None) -> None:
    assert of_answer(Answer(status, {"retry-after": field}), 60).wish == wish


def test_an_answer_is_kept_as_text_that_a_database_holds() -> None:
    found = of_answer(Answer(200, {}, b"a\0b\xff\xed\xa0\x80" + b"x" * 5000), 0)

    assert found.delivered
    assert found.response is not None
    assert "\0" not in found.response
    assert len(found.response) == 1000


def test_matchers_all_have_to_fit_and_of_their_values_one() -> None:
    told = alert(1, severity="critical", product="BTC-USD", labels={"desk": "spot"})

    assert fits(Matchers(), told)
    assert fits(Matchers(severities=["warning", "critical"], products=["BTC-USD"], labels={"desk": ["spot"]}), told)
    for wrong in (
        Matchers(severities=["info"]), Matchers(rule_ids=["other"]), Matchers(exchanges=["kraken"]),
        Matchers(products=["ETH-USD"]), Matchers(labels={"desk": ["fx"]}), Matchers(labels={"none": ["x"]}),
    ):  # fmt: skip
        assert not fits(wrong, told)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4))
def test_groups_are_told_apart_by_what_their_alerts_have_in_common(labels: dict[str, str]) -> None:
    names = ["rule", "severity", *(f"label:{name}" for name in labels)]
    found = group_labels(names, alert(1, labels=labels))

    assert labels_of(group_key(found)) == found
    assert group_key(found) == group_key(dict(reversed(found.items())))


def test_only_a_seq_that_rises_is_taken_and_only_what_fires_or_ends_is_told() -> None:
    states = ((3, "pending"), (4, "firing"), (4, "firing"), (2, "resolved"), (5, "resolved"), (6, "inactive"))
    sent = [Transition("acme", alert(number, state=state, rule_id="r")) for number, state in states]

    taken, heads = fresh(sent, {})

    assert [(each.alert.seq, each.alert.state) for each in taken] == [(4, "firing"), (5, "resolved")]
    assert list(heads.values()) == [6]
    assert fresh(sent, heads) == ([], {})


# ---- grouping ----


def held(
    key: str, state: str = "firing", episode: str = "1", told: tuple[str | None, str | None] = (None, None)
) -> Held:
    made = shown(alert(1, rule_name=key, product=key))
    if state == "resolved":
        made = type(made)(**{name: getattr(made, name) for name in made.__struct_fields__} | {
            "status": "resolved", "ended_at": "2026-01-31T11:00:00.000000Z",
        })  # fmt: skip
    return Held(key, episode, state, made, 1, *told)


def looked(*alerts: Held, told_at: datetime | None = None, send_resolved: bool = True) -> Flush:
    group = Group("acme", Channel("c", "desk"), "{}", {}, told_at, 60.0, 3600.0, send_resolved)
    return flush(group, alerts, NOW)


def statuses(found: Flush) -> list[tuple[str, str]]:
    assert found.message is not None
    return [(each.product, each.status) for each in found.message.data.alerts]


def test_news_bring_all_that_fires_and_what_ended_since() -> None:
    told = NOW - timedelta(minutes=5)
    found = looked(
        held("a", told=("1", "firing")), held("b"), held("c", "resolved", told=("1", "firing")),
        held("d", "resolved", told=("1", "resolved")), told_at=told,
    )  # fmt: skip

    assert statuses(found) == [("a", "firing"), ("b", "firing"), ("c", "resolved")]
    assert found.told == (("a", "1", "firing", 1), ("b", "1", "firing", 1), ("c", "1", "resolved", 1))
    assert found.message is not None
    assert (found.message.type, found.message.data.repeat) == ("alert.firing", False)
    assert decode(encode(found.message)) == found.message


def test_without_news_it_is_quiet_until_the_repeat_interval_is_over() -> None:
    alerts = [held("a", told=("1", "firing"))]

    early = looked(*alerts, told_at=NOW - timedelta(minutes=59))
    late = looked(*alerts, told_at=NOW - timedelta(minutes=60))

    assert (early.message, early.again) == (None, NOW + timedelta(minutes=1))
    assert late.message is not None
    assert late.message.data.repeat


def test_an_end_is_told_only_where_it_is_wanted_or_nothing_was_told_before() -> None:
    known, unknown = held("a", "resolved", told=("1", "firing")), held("b", "resolved")

    quiet = looked(known, told_at=NOW, send_resolved=False)

    assert (quiet.message, quiet.again, quiet.done) == (None, None, ("a",))
    assert statuses(looked(known, told_at=NOW)) == [("a", "resolved")]
    assert statuses(looked(known, unknown, told_at=NOW, send_resolved=False)) == [("b", "resolved")]


def test_of_muted_alerts_nothing_is_said_until_they_are_muted_no_more() -> None:
    quiet = replace(held("a"), muted=True)
    ended_unheard = replace(held("b", "resolved"), muted=True)
    ended_known = replace(held("c", "resolved", told=("1", "firing")), muted=True)

    found = looked(quiet, ended_unheard, ended_known)

    assert (found.message, found.again, found.done) == (None, NOW + timedelta(seconds=60), ("b",))
    assert statuses(looked(quiet, held("d"))) == [("d", "firing")]
    assert looked(quiet, held("d")).again == NOW + timedelta(seconds=60)
    assert statuses(looked(replace(quiet, muted=False), replace(ended_known, muted=False))) == [
        ("a", "firing"), ("c", "resolved"),
    ]  # fmt: skip


def test_an_alert_that_fires_anew_is_news() -> None:
    assert statuses(looked(held("a", episode="2", told=("1", "firing")), told_at=NOW)) == [("a", "firing")]


def test_a_message_has_room_for_so_many_and_the_next_one_follows() -> None:
    found = looked(*(held(f"p{n:03}") for n in range(MOST + 30)))

    assert found.message is not None
    assert (len(found.message.data.alerts), found.message.data.more) == (MOST, 30)
    assert found.again == NOW + timedelta(seconds=60)
    assert "and 110 more" in found.message.data.text


def test_words_are_one_line_an_alert_whatever_names_hold() -> None:
    bad = shown(alert(1, rule_name="x\r\nBcc: all@example.com", reason="up\x00\u2028\u202e!", labels={}))
    found = looked(Held("k", "1", "firing", bad, 1, None, None))

    assert found.message is not None
    assert len(found.message.data.text.splitlines()) == 2
    assert "\u202e" not in found.message.data.text


def test_the_end_of_an_alert_changes_what_is_shown_of_it() -> None:
    over = alert(2, state="resolved", value=0.5, reason="below again")

    assert {"status": "resolved", "reason": "below again", "value": 0.5}.items() <= ended(over).items()
