"""Alerts on their topic reach real receivers: signed, grouped, again until they answer, whoever else is slow."""

import base64
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import psycopg
import pytest
from standardwebhooks import Webhook

from pulsestream.local.kafka import EmbeddedKafka
from schemas.records import Alert
from tests.support.api import installation
from tests.support.e2e import Installation, Service, Tenant, rows
from tests.support.notifying import (
    CHANNELS,
    LOCAL,
    Mailbox,
    Receiver,
    attempts,
    channel,
    firing,
    mail_server,
    make_alert_topic,
    over,
    receiver,
    send_alerts,
    wait_until,
    webhook,
)
from tests.support.rounds import Rounds
from tests.support.sinking import send


@dataclass(frozen=True)
class Desk:
    """A tenant whose alerts are told, and who gets them."""

    running: Installation
    tenant: Tenant
    inbox: Receiver
    mailbox: Mailbox

    def send(self, *alerts: Alert) -> None:
        send_alerts(self.running.admin, self.tenant.slug, *alerts)

    def has(self, path: str, count: int) -> bool:
        return len(self.inbox.at(path)) >= count

    def state(self, channel: str) -> list[str]:
        found = rows(
            self.running.database, "SELECT state FROM notifications WHERE channel_id = %(id)s ORDER BY id", id=channel
        )
        return [row["state"] for row in found]


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("notifier")
    given = {"notify_private": LOCAL, "notify_retries": "0.2, 0.2", "notify_timeout": 1}
    with (
        receiver() as inbox,
        mail_server(folder) as mailbox,
        installation(
            folder, broker, database_server, migrated_template, "relay", "api", "notifier", **given, **_relay(mailbox)
        ) as running,
    ):
        tenant = running.register("desk")
        make_alert_topic(running.admin, tenant.slug)
        yield Desk(running, tenant, inbox, mailbox)


def _relay(mailbox: Mailbox) -> dict[str, object]:
    return {
        "notify_smtp_host": "127.0.0.1",
        "notify_smtp_port": mailbox.port,
        "notify_smtp_ca_file": mailbox.ca_file,
        "notify_from": "alerts@pulse.example",
    }


def only(rule: str) -> dict[str, list[str]]:
    return {"rule_ids": [rule]}


def test_an_alert_reaches_a_webhook_signed_as_standard_webhooks_says(desk: Desk) -> None:
    made = webhook(desk.tenant, desk.inbox.url("/ok/signed"), matchers=only("signed"))

    desk.send(firing("signed", labels={"desk": "spot"}, severity="critical"))
    [request] = desk.inbox.wait("/ok/signed")

    Webhook(made["secret"]).verify(request.body, request.headers)  # raises for a wrong signature or an old timestamp
    told = request.data["alerts"][0]
    assert (told["rule_name"], told["product"], told["status"], told["severity"]) == (
        "signed", "BTC-USD", "firing", "critical",
    )  # fmt: skip
    assert told["labels"] == {"desk": "spot"}
    assert request.data["text"].startswith("[CRITICAL] 1 firing: signed BTC-USD\n")
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"))) == 24
    wait_until(lambda: attempts(desk.tenant, made["id"]))
    [attempt] = attempts(desk.tenant, made["id"])
    assert (attempt["message_id"], attempt["outcome"], attempt["status"], attempt["response"]) == (
        request.id, "delivered", 200, "thanks",
    )  # fmt: skip


def test_its_end_is_told_after_the_group_interval_and_nothing_more_behind_it(desk: Desk) -> None:
    made = webhook(desk.tenant, desk.inbox.url("/ok/ended"), matchers=only("ended"))

    desk.send(firing("ended"))
    desk.inbox.wait("/ok/ended")
    desk.send(over("ended"))
    first, second = desk.inbox.wait("/ok/ended", 2)

    assert (first.alerts, second.alerts) == ([("ended", "firing")], [("ended", "resolved")])
    assert second.at - first.at > 0.9
    assert second.data["alerts"][0]["started_at"] == first.data["alerts"][0]["started_at"]
    assert second.data["alerts"][0]["ended_at"] > second.data["alerts"][0]["started_at"]
    wait_until(lambda: desk.state(made["id"]) == ["delivered", "delivered"])
    left = rows(desk.running.database, "SELECT FROM notification_groups WHERE channel_id = %(id)s", id=made["id"])
    assert left == []


