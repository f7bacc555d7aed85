"""The client: what it repeats and what not, against a server that misbehaves; batches; rows as the schemas say."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.search.collections import COLLECTIONS
from pulsestream.client import AlertRow, ApiError, BarRow, EventRow, StatRow, TickRow, TradeRow, UnavailableError
from pulsestream.client.batches import MAX_BYTES, all_rejected, batches
from pulsestream.client.live import follow
from pulsestream.client.transport import Transport
from pulsestream.local.process import free_port
from tests.support.answering import Answer, Server, serving

ROWS: dict[str, type] = {
    "ticks": TickRow,
    "trades": TradeRow,
    "events": EventRow,
    "bars": BarRow,
    "stats": StatRow,
    "alerts": AlertRow,
}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


class Rests:
    """Remembers how long it would have slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def rests() -> Rests:
    return Rests()


@pytest.fixture
def transport(server: Server, rests: Rests) -> Iterator[Transport]:
    made = Transport(server.url, "key", timeout=20, tries=4, sleep=rests, jitter=lambda _, most: most)
    with closing(made):
        yield made


AWAY: Answer = {"status": 503, "body": {"title": "No room", "detail": "later"}}


def test_what_may_be_repeated_is_until_it_succeeds(server: Server, transport: Transport, rests: Rests) -> None:
    server.answers = [{"broken": True}, AWAY, {"body": {"a": 1}}]

    assert transport.request("GET", "/x", query={"b": 2, "c": None}) == {"a": 1}

    assert [(method, path) for method, path, _ in server.seen] == [("GET", "/x?b=2")] * 3
    assert rests.seconds == [0.5, 1.0]


def test_it_rests_for_as_long_as_it_is_asked_to_within_a_bound(
    server: Server, transport: Transport, rests: Rests
) -> None:
    asked = [{"Retry-After": text} for text in ("7", "86400", "Fri, 31 Dec 1999 23:59:59 GMT")]
    server.answers = [*({**AWAY, "headers": headers} for headers in asked), {"body": {}}]

    transport.request("GET", "/x")

    assert rests.seconds == [7.0, 30.0, 2.0]


def test_it_gives_up_and_says_what_was_said(server: Server, transport: Transport) -> None:
    server.answers = [AWAY]

    with pytest.raises(UnavailableError, match="No room: later"):
        transport.request("GET", "/x")

    assert len(server.seen) == 4


@pytest.mark.parametrize("answer", [AWAY, {"broken": True}])
def test_what_may_not_be_repeated_is_sent_once(server: Server, transport: Transport, answer: Answer) -> None:
    server.answers = [answer, {"body": {}}]

    with pytest.raises(UnavailableError):
        transport.request("POST", "/x", body={}, repeatable=False)

    assert len(server.seen) == 1


def test_too_many_requests_had_no_effect_and_are_made_again(server: Server, transport: Transport) -> None:
    server.answers = [{"status": 429, "headers": {"Retry-After": "1"}}, {"body": {"a": 1}}]

    assert transport.request("POST", "/x", body={}, repeatable=False) == {"a": 1}


def test_without_a_connection_everything_is_tried_again(rests: Rests) -> None:
    nowhere = Transport(f"http://127.0.0.1:{free_port()}", None, timeout=5, tries=3, sleep=rests)
    with closing(nowhere), pytest.raises(UnavailableError, match="Is `pulsestream up` running"):
        nowhere.request("POST", "/x", repeatable=False)

    assert len(rests.seconds) == 2


def test_a_refusal_is_not_repeated_and_says_why(server: Server, transport: Transport) -> None:
    body = {
        "type": "urn:pulsestream:problem:invalid-body",
        "title": "Body is invalid",
        "detail": "Correct it.",
        "errors": [{"pointer": "/name", "message": "is missing"}],
    }
    server.answers = [{"status": 422, "body": body}]

    with pytest.raises(ApiError, match=r"Body is invalid: Correct it\.; /name is missing") as excinfo:
        transport.request("POST", "/x", body={})

    assert (excinfo.value.status, excinfo.value.code, len(server.seen)) == (422, "invalid-body", 1)


@pytest.mark.parametrize("body", [b"<html>", b"null"])
def test_an_answer_that_is_not_the_apis_is_told(server: Server, transport: Transport, body: bytes) -> None:
    server.answers = [{"body": body}]

    with pytest.raises(UnavailableError, match="is not PulseStream's API"):
        transport.request("GET", "/x")


@pytest.mark.parametrize("answer", [{"status": 404, "body": b"<html>"}, {"status": 400, "body": [1]}])
def test_a_refusal_that_is_no_problem_is_one_all_the_same(server: Server, transport: Transport, answer: Answer) -> None:
    server.answers = [answer]

    with pytest.raises(ApiError):
        transport.request("GET", "/x")


def test_an_export_that_breaks_off_is_told_and_not_begun_again(server: Server, transport: Transport) -> None:
    server.answers = [{"body": b"one\ntwo", "headers": {"X": "y"}}, AWAY, {"broken": True}]

    assert list(transport.lines("/x", {})) == ["one", "two"]
    for _ in range(2):
        with pytest.raises(UnavailableError):
            list(transport.lines("/x", {}))


