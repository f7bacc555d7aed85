"""Dead letters over the API, with sink, broker and database: found, shown, tried, sent again once, and settled."""

import asyncio
import base64
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from api.database import Database
from api.dead_letters import repository
from api.dead_letters.outcomes import MAX_REPLAYS
from pulsestream.core.headers import REPLAY_OF, REPLAYS
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Alert, DeadLetter
from tests.support.api import installation, problem
from tests.support.e2e import Installation, eventually
from tests.support.letters import LETTERS, REASON, Desk, good, open_desk
from tests.support.sinking import START, alert, stopped

NOISE = b"\xffnoise"


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("letters")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", "sink") as started:
        yield started


@pytest.fixture
def desk(running: Installation) -> Desk:
    return open_desk(running)


def listed(desk: Desk, **query: Any) -> list[str]:
    return [letter["id"] for letter in desk.call("GET", params=query)["dead_letters"]]


# ---- found and shown ----


def test_a_record_that_is_refused_is_listed_and_shown_with_its_bytes(desk: Desk) -> None:
    desk.send("events", [NOISE], headers=[("ce_id", b"1"), ("odd", b"\xff"), ("nothing", None)])
    eventually(lambda: _assert_equal(len(listed(desk)), 1))

    (letter,) = desk.call("GET")["dead_letters"]
    shown = desk.call("GET", f"/{letter['id']}")

    assert (letter["reason"], letter["topic"], letter["key"]) == ("undecodable", desk.topic("events"), "BTC-USD")
    assert (letter["size"], letter["state"], letter["replay_of"], letter["replays"]) == (len(NOISE), "open", None, 0)
    assert {name: shown[name] for name in letter} == letter
    assert shown["value"] == {"base64": base64.b64encode(NOISE).decode(), "text": None}
    assert shown["record_key"]["text"] == "BTC-USD"
    assert [(header["name"], header["value"]) for header in shown["headers"]] == [
        ("ce_id", {"base64": "MQ==", "text": "1"}),
        ("odd", {"base64": "/w==", "text": None}),
        ("nothing", None),
    ]
    assert shown["record"]["fields"] is None
    assert "no Confluent wire format" in shown["record"]["error"]


def _assert_replays_refused(desk: Desk, ids: list[str]) -> None:
    assert [len(desk.refused_replays(letter_id)) for letter_id in ids] == [1] * len(ids)


def _assert_equal(found: object, expected: object) -> None:
    assert found == expected


def test_a_record_that_can_be_decoded_is_shown_by_its_fields_and_one_without_a_value_says_so(desk: Desk) -> None:
    whole, null, omitted = desk.put(
        [desk.letter(1, good(1)), desk.letter(2, None), desk.letter(3, None, omitted=5_000_000)]
    )

    fields = desk.call("GET", f"/{whole}")["record"]["fields"]
    assert (fields["event_id"], fields["time"]) == ("desk:1", "2021-04-17T16:43:37.057746Z")
    assert [desk.call("GET", f"/{each}")["record"]["error"] for each in (null, omitted)] == [
        "the letter has no value"
    ] * 2
    assert [desk.call("GET", f"/{each}")["size"] for each in (null, omitted)] == [None, 5_000_000]