def test_alerts_of_a_group_are_told_together_and_matchers_choose(desk: Desk) -> None:
    webhook(
        desk.tenant, desk.inbox.url("/ok/group"), group_by=["label:desk"], group_wait="700ms",
        matchers={"severities": ["critical"], "products": ["BTC-USD", "ETH-USD"], "labels": {"desk": ["spot", "fx"]}},
    )  # fmt: skip
    wanted = {"severity": "critical", "labels": {"desk": "fx"}}

    desk.send(
        firing("one", "BTC-USD", **wanted), firing("two", "ETH-USD", **wanted), firing("three", "SOL-USD", **wanted),
        firing("four", "BTC-USD", **wanted | {"severity": "info"}), firing("five", "BTC-USD", severity="critical"),
        firing("six", "BTC-USD", **wanted | {"labels": {}}),
    )  # fmt: skip
    requests = desk.inbox.wait("/ok/group", 2)

    told = sorted(sorted(rule for rule, _ in request.alerts) for request in requests)
    assert told == [["five"], ["one", "two"]]
    assert {str(request.data["group"]) for request in requests} == {"{'label:desk': 'fx'}", "{'label:desk': 'spot'}"}


def test_what_fires_still_is_told_again_after_the_repeat_interval(desk: Desk) -> None:
    made = webhook(desk.tenant, desk.inbox.url("/ok/repeat"), matchers=only("repeat"))
    rows(
        desk.running.database,
        "UPDATE channels SET repeat_interval = 1 WHERE id = %(id)s RETURNING id",
        id=made["id"],
    )

    desk.send(firing("repeat"))
    first, second = desk.inbox.wait("/ok/repeat", 2)[:2]
    desk.send(over("repeat"))

    assert (first.data["repeat"], second.data["repeat"]) == (False, True)
    assert first.id != second.id
    assert "still 1 firing" in second.data["text"]


def test_an_alert_that_is_over_before_the_first_message_is_told_of_all_the_same(desk: Desk) -> None:
    webhook(desk.tenant, desk.inbox.url("/ok/short"), matchers=only("short"), group_wait="500ms", send_resolved=False)

    desk.send(firing("short"), over("short"), firing("short"), over("short"))
    [request] = desk.inbox.wait("/ok/short")

    assert request.alerts == [("short", "resolved")]
    assert request.data["alerts"][0]["firings"] == 2


def test_a_transition_that_the_streams_send_again_is_told_once(desk: Desk) -> None:
    made = webhook(desk.tenant, desk.inbox.url("/ok/again"), matchers=only("again"))
    first, last = firing("again"), firing("again", "ETH-USD")

    desk.send(first, first)
    desk.inbox.wait("/ok/again")
    desk.send(first, last)
    desk.inbox.wait("/ok/again", 2)
    time.sleep(1.2)  # a group's interval, in which a repeat would be told

    assert [request.data["alerts"][0]["product"] for request in desk.inbox.at("/ok/again")] == ["BTC-USD", "ETH-USD"]
    assert desk.state(made["id"]) == ["delivered", "delivered"]


def test_of_alerts_that_are_old_nobody_is_told(desk: Desk) -> None:
    webhook(desk.tenant, desk.inbox.url("/ok/old"), matchers=only("old"))

    desk.send(firing("old", "BTC-USD", age=3700), over("old", "BTC-USD"), firing("old", "ETH-USD", age=60))
    [request] = desk.inbox.wait("/ok/old")

    assert request.data["alerts"][0]["product"] == "ETH-USD"


FAILURES = {
    "500": (500, "answered 500"),
    "redirect": (302, "redirects are not followed"),
    "never": (None, "no answer within 1 s"),
    "reset": (None, "no answer"),
    "drip": (None, "no answer"),
    "garbage": (None, "no answer"),
}


def test_a_receiver_that_fails_gets_the_same_message_again_until_it_is_given_up(desk: Desk) -> None:
    made = {how: webhook(desk.tenant, desk.inbox.url(f"/{how}/fails"), matchers=only(how))["id"] for how in FAILURES}

    desk.send(*(firing(how) for how in FAILURES))
    wait_until(lambda: all(desk.state(channel) == ["failed"] for channel in made.values()))

    for how, (status, said) in FAILURES.items():
        found = attempts(desk.tenant, made[how])
        requests = desk.inbox.at(f"/{how}/fails")
        assert [each["number"] for each in found] == [3, 2, 1]
        assert {(each["status"], each["outcome"]) for each in found} == {(status, "failed")}
        assert all(said in each["error"] for each in found)
        assert {request.id for request in requests} == {found[0]["message_id"]}
        assert len({request.body for request in requests}) == 1
        assert desk.tenant.call("GET", f"{CHANNELS}/{made[how]}")["failing_since"] is not None
    assert desk.inbox.at("/ok/behind-a-redirect") == []


