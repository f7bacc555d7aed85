"""From JSON to event records, without a broker."""

import contextlib
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import Problem
from api.ids import uuid7
from api.ingestion.events import MAX_AHEAD, MAX_EVENT, Accepted, Rejected, parse_batch, parse_single, rejections
from pulsestream.core.clock import format_rfc3339
from schemas.codec import codec
from schemas.records import Event
from schemas.validate import _check_event as check_plainly
from schemas.validate import check

NOW = 1_618_677_817_056_746
EVENT = {"id": "fill-17", "type": "order.filled", "source": "/desk/1", "product": "BTC-USD", "data": {"size": 0.25}}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def clock() -> int:
    return NOW


def single(**changes: Any) -> Accepted:
    return parse_single(json.dumps(EVENT | changes).encode(), clock)


def refused(body: bytes) -> Problem:
    with pytest.raises(Problem) as raised:
        parse_single(body, clock)
    return raised.value


def test_an_event_becomes_the_record_that_the_topic_carries() -> None:
    event = single(time="2021-04-17T16:43:30Z")

    assert event == Accepted(
        "fill-17",
        Event(
            event_id="/desk/1:fill-17",
            type="order.filled",
            source="/desk/1",
            product="BTC-USD",
            time=1_618_677_810_000_000,
            received_time=NOW,
            data='{"size": 0.25}',
        ),
    )


def test_data_keeps_the_clients_own_text() -> None:
    body = b'{"type":"a","source":"b","data":{"price": 1.10,  "big":12345678901234567890123}}'

    assert parse_single(body, clock).record.data == '{"price": 1.10,  "big":12345678901234567890123}'


@given(JSON)
def test_whatever_is_accepted_passes_the_validator_and_the_codec(value: object) -> None:
    body = json.dumps(EVENT | {"data": value}, allow_nan=False).encode()
    try:
        event = parse_single(body, clock)
    except Problem as problem:
        assert "\\u0000" in body.decode() or "\\ud" in body.decode(), problem  # noqa: PT017 - the only two reasons
        return

    assert check(event.record, "events") is None
    assert codec(Event).decode(codec(Event).encode(event.record)) == event.record
    assert json.loads(event.record.data) == json.loads(json.dumps(value))


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_problem(body: bytes) -> None:
    try:
        parse_single(body, clock)
    except Problem as problem:
        assert problem.status in {400, 422}  # noqa: PT017 - either outcome is right


BODY = json.dumps(EVENT | {"data": {"text": "é\\n", "numbers": [0.25, -1e3, 10]}}, ensure_ascii=False).encode()
BYTES = st.sampled_from([bytes((byte,)) for byte in b'"\\{}[],:0e.-+ux\t\0\x80\xff'])


@given(st.lists(st.tuples(st.integers(0, len(BODY)), st.integers(0, 2), BYTES), min_size=1, max_size=3))
def test_a_body_with_a_few_bytes_changed_is_json_and_sound_or_refused(edits: list[tuple[int, int, bytes]]) -> None:
    body = BODY
    for place, removed, put in edits:
        body = body[:place] + put + body[place + removed :]
    batch = b'{"events":[%s]}' % body

    try:
        event = parse_single(body, clock)
    except Problem as problem:
        assert problem.status in {400, 413, 422}  # noqa: PT017 - either outcome is right
        with contextlib.suppress(Problem):
            assert not any(isinstance(one, Accepted) for one in parse_batch(batch, clock)) or b"},{" in batch
        return

    assert json.loads(body)["source"] == event.record.source
    assert check_plainly(event.record) is None
    assert parse_batch(batch, clock) == [event]


def test_without_an_id_the_edge_makes_one_and_says_it() -> None:
    first, second = (parse_single(b'{"type":"a","source":"b","data":1}', clock) for _ in range(2))

    assert uuid.UUID(first.id).version == 7
    assert first.id != second.id
    assert first.record.event_id == f"b:{first.id}"


def test_without_a_time_it_is_when_the_edge_received_it() -> None:
    assert single().record.time == NOW