def test_letters_are_found_by_reason_topic_key_time_and_state(desk: Desk) -> None:
    ids = desk.put(
        [
            desk.letter(1, NOISE),
            desk.letter(2, NOISE, reason="invalid_price"),
            desk.letter(3, NOISE, topic=desk.topic("ticks")),
            desk.letter(4, NOISE, key=b"\xff"),
        ]
    )
    one, price, tick, odd = ids
    desk.call("POST", "/discard", json={"ids": [odd], "reason": "test data"})

    assert listed(desk) == [tick, price, one]
    assert listed(desk, state="any", order="asc") == ids
    assert listed(desk, state="discarded") == [odd]
    assert listed(desk, state="replayed") == []
    assert listed(desk, reason="invalid_price") == [price]
    assert listed(desk, topic="ticks") == listed(desk, topic=desk.topic("ticks")) == [tick]
    assert listed(desk, topic="ps.another.ticks.v1") == []
    assert listed(desk, key="BTC-USD", order="asc") == [one, price, tick]
    assert listed(desk, **{"from": "2021-04-17T16:43:37.056748Z", "to": "2021-04-17T16:43:37.056749Z"}) == [price]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_walk_by_cursor_gives_every_letter_once(desk: Desk, order: str) -> None:
    ids = desk.put([desk.letter(number, b"%d" % number, first_seen=START + number // 3) for number in range(25)])

    walked: list[str] = []
    page = {"next_cursor": None}
    while not walked or page["next_cursor"]:
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
        page = desk.call("GET", params={"limit": 4, "order": order} | cursor)
        walked += [letter["id"] for letter in page["dead_letters"]]

    assert sorted(walked) == sorted(ids)
    assert walked == listed(desk, order=order)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("state=gone", "state"),
        ("limit=1001", "limit"),
        ("from=yesterday", "from"),
        ("reasons=x", "reasons"),
        ("order=up", "order"),
    ],
)
def test_a_search_that_means_nothing_is_400_and_names_the_parameter(desk: Desk, query: str, parameter: str) -> None:
    answer = desk.tenant.http.get(f"{LETTERS}?{query}", headers={"X-API-Key": desk.tenant.key})

    assert parameter in str(problem(answer, 400, "invalid-parameters")["errors"])


def test_a_cursor_of_another_search_or_tenant_is_refused(desk: Desk, running: Installation) -> None:
    desk.put([desk.letter(number, NOISE) for number in range(3)])
    cursor = desk.call("GET", params={"limit": 1})["next_cursor"]
    other = open_desk(running)

    for tenant, query in (
        (desk.tenant, {"reason": "x"}),
        (desk.tenant, {"order": "asc"}),
        (desk.tenant, {"state": "any"}),
        (other.tenant, {}),
    ):
        answer = tenant.http.get(LETTERS, params=query | {"cursor": cursor}, headers={"X-API-Key": tenant.key})
        problem(answer, 400, "invalid-cursor")


# ---- tried ----


def test_a_trial_says_what_would_succeed_now_and_why_the_rest_would_not_and_changes_nothing(desk: Desk) -> None:
    desk.send("events", [good(1)])
    eventually(lambda: _assert_equal("desk:1" in desk.event_ids(), True))
    index_row = codec(Alert).encode(alert(1, rule_id="r" + base64.b64encode(_noise(6000)).decode()))
    letters = [
        (desk.letter(1, good(2)), "would_succeed", None),
        (desk.letter(2, good(1)), "would_succeed", None),
        (desk.letter(3, good(1, data="{}")), "would_be_refused", "id_conflict"),
        (desk.letter(4, good(3)), "would_succeed", None),
        (desk.letter(5, good(3, data="{}")), "would_be_refused", "id_conflict"),
        (desk.letter(6, NOISE), "would_be_refused", "undecodable"),
        (desk.letter(7, None), "would_be_refused", "undecodable"),
        (desk.letter(8, None, omitted=7), "would_be_refused", "value_omitted"),
        (desk.letter(9, good(9, time=4_000_000_000_000_000)), "would_be_refused", "time_out_of_range"),
        (desk.letter(10, codec(Alert).encode(alert(2)), topic=desk.topic("alerts")), "would_succeed", None),
        (desk.letter(11, index_row, topic=desk.topic("alerts")), "would_be_refused", "refused_by_database"),
        (desk.letter(12, good(12), topic="ps.another.events.v1"), "would_be_refused", "unknown_topic"),
        (desk.letter(13, good(13), replays=MAX_REPLAYS), "too_many_replays", REASON),
    ]
    ids = desk.put([letter for letter, _, _ in letters])

    found = desk.replay(*ids, dry_run=True)
    answer = desk.call("POST", "/replay", json={"where": {}, "dry_run": True})

    assert [(found[each]["outcome"], found[each]["reason"]) for each in ids] == [told[1:] for told in letters]
    assert [result["id"] for result in answer["results"]] == ids
    assert (answer["dry_run"], answer["next_cursor"]) == (True, None)
    assert answer["counts"] == {"would_succeed": 4, "would_be_refused": 8, "too_many_replays": 1}
    assert len(listed(desk)) == len(ids)
    assert desk.records(good(2)) == []
    assert desk.event_ids() == ["/desk/1:fill-17", "desk:1"]


def _noise(size: int) -> bytes:
    return bytes((number * number * 31 + number // 7) % 251 for number in range(size))


# ---- sent again ----


def test_a_replay_sends_the_bytes_key_and_headers_again_with_a_link_once(desk: Desk) -> None:
    (letter_id,) = desk.put([desk.letter(1, good(1))])

    first = desk.replay(letter_id)
    second = desk.replay(letter_id)

    eventually(lambda: _assert_equal("desk:1" in desk.event_ids(), True))
    assert [first[letter_id]["outcome"], second[letter_id]["outcome"]] == ["replayed", "already_replayed"]
    (record,) = desk.records(good(1))
    mark = {REPLAY_OF: letter_id.encode(), REPLAYS: b"1"}
    assert (record.key, record.headers) == (b"BTC-USD", {"ce_id": b"1", "nothing": None} | mark)
    shown = desk.call("GET", f"/{letter_id}")
    assert (shown["state"], shown["settled_by"], shown["refused_replays"]) == (
        "replayed", desk.tenant.key.split("_")[2], [],
    )  # fmt: skip


def test_of_a_filter_what_would_succeed_is_sent_page_by_page_and_the_rest_stays_open(desk: Desk) -> None:
    letters = [desk.letter(number, good(number) if number % 2 else NOISE) for number in range(11)]
    ids = desk.put([*letters, desk.letter(50, good(50), reason="other")])

    counts: dict[str, int] = {}
    cursor = None
    for _ in range(4):
        body = {"where": {"reason": REASON, "topic": "events"}, "limit": 3, "cursor": cursor}
        answer = desk.call("POST", "/replay", json=body)
        cursor = answer["next_cursor"]
        for outcome, number in answer["counts"].items():
            counts[outcome] = counts.get(outcome, 0) + number

    assert cursor is None
    assert counts == {"replayed": 5, "would_be_refused": 6}
    assert sorted(listed(desk)) == sorted([*ids[0:11:2], ids[11]])
    eventually(lambda: _assert_equal([name for name in desk.event_ids() if "desk:" in name], _ids(1, 3, 5, 7, 9)))


def _ids(*numbers: int) -> list[str]:
    return [f"desk:{number}" for number in numbers]


def test_a_record_refused_again_carries_the_link_and_the_count_and_cannot_go_on_for_ever(desk: Desk) -> None:
    chain = desk.put([desk.letter(1, NOISE)])
    while len(chain) <= MAX_REPLAYS:
        assert desk.replay(chain[-1], force=True)[chain[-1]]["outcome"] == "replayed"
        eventually(partial(_assert_replays_refused, desk, chain[-1:]))
        chain += desk.refused_replays(chain[-1])

    last = desk.replay(chain[-1], force=True)[chain[-1]]

    shown = [desk.call("GET", f"/{letter_id}") for letter_id in chain]
    assert [each["replays"] for each in shown] == list(range(MAX_REPLAYS + 1))
    assert [each["replay_of"] for each in shown] == [None, *chain[:-1]]
    assert [each["state"] for each in shown] == ["replayed"] * MAX_REPLAYS + ["open"]
    assert (last["outcome"], last["reason"]) == ("too_many_replays", "undecodable")
    assert len(desk.records(NOISE)) == MAX_REPLAYS
    names = [header["name"] for header in shown[-1]["headers"]]
    assert names == ["ce_id", "nothing", REPLAY_OF, REPLAYS], "one mark, the newest"


@contextmanager
def slow_settling(desk: Desk) -> Iterator[None]:
    """Hold up what records a replay, after the broker has the records, until the block ends or the session does."""
    lock = 0x736C6F77
    with psycopg.connect(desk.running.database.url(), autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (lock,))
        connection.execute(
            f"CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
            f" 'BEGIN PERFORM pg_advisory_xact_lock_shared({lock}); RETURN NEW; END'"
        )
        connection.execute("CREATE TRIGGER hold BEFORE UPDATE ON dead_letters FOR EACH ROW EXECUTE FUNCTION hold()")
        try:
            yield
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", (lock,))
            connection.execute("DROP TRIGGER hold ON dead_letters")
            connection.execute("DROP FUNCTION hold")


@pytest.mark.parametrize("value", [good(1), NOISE], ids=["stored", "refused again"])
def test_a_crash_in_the_middle_of_a_replay_and_a_second_run_have_one_effect(
    running: Installation, desk: Desk, value: bytes
) -> None:
    ids = desk.put(
        [desk.letter(number, value + b"%d" % number if value is NOISE else good(number)) for number in (1, 2)]
    )
    values = [value + b"%d" % number if value is NOISE else good(number) for number in (1, 2)]

    with slow_settling(desk), ThreadPoolExecutor(1) as aside:
        cut = aside.submit(desk.replay, *ids, force=True)
        eventually(lambda: _assert_equal([len(desk.records(each)) for each in values], [1, 1]))
        running["api"].kill()
        assert cut.exception() is not None
        end_sessions(desk)
    running["api"].start()
    running["api"].wait_ready()
    states = [desk.state(letter_id) for letter_id in ids]
    again = desk.replay(*ids, force=True)

    assert states == ["open", "open"]
    assert [again[letter_id]["outcome"] for letter_id in ids] == ["replayed", "replayed"]
    assert [len(desk.records(each)) for each in values] == [2, 2]
    desk.send("events", [good(99)])
    eventually(lambda: _assert_equal("desk:99" in desk.event_ids(), True))
    if value is NOISE:
        eventually(lambda: _assert_equal(len(desk.letters_told()), 6))
        eventually(partial(_assert_replays_refused, desk, ids))
    else:
        assert desk.event_ids() == ["/desk/1:fill-17", "desk:1", "desk:2", "desk:99"]
        assert listed(desk) == []


def end_sessions(desk: Desk) -> None:
    """End the sessions of an API that is gone: the server notices by itself only when it has something to say."""
    with psycopg.connect(desk.running.database.url(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'pulsestream-api' AND datname = current_database()"
        )


def test_of_two_replays_at_once_one_sends(desk: Desk) -> None:
    (letter_id,) = desk.put([desk.letter(1, good(1))])

    with ThreadPoolExecutor(2) as aside:
        with slow_settling(desk):
            first = aside.submit(desk.replay, letter_id)
            eventually(lambda: _assert_equal(len(desk.records(good(1))), 1))
            second = desk.replay(letter_id)
        assert first.result()[letter_id]["outcome"] == "replayed"

    assert second[letter_id]["outcome"] == "busy"
    assert len(desk.records(good(1))) == 1
    assert desk.state(letter_id) == "replayed"


def test_many_replays_at_once_send_each_record_once(desk: Desk) -> None:
    ids = desk.put([desk.letter(number, good(number)) for number in range(100)])
    start = threading.Barrier(6)

    def run(_: int) -> list[str]:
        start.wait()
        return [result["outcome"] for result in desk.replay(*ids).values()]

    with ThreadPoolExecutor(6) as aside:
        outcomes = [outcome for found in aside.map(run, range(6)) for outcome in found]

    assert outcomes.count("replayed") == 100
    assert set(outcomes) <= {"replayed", "already_replayed", "busy"}
    assert [len(desk.records(good(number))) for number in (0, 50, 99)] == [1, 1, 1]


def test_a_broker_that_does_not_answer_leaves_letters_open_and_a_second_replay_has_one_effect(
    desk: Desk, broker: EmbeddedKafka
) -> None:
    ids = desk.put([desk.letter(number, good(number)) for number in (1, 2)])

    with stopped(broker):
        first = desk.replay(*ids)
        states = [desk.state(letter_id) for letter_id in ids]
    second = desk.replay(*ids)

    assert [first[letter_id]["outcome"] for letter_id in ids] == ["unknown", "unknown"]
    assert states == ["open", "open"]
    assert [second[letter_id]["outcome"] for letter_id in ids] == ["replayed", "replayed"]
    desk.send("events", [good(99)])
    eventually(lambda: _assert_equal(desk.event_ids(), ["/desk/1:fill-17", "desk:1", "desk:2", "desk:99"]))
    assert listed(desk) == []


def test_a_letter_that_was_settled_a_moment_ago_is_not_to_be_had(desk: Desk) -> None:
    sent, open_one = desk.put([desk.letter(number, good(number)) for number in (1, 2)])
    desk.replay(sent)
    database = Database(Settings(database_url=SecretStr(desk.running.database.url("ps_api"))))

    async def lock() -> dict[str, DeadLetter]:
        await database.open()
        try:
            async with database.tenant(desk.tenant.slug) as connection:
                return await repository.lock(connection, desk.tenant.slug, [sent, open_one])
        finally:
            await database.close()

    assert list(asyncio.run(lock())) == [open_one]


# ---- discarded ----


def test_a_discarded_letter_is_kept_with_who_and_why_and_is_not_replayed(desk: Desk) -> None:
    one, two, three = desk.put([desk.letter(number, good(number)) for number in (1, 2, 3)])
    desk.replay(three)

    answer = desk.call("POST", "/discard", json={"ids": [one, three], "reason": "test data"})
    again = desk.call("POST", "/discard", json={"where": {}, "reason": "another reason"})

    assert [result["outcome"] for result in answer["results"]] == ["discarded", "already_replayed"]
    assert [(result["id"], result["outcome"]) for result in again["results"]] == [(two, "discarded")]
    shown = desk.call("GET", f"/{one}")
    assert (shown["state"], shown["settled_reason"]) == ("discarded", "test data")
    assert shown["settled_by"] == desk.tenant.key.split("_")[2]
    assert shown["settled_at"] is not None
    assert desk.replay(one)[one]["outcome"] == "already_discarded"
    assert desk.records(good(1)) == []


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/discard", {"ids": ["x"]}, 422, "invalid-body"),
        ("/discard", {"ids": ["x"], "reason": ""}, 422, "invalid-body"),
        ("/discard", {"where": {}, "reason": "a\x00b"}, 400, "refused-value"),
        ("/replay", {}, 422, "invalid-body"),
        ("/replay", {"ids": ["x"], "where": {}}, 422, "invalid-body"),
        ("/replay", {"ids": []}, 422, "invalid-body"),
        ("/replay", {"ids": ["x"] * 101}, 422, "invalid-body"),
        ("/replay", {"where": {"state": "open"}}, 422, "invalid-body"),
        ("/replay", {"where": {"from": "soon"}}, 400, "invalid-parameters"),
        ("/replay", {"where": {}, "cursor": "AAAA"}, 400, "invalid-cursor"),
        ("/replay", {"ids": ["\x00"]}, 400, "refused-value"),
        ("/replay", {"ids": ["nowhere"]}, 404, "not-found"),
    ],
)
def test_what_cannot_be_meant_is_a_problem(desk: Desk, path: str, body: Any, status: int, code: str) -> None:
    desk.put([desk.letter(1, NOISE)])
    answer = desk.tenant.http.post(LETTERS + path, json=body, headers={"X-API-Key": desk.tenant.key})

    problem(answer, status, code)


def test_an_unknown_id_among_others_changes_none_of_them(desk: Desk) -> None:
    (letter_id,) = desk.put([desk.letter(1, good(1))])

    for path, more in (("/replay", {}), ("/discard", {"reason": "x"})):
        desk.call("POST", path, json={"ids": [letter_id, "nowhere"]} | more, expect=404)

    assert desk.state(letter_id) == "open"
    assert desk.records(good(1)) == []


def test_a_viewer_lists_and_shows_and_settles_nothing(desk: Desk) -> None:
    (letter_id,) = desk.put([desk.letter(1, good(1))])
    viewer = desk.viewer()

    assert viewer.call("GET", LETTERS)["dead_letters"][0]["id"] == letter_id
    assert viewer.call("GET", f"{LETTERS}/{letter_id}")["id"] == letter_id
    for path, body in (("replay", {"ids": [letter_id], "dry_run": True}), ("discard", {"where": {}, "reason": "x"})):
        answer = viewer.http.post(f"{LETTERS}/{path}", json=body, headers={"X-API-Key": viewer.key})
        problem(answer, 403, "forbidden")
    assert desk.state(letter_id) == "open"
