"""Reports of errors: processes that fail, and a receiver on this machine that speaks Sentry's envelopes."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pulsestream.core import reports
from pulsestream.core.errors import SettingsError
from tests.support.answering import Server, serving
from tests.support.reporting_child import SECRET


@pytest.fixture
def receiver() -> Iterator[Server]:
    with serving(lambda _method, _path: {"body": {}}) as made:
        yield made


def run(receiver: Server, what: str) -> subprocess.CompletedProcess[str]:
    """Run the process that reports."""
    dsn = receiver.url.replace("://", "://public@") + "/7"
    own = {"PULSESTREAM_SENTRY_DSN": dsn, "PULSESTREAM_HOME": os.devnull + "/nowhere"}
    command = [sys.executable, "-m", "tests.support.reporting_child", what]
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=60, check=False)


def events(receiver: Server) -> list[dict[str, Any]]:
    """Return the events of the envelopes that came: a line of JSON, then for each item its header and itself."""
    found = []
    for method, path, body in receiver.seen:
        assert (method, path) == ("POST", "/api/7/envelope/")
        _, header, content = gzip.decompress(body).split(b"\n", 2)
        assert json.loads(header)["type"] == "event"
        found.append(json.loads(content))
    return found


def test_what_is_logged_as_an_error_is_reported_without_a_secret(receiver: Server) -> None:
    done = run(receiver, "logged")

    [event] = events(receiver)
    [exception] = event["exception"]["values"]
    assert done.returncode == 0, done.stderr
    assert event["logentry"]["message"] == "it failed"
    assert event["tags"] == {"process": "test", "tenant": "acme", "request_id": "r-1"}
    assert event["extra"] == {"nested": {"api_key": "***"}, "count": 3}
    assert (exception["type"], exception["value"]) == (
        "ValueError",
        "cannot reach postgresql://***@db/pulsestream with ***",
    )
    assert exception["stacktrace"]["frames"][-1]["function"] == "_connect"
    assert SECRET not in json.dumps(event)


def test_a_request_that_fails_is_reported_with_its_tenant_and_id_and_nothing_that_it_brought(receiver: Server) -> None:
    done = run(receiver, "request")

    [event] = events(receiver)
    assert done.returncode == 0, done.stderr
    assert event["tags"] == {"process": "test", "tenant": "acme", "request_id": "r-2"}
    assert event["extra"]["path"] == "/api/v1/keys"
    assert {"request", "user"}.isdisjoint(event)
    assert not event["breadcrumbs"]["values"]
    assert not any("vars" in frame for one in event["exception"]["values"] for frame in one["stacktrace"]["frames"])
    text = json.dumps(event)
    assert SECRET not in text
    assert "ps_live_" not in text


@pytest.mark.parametrize("how", ["ended", "at-once"])
def test_what_ends_a_process_is_reported_before_it_ends(receiver: Server, how: str) -> None:
    done = run(receiver, how)

    [event] = events(receiver)
    assert done.returncode == 1
    assert (event["level"], event["tags"]["process"]) == ("fatal", "test")
    assert event["exception"]["values"][0]["value"] == "nobody foresaw ***"


def test_without_a_dsn_nothing_is_imported() -> None:
    program = "import sys; from pulsestream import cli; cli._start('test'); sys.exit('sentry_sdk' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


def test_a_dsn_that_is_none_is_told_without_showing_it() -> None:
    with pytest.raises(SettingsError, match="it is no DSN") as excinfo:
        reports.reporting("https://example.com/secret", "test", "1")

    assert "secret" not in str(excinfo.value)


def test_a_dsn_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)

    with pytest.raises(SettingsError, match=r"pip install 'pulsestream\[sentry\]'"):
        reports.reporting("https://key@example.com/1", "test", "1")