def test_a_receiver_that_says_when_is_asked_again_then(desk: Desk) -> None:
    webhook(desk.tenant, desk.inbox.url("/429/later"), matchers=only("later"))

    desk.send(firing("later"))
    first, second = desk.inbox.wait("/429/later", 2)[:2]

    assert second.at - first.at > 0.95


def test_a_channel_that_is_gone_or_fails_for_days_is_disabled_and_the_others_are_told(desk: Desk) -> None:
    other = desk.running.register("disabling")
    make_alert_topic(desk.running.admin, other.slug)
    webhook(other, desk.inbox.url("/ok/notices"), matchers=only("nothing"))
    gone = webhook(other, desk.inbox.url("/410/gone"), matchers=only("first"))
    failing = webhook(other, desk.inbox.url("/500/days"), matchers=only("second"))
    rows(
        desk.running.database,
        "UPDATE channels SET failing_since = now() - interval '5 days 1 second' WHERE id = %(id)s RETURNING id",
        id=failing["id"],
    )

    send_alerts(desk.running.admin, other.slug, firing("first"), firing("second"))
    notices = desk.inbox.wait("/ok/notices", 2)
    entries = other.call("GET", "/api/v1/audit", params={"action": "channel.disable"})["entries"]
    shown = [other.call("GET", f"{CHANNELS}/{channel['id']}") for channel in (gone, failing)]

    assert {json.loads(notice.body)["type"] for notice in notices} == {"channel.disabled"}
    assert [each["state"] for each in shown] == ["disabled", "disabled"]
    assert "410" in shown[0]["disabled_reason"]
    assert "5 days" in shown[1]["disabled_reason"]
    assert {entry["target"] for entry in entries} == {f"channel:{gone['id']}", f"channel:{failing['id']}"}
    wait_until(lambda: set(desk.state(failing["id"])) == {"failed"})
    assert other.call("GET", "/api/v1/audit/verify")["intact"]
    again = other.call("PATCH", f"{CHANNELS}/{failing['id']}", json={"enabled": True})
    assert (again["state"], again["disabled_reason"], again["failing_since"]) == ("active", None, None)


def test_of_an_answer_without_an_end_only_the_beginning_is_read(desk: Desk) -> None:
    made = webhook(desk.tenant, desk.inbox.url("/huge/body"), matchers=only("huge"))

    desk.send(firing("huge"))
    wait_until(lambda: desk.state(made["id"]) == ["delivered"])

    assert attempts(desk.tenant, made["id"])[0]["response"] == "x" * 1000


def test_news_that_did_not_arrive_are_in_the_message_that_takes_their_place(desk: Desk) -> None:
    path = "/ok/recovers"
    made = webhook(desk.tenant, desk.inbox.url(path), matchers=only("recovers"), group_by=[])
    desk.inbox.failing.add(path)

    desk.send(firing("recovers", "BTC-USD"))
    desk.inbox.wait(path)
    desk.send(firing("recovers", "ETH-USD"), over("recovers", "BTC-USD"))
    wait_until(lambda: len(desk.state(made["id"])) > 1)
    desk.inbox.failing.discard(path)
    rows(
        desk.running.database,
        "UPDATE notification_groups SET flush_at = now() WHERE channel_id = %(id)s RETURNING flush_at",
        id=made["id"],
    )
    wait_until(lambda: "delivered" in desk.state(made["id"]))

    last = desk.inbox.at(path)[-1]
    assert {(alert["product"], alert["status"]) for alert in last.data["alerts"]} == {
        ("ETH-USD", "firing"), ("BTC-USD", "resolved"),
    }  # fmt: skip
    assert desk.tenant.call("GET", f"{CHANNELS}/{made['id']}")["failing_since"] is None


def test_receivers_that_never_answer_hold_up_no_other(desk: Desk) -> None:
    slow = [
        webhook(desk.tenant, desk.inbox.url(f"/never/{n}"), matchers=only("crowd"), group_by=["product"])
        for n in range(6)
    ]
    webhook(desk.tenant, desk.inbox.url("/ok/brisk"), matchers=only("brisk"))

    desk.send(*(firing("crowd", f"P{n}-USD") for n in range(20)))
    wait_until(lambda: len(desk.inbox.at("/never/0")) >= 4)
    desk.send(firing("brisk"))
    [request] = desk.inbox.wait("/ok/brisk")

    before = [each for each in desk.inbox.received if each.path.startswith("/never/") and each.at < request.at]
    assert len(before) < 72, "it waited until others' 120 messages, sent before it, had their turn"
    for made in slow:
        desk.tenant.call("DELETE", f"{CHANNELS}/{made['id']}", expect=204)


