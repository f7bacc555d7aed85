"""`pulsestream key` as a process: what it prints, how it ends, and that it says what is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from api import keys
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation
from tests.support.e2e import Installation
from tests.support.keyring import Holder, owner_of, secret_of


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("key")
    with installation(folder, broker, database_server, migrated_template, "api") as started:
        yield started


def key(
    *arguments: str, holder: Holder | None = None, port: int = 9, code: int = 0, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command; fails where it ends with another exit code."""
    own = {
        "PULSESTREAM_API_PORT": str(port if holder is None else holder.http.base_url.port),
        "PULSESTREAM_HOME": os.devnull + "/nowhere",
        "PULSESTREAM_API_KEY": "" if holder is None else holder.text,
    }
    command = [sys.executable, "-m", "pulsestream.cli", "key", *arguments]
    done = subprocess.run(
        command, env=os.environ | own, input=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_key_is_made_listed_rotated_and_revoked(running: Installation) -> None:
    owner = owner_of(running)

    words, text = key("create", "desk 1", "--role", "viewer", "--days", "30", holder=owner).stdout.splitlines()
    viewer = owner.with_key(text)
    assert viewer.works()
    assert f"key {viewer.id} of role viewer" in words

    heading, first, second = key("list", holder=owner).stdout.splitlines()
    assert heading.split()[:4] == ["ID", "NAME", "ROLE", "STATE"]
    assert first.split()[0] == viewer.id
    assert "first key" in second

    made = json.loads(key("rotate", viewer.id, "--overlap", "0", "--json", holder=owner).stdout)
    assert not viewer.works()
    assert owner.with_key(made["api_key"]).works()

    assert made["id"] in key("revoke", made["id"], holder=owner).stdout
    assert not owner.with_key(made["api_key"]).works()

    everything = key("list", "--state", "any", "--json", holder=owner).stdout
    states = {one["id"]: one["state"] for one in map(json.loads, everything.splitlines())}
    assert states == {owner.id: "active", viewer.id: "expired", made["id"]: "revoked"}
    assert secret_of(text) not in everything


def test_what_the_api_refuses_is_one_clear_line(running: Installation) -> None:
    owner = owner_of(running)

    last = key("revoke", owner.id, holder=owner, code=2).stderr.splitlines()
    whole = key("revoke", owner.text, holder=owner, code=2).stderr
    both = key("create", "x", "--role", "viewer", "--days", "1", "--until", "2031-01-01", holder=owner, code=2).stderr

    assert "Last owner key" in last[-1]
    assert "name it by its id" in whole
    assert secret_of(owner.text) not in whole
    assert "--until and --days" in both
    assert owner.works()
    assert "no key 'x-y'" in key("revoke", "nothing", holder=owner, code=2).stderr.replace("nothing", "x-y")
    assert "is no id of a key" in key("revoke", "../rules", holder=owner, code=2).stderr


def test_a_key_is_checked_without_a_server_and_never_shown() -> None:
    made = keys.generate()

    said = key("check", given=made.text + "\n").stdout
    wrong = key("check", given=made.text[:-1], code=2)

    assert made.id in said
    assert "no API key" in wrong.stderr
    for shown in (said, wrong.stdout + wrong.stderr):
        assert made.secret[:20] not in shown
