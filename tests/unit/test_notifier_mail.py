"""E-mail against a real mail server: secured or not sent at all, refusals told, nothing out of its line."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult
from pydantic import SecretStr

from pulsestream.core.settings import Settings
from schemas.notification import TEST, Channel, Data, Notification, encode
from sinks.notifier.chat import SLACK_MOST, TELEGRAM_MOST, of_telegram, shortened, slack_text
from sinks.notifier.mail import Mail
from sinks.notifier.outbound import Answer
from sinks.notifier.sending import Claimed, Outcome
from tests.support.notifying import Mailbox, mail_server

TEXT = "Prices fell: 10 % below\n.\nfrom here on"


def claimed(*to: str, text: str = TEXT) -> Claimed:
    data = Data(tenant="acme", channel=Channel("c", "desk"), text=text)
    document = encode(Notification(TEST, "2026-01-31T12:00:00Z", data))
    target = {"to": list(to) or ["desk@example.com"]}
    return Claimed(
        "acme", "msg_1", "c", "desk", "email", target, None, None, TEST, document, (), 1, 0,
        send_resolved=True, repeat_interval=1, group_interval=1,
    )  # fmt: skip


def deliver(mailbox: Mailbox, message: Claimed, **more: Any) -> Outcome:
    given = {
        "notify_smtp_host": "127.0.0.1", "notify_smtp_port": mailbox.port, "notify_smtp_ca_file": mailbox.ca_file,
        "notify_timeout": 3, "notify_from": "alerts@pulse.example",
    }  # fmt: skip

    async def work() -> Outcome:
        mail = Mail(Settings(**given | more))
        try:
            return await mail(message, 1_700_000_000)
        finally:
            mail.close()

    return asyncio.run(work())


def test_a_message_arrives_whole_over_an_encrypted_connection(tmp_path: Path) -> None:
    with mail_server(tmp_path) as mailbox:
        outcome = deliver(mailbox, claimed("desk@example.com", "risk@example.com"))

    assert (outcome.delivered, outcome.error) == (True, None)
    [(to, message)] = mailbox.took
    assert to == ["desk@example.com", "risk@example.com"]
    assert message.get_content().splitlines() == TEXT.splitlines()
    assert (message["Subject"], message["Message-ID"]) == ("Prices fell: 10 % below", "<msg_1@pulse.example>")
    assert message["Auto-Submitted"] == "auto-generated"


@pytest.mark.parametrize("text", ["a\r\nBcc: x@example.com\r\n\r\nbody", "a\x00\x0b\u2028Bcc: x", "ü" * 500, "\r", ""])
def test_no_text_makes_a_header(tmp_path: Path, text: str) -> None:
    with mail_server(tmp_path) as mailbox:
        assert deliver(mailbox, claimed(text=text)).delivered

    [(to, message)] = mailbox.took
    assert to == ["desk@example.com"]
    assert message["Bcc"] is None
    assert {name.lower() for name in message} <= {
        "from", "to", "subject", "date", "message-id", "auto-submitted", "content-type", "content-transfer-encoding",
        "mime-version",
    }  # fmt: skip


def test_a_relay_without_starttls_gets_nothing(tmp_path: Path) -> None:
    with mail_server(tmp_path, starttls=False) as mailbox:
        outcome = deliver(mailbox, claimed())
        plain = deliver(mailbox, claimed(), notify_smtp_security="off")

    assert not outcome.delivered
    assert "STARTTLS" in (outcome.error or "")
    assert plain.delivered
    assert len(mailbox.took) == 1


def test_a_relay_whose_certificate_nobody_vouches_for_gets_nothing(tmp_path: Path) -> None:
    with mail_server(tmp_path) as mailbox:
        outcome = deliver(mailbox, claimed(), notify_smtp_ca_file=None)

    assert "certificate" in (outcome.error or "")
    assert mailbox.took == []


def test_the_login_is_used_and_a_wrong_one_is_told_without_the_password(tmp_path: Path) -> None:
    def judge(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        right = (data.login, data.password) == (b"pulse", b"hunter2")
        return AuthResult(success=right, handled=False)

    with mail_server(tmp_path, authenticator=judge, auth_required=True) as mailbox:
        login = {"notify_smtp_username": "pulse"}
        right = deliver(mailbox, claimed(), **login, notify_smtp_password=SecretStr("hunter2"))
        wrong = deliver(mailbox, claimed(), **login, notify_smtp_password=SecretStr("hunter3"))

    assert right.delivered
    assert (wrong.delivered, wrong.status) == (False, 535), wrong
    assert "hunter" not in str(wrong)


def test_refusals_are_told(tmp_path: Path) -> None:
    with mail_server(tmp_path) as mailbox:
        some = deliver(mailbox, claimed("desk@example.com", "nobody@example.com"))
        none = deliver(mailbox, claimed("nobody@example.com"))
        mailbox.refusing = "451 later"
        later = deliver(mailbox, claimed())

    assert some.delivered
    assert "nobody@example.com: 550" in (some.error or "")
    assert not none.delivered
    assert (later.delivered, later.status) == (False, 451)


def test_a_relay_that_is_not_there_or_not_set_is_told(tmp_path: Path) -> None:
    away = Mailbox(1, tmp_path)

    assert "cannot be used" in (deliver(away, claimed(), notify_smtp_security="off").error or "")
    assert "PULSESTREAM_NOTIFY_SMTP_HOST" in (deliver(away, claimed(), notify_smtp_host="").error or "")


# ---- chats ----


def test_texts_are_shortened_to_what_chats_take() -> None:
    assert shortened("x" * 5000, TELEGRAM_MOST) == "x" * 4095 + "…"
    emoji = shortened("\U0001f4c8" * 5000, TELEGRAM_MOST)
    assert len(emoji.encode("utf-16-le")) // 2 <= TELEGRAM_MOST
    assert emoji.endswith("\U0001f4c8…")
    assert shortened("x" * 4096, TELEGRAM_MOST) == "x" * 4096
    assert len(slack_text("<" * 5000)) <= SLACK_MOST


@pytest.mark.parametrize(
    ("answer", "delivered", "wish"),
    [
        (Answer(200, {}, b'{"ok":true,"result":{"message_id":1}}'), True, None),
        (Answer(200, {}, b'{"ok":false,"description":"no"}'), False, None),
        (Answer(200, {}, b"<html>"), False, None),
        (Answer(429, {}, b'{"ok":false,"description":"flood","parameters":{"retry_after":7}}'), False, 7.0),
        (Answer(403, {}, b'{"ok":false,"description":"bot was kicked"}'), False, None),
    ],
)
def test_what_the_bot_api_answers_is_understood(answer: Answer, delivered: bool, wish: float | None) -> None:  # noqa: FBT001 - a case
    outcome = of_telegram(answer, 0)

    assert (outcome.delivered, outcome.wish) == (delivered, wish)