def test_a_channel_that_is_deleted_while_its_message_is_under_way_harms_no_other(desk: Desk) -> None:
    path = "/never/deleted"
    made = webhook(desk.tenant, desk.inbox.url(path), matchers=only("deleted"))
    desk.send(firing("deleted"))
    desk.inbox.wait(path)

    with psycopg.connect(desk.running.database.url()) as connection:
        connection.execute("DELETE FROM channels WHERE id = %s", (made["id"],))
        time.sleep(1.5)  # the attempt is over, and what is written about it waits for the deletion
    webhook(desk.tenant, desk.inbox.url("/ok/deleted"), matchers=only("deleted"))
    desk.send(firing("deleted", "ETH-USD"))

    desk.inbox.wait("/ok/deleted")
    desk.running["notifier"].assert_alive()


def test_who_changes_a_channel_and_its_messages_never_waits_in_a_circle(desk: Desk) -> None:
    path = "/never/circle"
    made = webhook(desk.tenant, desk.inbox.url(path), matchers=only("circle"))
    desk.send(firing("circle"))
    desk.inbox.wait(path)

    with psycopg.connect(desk.running.database.url()) as connection:
        connection.execute("SET deadlock_timeout = '10ms'")  # so that this one would be ended, and not the notifier's
        connection.execute("SELECT FROM channels WHERE id = %s FOR UPDATE", (made["id"],))
        time.sleep(1.5)  # the attempt is over, and what is written about it waits for the channel
        connection.execute("UPDATE notifications SET detail = 'ours' WHERE channel_id = %s", (made["id"],))
    desk.tenant.call("DELETE", f"{CHANNELS}/{made['id']}", expect=204)


def test_a_transaction_that_the_database_ends_because_two_wait_for_each_other_is_tried_again(desk: Desk) -> None:
    path = "/never/deadlock"
    made = webhook(desk.tenant, desk.inbox.url(path), matchers=only("deadlock"))
    desk.send(firing("deadlock"))
    desk.inbox.wait(path)

    with psycopg.connect(desk.running.database.url()) as connection:
        connection.execute("SET deadlock_timeout = '1h'")  # so that the other one finds the deadlock
        connection.execute("SELECT FROM notification_groups WHERE channel_id = %s FOR UPDATE", (made["id"],))
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: rows(desk.running.database, waiting))
        connection.execute("UPDATE notifications SET detail = 'ours' WHERE channel_id = %s", (made["id"],))

    wait_until(lambda: desk.state(made["id"]) == ["failed"])
    desk.running["notifier"].assert_alive()


def test_a_test_message_is_sent_once_and_logged(desk: Desk) -> None:
    made = webhook(desk.tenant, desk.inbox.url("/ok/test"), matchers=only("nothing"))
    broken = webhook(desk.tenant, desk.inbox.url("/500/test"), matchers=only("nothing"))

    sent = desk.tenant.call("POST", f"{CHANNELS}/{made['id']}/test", expect=202)["message_id"]
    failed = desk.tenant.call("POST", f"{CHANNELS}/{broken['id']}/test", expect=202)["message_id"]
    [request] = desk.inbox.wait("/ok/test")
    wait_until(lambda: attempts(desk.tenant, broken["id"]))

    Webhook(made["secret"]).verify(request.body, request.headers)
    assert request.id == sent
    assert [each["message_id"] for each in attempts(desk.tenant, broken["id"])] == [failed]
    assert desk.tenant.call("GET", f"{CHANNELS}/{broken['id']}")["failing_since"] is None