def test_a_line_ends_with_a_line_feed_and_with_nothing_that_a_text_in_json_may_hold(
    server: Server, transport: Transport
) -> None:
    lines = ['{"name": "a\u2028b\x85c\u2029"}', "", "last"]
    server.answers = [{"body": "\r\n".join(lines).encode(), "headers": {"X": "y"}}]

    assert list(transport.lines("/x", {})) == lines


def test_however_often_something_failed_the_rest_is_bounded(transport: Transport, rests: Rests) -> None:
    transport.rest(5_000)

    assert rests.seconds == [30.0]


def said(*messages: dict[str, Any]) -> Answer:
    return {"body": "".join(f":\n\ndata: {json.dumps(message)}\n\n" for message in messages).encode()}


def test_what_is_followed_goes_on_from_where_it_was_and_rests_longer_while_connections_are_short(
    server: Server, transport: Transport, rests: Rests
) -> None:
    restarts, goes = {"type": "bye", "code": 1012, "reason": "restart"}, {"type": "bye", "code": 4403, "reason": "no"}
    too_many: Answer = {"status": 429, "headers": {"Retry-After": "9"}}
    server.answers = [
        said({"type": "live", "resume": "a"}, restarts),
        AWAY,
        too_many,
        said({"type": "ticks"}),
        said(goes),
    ]
    following = follow(transport, {"datasets": "alerts"}, tries=1, monotonic=lambda: 0.0)

    assert [next(following)["type"], next(following)["type"]] == ["live", "ticks"]
    with pytest.raises(ApiError, match="no") as excinfo:
        next(following)

    assert excinfo.value.status == 403
    assert [path.partition("resume=")[2] for _, path, _ in server.seen] == ["", "a", "a", "a", "a"]
    assert rests.seconds == [0.5, 1.0, 2.0, 4.0]


def test_what_is_followed_is_tried_again_at_once_after_a_good_connection(
    server: Server, transport: Transport, rests: Rests
) -> None:
    server.answers = [AWAY, AWAY, said({"type": "live"}), said({"type": "live"})]
    times = iter([0.0, 1.0, 2.0, 3.0, 4.0, 64.1, 65.0])
    following = follow(transport, {}, tries=3, monotonic=lambda: next(times))

    next(following)
    next(following)

    assert rests.seconds == [0.5, 1.0, 0.5]


def test_what_cannot_even_be_connected_to_is_not_followed_for_ever(server: Server, transport: Transport) -> None:
    server.answers = [AWAY]

    with pytest.raises(UnavailableError):
        next(follow(transport, {}, tries=3))

    assert len(server.seen) == 3


texts = st.text(max_size=40)
events = st.lists(st.fixed_dictionaries({"data": texts}, optional={"id": texts}), max_size=40)


@given(events, st.integers(1, 5))
def test_batches_keep_every_event_in_order_and_fit(sent: list[dict[str, Any]], most: int) -> None:
    made = list(batches(sent, most))

    assert [event["data"] for batch in made for event in batch] == [event["data"] for event in sent]
    assert all(1 <= len(batch) <= most for batch in made)
    given_ids = [event.get("id") for event in sent]
    assert all(
        event["id"] == given if given is not None else event["id"]
        for event, given in zip((event for batch in made for event in batch), given_ids, strict=True)
    )


def test_a_batch_is_bounded_by_its_bytes_as_they_are_sent() -> None:
    large = [{"data": "é" * 200_000} for _ in range(4)]

    made = list(batches(large, 1000))

    assert [len(batch) for batch in made] == [2, 2]
    assert all(len(json.dumps({"events": batch}, ensure_ascii=False).encode()) <= MAX_BYTES for batch in made)


def problem(*faults: tuple[str, str]) -> dict[str, Any]:
    return {"errors": [{"pointer": pointer, "message": message} for pointer, message in faults]}


def test_a_batch_that_is_refused_whole_tells_of_each_event() -> None:
    batch: Any = [{"id": "a"}, {"id": "b"}]

    assert all_rejected(batch, problem(("/events/0/type", "x"), ("/events/1", "y"), ("/events/1/data", "z"))) == [
        {"id": "a", "status": "rejected", "errors": [{"pointer": "/type", "message": "x"}]},
        {
            "id": "b",
            "status": "rejected",
            "errors": [{"pointer": "", "message": "y"}, {"pointer": "/data", "message": "z"}],
        },
    ]


@pytest.mark.parametrize("pointer", ["/events/0", "/events/2", "/events", "/events/x", "/evens/0", ""])
def test_a_refusal_of_another_kind_stays_one(pointer: str) -> None:
    batch: Any = [{"id": "a"}, {"id": "b"}]

    assert all_rejected(batch, problem((pointer, "x"))) is None


@pytest.mark.parametrize("dataset", COLLECTIONS)
def test_rows_are_typed_as_the_schemas_say(dataset: str) -> None:
    fields = COLLECTIONS[dataset].schema
    hints = get_type_hints(ROWS[dataset])

    assert list(hints) == list(fields)
    if dataset == "events":
        fields = {name: one for name, one in fields.items() if name != "data"}  # JSON text in Avro, JSON in rows
    for name, one in fields.items():
        assert (type(None) in getattr(hints[name], "__args__", ())) == (isinstance(one["type"], list)), name