def test_a_time_ahead_is_taken_up_to_the_bound() -> None:
    assert single(time=format_rfc3339(NOW + MAX_AHEAD)).record.time == NOW + MAX_AHEAD
    problem = refused(json.dumps(EVENT | {"time": format_rfc3339(NOW + MAX_AHEAD + 1)}).encode())
    assert problem.errors[0].pointer == "/time"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"type": 1}, "/type"),
        ({"type": ""}, "/type"),
        ({"source": "a\nb"}, "/source"),
        ({"id": ""}, "/id"),
        ({"id": "x" * 300}, "/id"),
        ({"id": 7}, "/id"),
        ({"product": "btc usd"}, "/product"),
        ({"time": "yesterday"}, "/time"),
        ({"time": "2021-04-17T16:43:30"}, "/time"),
        ({"time": "0001-01-01T00:00:00+14:00"}, "/time"),
        ({"time": "1969-12-31T23:59:59Z"}, "/time"),
        ({"data": "a\0b"}, "/data"),
        ({"exchange": "coinbase"}, "/exchange"),
    ],
)
def test_a_fault_names_the_member_that_it_is_about(change: dict[str, object], pointer: str) -> None:
    problem = refused(json.dumps(EVENT | change).encode())

    assert (problem.status, problem.code) == (422, "invalid-body")
    assert [error.pointer for error in problem.errors] == [pointer]


@pytest.mark.parametrize("member", ["type", "source", "data"])
def test_a_missing_member_is_named(member: str) -> None:
    problem = refused(json.dumps({name: value for name, value in EVENT.items() if name != member}).encode())

    assert problem.detail == f"/{member}: is missing"


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1} x', b"\xff", b'{"type":"\xff"}', b'{"type":"\\ud800"}'])
def test_what_is_no_json_is_400(body: bytes) -> None:
    problem = refused(body)

    assert (problem.status, problem.code) == (400, "malformed-body")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"event"'])
def test_json_that_is_no_object_is_422(body: bytes) -> None:
    assert refused(body).status == 422


@pytest.mark.parametrize("tenant", ["acme", None, 7])
def test_an_event_that_names_a_tenant_is_400(tenant: object) -> None:
    problem = refused(json.dumps(EVENT | {"tenant": tenant}).encode())

    assert (problem.status, problem.code) == (400, "tenant-not-allowed")


def test_a_tenant_inside_data_is_the_clients_own_affair() -> None:
    assert json.loads(single(data={"tenant": "x"}).record.data) == {"tenant": "x"}


def test_each_event_of_a_batch_is_judged_by_itself() -> None:
    batch = {"events": [EVENT, EVENT | {"id": "b", "type": 1}, EVENT | {"id": "c", "time": "no"}, {"id": 3}, 5]}

    parsed = parse_batch(json.dumps(batch).encode(), clock)

    assert [type(event) for event in parsed] == [Accepted, Rejected, Rejected, Rejected, Rejected]
    assert [event.id for event in parsed] == ["fill-17", "b", "c", None, None]
    assert [error.pointer for error in rejections(parsed)] == [
        "/events/1/type",
        "/events/2/time",
        "/events/3/id",
        "/events/4",
    ]


def test_a_batch_has_the_same_events_as_its_parts_alone() -> None:
    bodies = [EVENT | {"id": str(number), "data": number} for number in range(50)]

    parsed = parse_batch(json.dumps({"events": bodies}).encode(), clock)

    assert parsed == [parse_single(json.dumps(body).encode(), clock) for body in bodies]


def test_an_event_of_a_batch_may_not_be_larger_than_one_alone() -> None:
    batch = {"events": [EVENT, EVENT | {"data": "x" * MAX_EVENT}]}

    parsed = parse_batch(json.dumps(batch).encode(), clock)

    assert [type(event) for event in parsed] == [Accepted, Rejected]


@pytest.mark.parametrize(
    ("batch", "status"),
    [
        ({"events": [EVENT] * 1001}, 413),
        ({"events": []}, 422),
        ({"events": {}}, 422),
        ({}, 422),
        ([EVENT], 422),
        ({"events": [EVENT], "tenant": "acme"}, 400),
        ({"events": [EVENT, EVENT | {"tenant": "acme"}]}, 400),
        ({"events": [EVENT], "atomic": True}, 422),
    ],
)
def test_a_batch_that_cannot_be_is_refused_as_a_whole(batch: object, status: int) -> None:
    with pytest.raises(Problem) as raised:
        parse_batch(json.dumps(batch).encode(), clock)

    assert raised.value.status == status


def test_uuids_sort_by_the_time_of_their_making() -> None:
    made = [uuid7(NOW + step) for step in range(0, 5000, 50)]

    assert made == sorted(made)
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in made} == {(7, uuid.RFC_4122)}
    assert uuid.UUID(made[0]).int >> 80 == NOW // 1000


@given(st.integers(0, 2**47 * 1000))
def test_a_uuid_holds_its_millisecond(now: int) -> None:
    assert uuid.UUID(uuid7(now)).int >> 80 == now // 1000