def test_kill_9_loses_no_alert_and_an_alert_has_one_message_id(desk: Desk, rounds: Rounds) -> None:
    path, notifier = "/ok/killed", desk.running["notifier"]
    made = webhook(desk.tenant, desk.inbox.url(path), matchers={"labels": {"run": ["killed"]}})
    sent: list[str] = []

    for _ in range(rounds(1, 20)):
        names = [f"killed-{len(sent) + number}" for number in range(60)]
        sender = threading.Thread(target=_send_slowly, args=(desk, names))
        sender.start()
        sent += names
        wait_until(partial(desk.has, path, len(sent) - 40))
        notifier.kill()
        notifier.start()
        sender.join()
    wait_until(lambda: {rule for each in desk.inbox.at(path) for rule, _ in each.alerts} >= set(sent), 60)
    wait_until(lambda: set(desk.state(made["id"])) == {"delivered"})

    ids: dict[str, set[tuple[str, bytes]]] = {}
    for request in desk.inbox.at(path):
        for rule, _ in request.alerts:
            ids.setdefault(rule, set()).add((request.id, request.body))
    assert set(ids) == set(sent)
    assert [rule for rule, found in ids.items() if len(found) != 1] == []
    notifier.wait_ready()


def _send_slowly(desk: Desk, names: list[str]) -> None:
    for start in range(0, len(names), 6):
        desk.send(*(firing(name, labels={"run": "killed"}) for name in names[start : start + 6]))
        time.sleep(0.05)


def test_an_alert_reaches_people_by_mail_and_in_their_chats(desk: Desk) -> None:
    token = "123456:" + "A" * 35
    matchers = {"matchers": only("people")}
    mail = channel(desk.tenant, {"kind": "email", "to": ["desk@example.com", "risk@example.com"]}, **matchers)
    slack = channel(desk.tenant, {"kind": "slack", "url": desk.inbox.url("/ok/hooks/T0/B0/secret")}, **matchers)
    telegram = channel(
        desk.tenant,
        {"kind": "telegram", "token": token, "chat_id": "-1001", "base_url": desk.inbox.url("/telegram")},
        **matchers,
    )

    desk.send(firing("people", rule_name="<!channel> & people\r\nBcc: all@example.com", severity="critical"))
    [in_slack] = desk.inbox.wait("/ok/hooks/T0/B0/secret")
    [in_telegram] = desk.inbox.wait(f"/telegram/bot{token}/sendMessage")
    wait_until(lambda: desk.mailbox.took)
    [(to, message)] = desk.mailbox.took

    assert json.loads(in_slack.body)["text"].startswith(
        "[CRITICAL] 1 firing: &lt;!channel&gt; &amp; people Bcc: all@example.com BTC-USD\n"
    )
    assert json.loads(in_telegram.body)["chat_id"] == "-1001"
    assert to == ["desk@example.com", "risk@example.com"]
    assert (
        " ".join(message["Subject"].split()) == "[CRITICAL] 1 firing: <!channel> & people Bcc: all@example.com BTC-USD"
    )
    assert (message["Bcc"], message["From"]) == (None, "PulseStream <alerts@pulse.example>")
    wait_until(lambda: all(desk.state(made["id"]) == ["delivered"] for made in (mail, slack, telegram)))
    shown = desk.tenant.call("GET", CHANNELS)
    assert "secret" not in str([made["target"] for made in shown["channels"]])
    assert token not in str(shown)
    assert slack["secret"] is telegram["secret"] is mail["secret"] is None


def test_what_failed_is_sent_again_when_that_is_asked_for(desk: Desk) -> None:
    path = "/ok/asked"
    made = webhook(desk.tenant, desk.inbox.url(path), matchers=only("asked"))
    began = desk.tenant.call("GET", f"{CHANNELS}/{made['id']}")["created_at"]
    desk.inbox.failing.add(path)
    desk.send(firing("asked", "BTC-USD"), firing("asked", "ETH-USD"))
    wait_until(lambda: desk.state(made["id"]) == ["failed", "failed"])
    failed = desk.tenant.call("GET", f"{CHANNELS}/{made['id']}/messages", params={"state": "failed"})["messages"]
    desk.inbox.failing.discard(path)
    desk.inbox.received.clear()

    one = desk.tenant.call("POST", f"{CHANNELS}/{made['id']}/resend", json={"message_id": failed[0]["id"]})
    [first] = desk.inbox.wait(path)
    wait_until(lambda: sorted(desk.state(made["id"])) == ["delivered", "failed"])
    rest = desk.tenant.call("POST", f"{CHANNELS}/{made['id']}/resend", json={"failed_since": began})
    second = desk.inbox.wait(path, 2)[1]
    wait_until(lambda: desk.state(made["id"]) == ["delivered", "delivered"])

    assert (one["messages"], rest["messages"]) == (1, 1)
    assert [first.id, second.id] == [failed[0]["id"], failed[1]["id"]]
    assert json.loads(first.body) == failed[0]["body"]
    none = desk.tenant.call("POST", f"{CHANNELS}/{made['id']}/resend", json={"failed_since": began})
    assert none["messages"] == 0


