"""`pulsestream dlq` as a process: what it prints, how it ends, and that it says what is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation
from tests.support.e2e import Installation, eventually
from tests.support.letters import Desk, good, open_desk

NOISE = b"\xffnoise \x1b[31m"


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("dlq")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", "sink") as started:
        yield started


@pytest.fixture
def desk(running: Installation) -> Desk:
    return open_desk(running)


def dlq(desk: Desk, *arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with the tenant's key; fails where it ends with another exit code."""
    own = {
        "PULSESTREAM_API_PORT": str(desk.running.api_port),
        "PULSESTREAM_HOME": str(desk.running.folder / "nowhere"),
        "PULSESTREAM_API_KEY": desk.tenant.key,
    }
    command = [sys.executable, "-m", "pulsestream.cli", "dlq", *arguments]
    done = subprocess.run(command, env=os.environ | own | variables, capture_output=True, timeout=60, check=False)
    assert done.returncode == code, (done.stdout + done.stderr).decode()
    return done


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def test_list_shows_the_open_letters_newest_first_and_json_is_what_the_api_gives(desk: Desk) -> None:
    ids = desk.put([desk.letter(number, NOISE, reason="other" if number == 2 else "r") for number in range(4)])

    shown = dlq(desk, "list").stdout.decode().splitlines()
    some = lines(dlq(desk, "list", "--where", "reason=r", "--where", "topic=events", "--oldest-first", "--json"))
    two = lines(dlq(desk, "list", "-n", "2", "--json"))

    assert [line.split()[0] for line in shown] == ["ID", *reversed(ids)]
    assert f"{desk.topic('events')}[0]@1000000" in shown[-1]
    assert [letter["id"] for letter in some] == [ids[0], ids[1], ids[3]]
    assert [letter["id"] for letter in two] == [ids[3], ids[2]]
    assert two == desk.call("GET", params={"limit": 2})["dead_letters"]


def test_list_walks_on_over_all_pages(desk: Desk) -> None:
    ids = desk.put([desk.letter(number, b"") for number in range(1100)])

    assert [letter["id"] for letter in lines(dlq(desk, "list", "-n", "0", "--json"))] == ids[::-1]
    assert len(lines(dlq(desk, "list", "-n", "1050", "--json"))) == 1050


def test_show_says_what_is_known_and_gives_the_bytes_as_they_were(desk: Desk) -> None:
    whole, noise, null = desk.put(
        [desk.letter(1, good(1)), desk.letter(2, NOISE, key=b"\x1b[2J"), desk.letter(3, None)]
    )

    words = dlq(desk, "show", whole).stdout.decode()
    assert '"event_id": "desk:1"' in words
    assert "unknown_schema: schema id 99 was never released here" in words
    assert "header       ce_id = '1'" in words
    assert b"\x1b" not in dlq(desk, "show", noise).stdout + dlq(desk, "list").stdout
    assert dlq(desk, "show", noise, "--bytes").stdout == NOISE
    assert lines(dlq(desk, "show", whole, "--json")) == [desk.call("GET", f"/{whole}")]
    assert b"has no value" in dlq(desk, "show", null, "--bytes", code=2).stderr


def test_replay_tries_first_then_sends_what_would_succeed_and_says_why_the_rest_stays(desk: Desk) -> None:
    one, noise = desk.put([desk.letter(1, good(1)), desk.letter(2, NOISE)])

    tried = dlq(desk, "replay", "--all", "--dry-run", code=1).stdout.decode()
    assert desk.records(good(1)) == []
    sent = lines(dlq(desk, "replay", one, noise, "--json", code=1))
    again = dlq(desk, "replay", "--where", "key=BTC-USD", code=1).stdout.decode()

    assert tried.splitlines()[0].startswith(f"{noise}  would_be_refused  undecodable: no Confluent wire format")
    assert tried.splitlines()[1] == "1 would_succeed, 1 would_be_refused"
    assert [(result["id"], result["outcome"]) for result in sent] == [(one, "replayed"), (noise, "would_be_refused")]
    assert again.splitlines()[1] == "1 would_be_refused"
    eventually(lambda: _assert_stored(desk, "desk:1"))
    assert len(desk.records(good(1))) == 1


def _assert_stored(desk: Desk, event_id: str) -> None:
    assert event_id in desk.event_ids()


def test_replay_of_many_goes_page_by_page_and_ends_well(desk: Desk) -> None:
    ids = desk.put([desk.letter(number, good(number)) for number in range(250)])

    tried = dlq(desk, "replay", *ids, "--dry-run").stdout.decode()
    done = dlq(desk, "replay", "--all")
    nothing = dlq(desk, "replay", "--all").stdout.decode()

    assert tried == "250 would_succeed\n"
    assert (done.stdout.decode(), done.stderr) == ("250 replayed\n", b"")
    assert nothing == "no dead letters\n"
    eventually(lambda: _assert_stored(desk, "desk:249"))


def test_discard_keeps_the_reason(desk: Desk) -> None:
    one, two = desk.put([desk.letter(1, NOISE), desk.letter(2, NOISE, reason="other")])

    done = dlq(desk, "discard", "--where", "reason=other", "--reason", "test data").stdout.decode()

    assert done == "1 discarded\n"
    assert (desk.state(one), desk.state(two)) == ("open", "discarded")
    assert "test data" in dlq(desk, "show", two).stdout.decode()
    assert [letter["id"] for letter in lines(dlq(desk, "list", "--where", "state=discarded", "--json"))] == [two]


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "said"),
    [
        (["replay"], {}, 2, "say which dead letters"),
        (["replay", "--all", "--where", "reason=x"], {}, 2, "one of these"),
        (["list", "--where", "reason"], {}, 2, "NAME=VALUE"),
        (["list", "--where", "colour=red"], {}, 2, "reason, topic, key, from, to, state"),
        (["list", "--where", "state=gone"], {}, 2, "none of open, replayed, discarded, any"),
        (["list", "--where", "from=soon"], {}, 2, "is not a time"),
        (["replay", "--where", "state=open"], {}, 2, "NAME=VALUE with a name of"),
        (["show", "nowhere"], {}, 2, "There is no dead letter 'nowhere'"),
        (["show", "../subscriptions"], {}, 2, "no id of a dead letter"),
        (["list"], {"PULSESTREAM_API_KEY": "guess"}, 2, "API key required"),
        (["list"], {"PULSESTREAM_API_PORT": "1"}, 1, "no answer from http://127.0.0.1:1"),
    ],
)
def test_what_goes_wrong_is_one_line_that_says_what_to_do(
    desk: Desk, arguments: list[str], variables: dict[str, str], code: int, said: str
) -> None:
    done = dlq(desk, *arguments, code=code, **variables)

    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert done.stdout.count(b"\n") <= 1


@pytest.mark.parametrize("command", ["list", "show", "replay", "discard"])
def test_help_has_examples(desk: Desk, command: str) -> None:
    assert f"pulsestream dlq {command}" in " ".join(dlq(desk, command, "--help").stdout.decode().split())
