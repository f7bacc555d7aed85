"""docs/notifications.md says what the code does: its check of a signature, its settings, its bounds."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from pulsestream.core.settings import PREFIX, Settings
from sinks.notifier import delivery, flushing, outbound, signing
from sinks.notifier.retries import DEFAULT, schedule

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "notifications.md").read_text("utf-8")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def documented_check() -> Any:
    (source,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(source, "docs/notifications.md", "exec"), found)
    return found["verify"]


verify = documented_check()


def test_its_check_takes_what_is_sent() -> None:
    body = b'{"type":"alert.firing"}'
    headers = signing.headers(SECRET, "msg_1", int(time.time()), body)

    verify(SECRET, headers, body)
    verify(SECRET, headers | {"webhook-signature": "v1a,x v1,y " + headers["webhook-signature"]}, body)


@pytest.mark.parametrize("wrong", ["body", "secret", "id", "old", "signature"])
def test_its_check_refuses_what_is_not(wrong: str) -> None:
    now = int(time.time()) - (301 if wrong == "old" else 0)
    headers = signing.headers(SECRET, "msg_1", now, b"{}")
    headers |= {"webhook-id": "msg_2"} if wrong == "id" else {}
    headers |= {"webhook-signature": "v1,"} if wrong == "signature" else {}

    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        verify(SECRET[:-4] if wrong == "secret" else SECRET, headers, b"{ }" if wrong == "body" else b"{}")


def test_its_settings_exist_and_its_figures_are_those_of_the_code() -> None:
    settings = Settings()

    assert {name.lower() for name in re.findall(rf"{PREFIX}(\w+)", TEXT)} <= set(Settings.model_fields)
    assert "5 s, 5 min, 30 min, 2 h, 5 h, 10 h and 10 h" in TEXT
    assert schedule(DEFAULT) == (5, 300, 1800, 7200, 18000, 36000, 36000)
    assert (settings.notify_timeout, settings.notify_disable_days, settings.notify_days) == (15, 5, 30)
    assert settings.notify_max_age == 3600
    assert f"At most {flushing.MOST} alerts" in TEXT
    assert f"{outbound.READ_MOST // 1024} KiB are read" in TEXT
    assert f"At most {delivery.PER_CHANNEL} messages of a channel and {delivery.PER_TENANT} of" in TEXT


def test_readers_find_it() -> None:
    assert "docs/notifications.md" in (ROOT / "README.md").read_text("utf-8")