def test_alerts_that_no_worker_made_harm_nobody(desk: Desk) -> None:
    path = "/ok/poison"
    webhook(desk.tenant, desk.inbox.url(path), matchers=only("poison"))
    bad: list[dict[str, object]] = [
        {"labels": {"a": "x\0"}}, {"reason": "\0"}, {"rule_name": "x" * 5000}, {"value": float("nan")},
        {"value": float("inf")}, {"labels": {str(n): "" for n in range(1000)}},
    ]  # fmt: skip

    desk.send(*(firing("poison", f"P{number}-USD", **fields) for number, fields in enumerate(bad)))
    send(desk.running.admin, f"ps.{desk.tenant.slug}.alerts.v1", [("BTC-USD", b"no record"), ("BTC-USD", None)])
    desk.send(firing("poison", "SOUND-USD"))
    [request] = desk.inbox.wait(path)

    assert request.data["alerts"][0]["product"] == "SOUND-USD"
    assert desk.running["notifier"].metric("pulsestream_notifier_skipped_total", reason="unsound") == len(bad) + 2


def test_targets_that_no_sender_can_use_are_failed_attempts_and_harm_nobody(desk: Desk) -> None:
    mail = channel(desk.tenant, {"kind": "email", "to": ["a@example.com"]}, matchers=only("nothing"))["id"]
    hook = webhook(desk.tenant, desk.inbox.url("/ok/nowhere"), matchers=only("nothing"))["id"]
    beside = webhook(desk.tenant, desk.inbox.url("/ok/beside"), matchers=only("nothing"))["id"]
    for broken, target in ((mail, {"to": ["a..b@example.com"]}), (hook, {"url": "https://a..b/"})):
        statement = "UPDATE channels SET target = %(target)s::text::jsonb WHERE id = %(id)s RETURNING id"
        rows(desk.running.database, statement, target=json.dumps(target), id=broken)

    for each in (mail, hook, beside):
        desk.tenant.call("POST", f"{CHANNELS}/{each}/test", expect=202)
    desk.inbox.wait("/ok/beside")
    wait_until(lambda: attempts(desk.tenant, mail) and attempts(desk.tenant, hook))

    assert attempts(desk.tenant, mail)[0]["error"] == "this message cannot be sent to this target"
    assert attempts(desk.tenant, hook)[0]["error"] == (
        "the address names no host: write it as https://example.com/path, an international name in its xn-- form"
    )
    desk.running["notifier"].assert_alive()


def test_a_snoozed_alert_is_told_when_the_snooze_is_over(desk: Desk) -> None:
    path = "/ok/snoozed"
    webhook(desk.tenant, desk.inbox.url(path), matchers=only("snoozed"))
    began = time.monotonic()
    rows(
        desk.running.database,
        """INSERT INTO alert_marks (tenant, rule_id, exchange, product, snoozed_until, snoozed_at, snoozed_by)
        VALUES (%(tenant)s, 'snoozed', 'coinbase', 'BTC-USD', now() + INTERVAL '4 seconds', now(), 'k') RETURNING 1""",
        tenant=desk.tenant.slug,
    )

    desk.send(firing("snoozed", "BTC-USD"), firing("snoozed", "ETH-USD"))
    first, second = desk.inbox.wait(path, 2)

    assert [request.data["alerts"][0]["product"] for request in (first, second)] == ["ETH-USD", "BTC-USD"]
    assert second.at - began > 4


def test_of_what_was_on_its_topic_before_the_first_start_nobody_is_told(desk: Desk) -> None:
    other = desk.running.register("early")
    webhook(other, desk.inbox.url("/ok/early"))

    with _standing_still(desk.running["notifier"]):
        make_alert_topic(desk.running.admin, other.slug)
        send_alerts(desk.running.admin, other.slug, firing("before"))
        time.sleep(0.01)
        rows(desk.running.database, "UPDATE notifier_beginning SET at = clock_timestamp() RETURNING at")
        time.sleep(0.01)
        send_alerts(desk.running.admin, other.slug, firing("after"))
    [request] = desk.inbox.wait("/ok/early")

    assert request.alerts == [("after", "firing")]


@contextmanager
def _standing_still(service: Service) -> Iterator[None]:
    assert service.running is not None
    service.running.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.running.send_signal(signal.SIGCONT)
