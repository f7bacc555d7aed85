"""Bodies are bounded before they are parsed."""

import asyncio
import gzip
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.admission import Admission, Held
from api.asgi import ClientGoneError
from api.body import DRAIN, MAX_NESTING, check_nesting, read_body
from api.errors import Problem

JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\[]{}é\n'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"\\[{'), inner, max_size=3),
    max_leaves=20,
)


def nesting(value: object) -> int:
    """The oracle: how deep parsed JSON is nested."""
    if isinstance(value, dict):
        return 1 + max(map(nesting, value.values()), default=0)
    return 1 + max(map(nesting, value), default=0) if isinstance(value, list) else 0


def is_refused(body: bytes) -> bool:
    try:
        check_nesting(body)
    except Problem as problem:
        return problem.status == 413
    return False


@given(JSON, st.integers(0, 40), st.sampled_from(["list", "object"]), st.sampled_from(["ascii", "utf-8"]))
def test_json_is_refused_exactly_when_it_is_nested_too_deep(value: object, more: int, kind: str, text: str) -> None:
    for _ in range(more):
        value = {"a[{": value} if kind == "object" else [value]
    body = json.dumps(value, ensure_ascii=text == "ascii").encode()

    assert is_refused(body) is (nesting(value) > MAX_NESTING)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'"' + b'\\"' * 500_000,
        b'"' * 1_000_001,
        b"[" * 40 + b'"' + b"\\" * 999_999,
        b"[]" * 500_000,
        b'["a",' * 30 + b'"' + b"x[{" * 300_000,
    ],
)
def test_hostile_bodies_are_judged_in_linear_time(body: bytes) -> None:
    began = time.process_time()

    is_refused(body)

    assert time.process_time() - began < 2.0


def test_brackets_inside_strings_do_not_count() -> None:
    assert not is_refused(json.dumps({"a": "[" * 1000, 'b\\"[[[[' * 40: 1}).encode())


def read(chunks: Sequence[bytes], limit: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> tuple[bytes, int]:
    """Read a body that arrives in chunks; returns it and how many chunks were taken."""
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if waiting:
        waiting[-1]["more_body"] = False
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    return asyncio.run(read_body(dict(headers), receive, limit, Admission().admit())), taken


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=10))
def test_a_body_is_read_whole_however_it_arrives(chunks: list[bytes]) -> None:
    assert read(chunks, 1000) == (b"".join(chunks), len(chunks))


def test_reading_stops_at_the_bound_and_not_at_the_end() -> None:
    arrived = 0

    async def receive() -> dict[str, Any]:
        nonlocal arrived
        arrived += 1
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    with pytest.raises(Problem, match="more than 25 bytes"):
        asyncio.run(read_body({}, receive, 25, Admission().admit()))
    assert arrived * 10 < DRAIN + 100


def refusal(chunks: Sequence[bytes], limit: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> Problem:
    with pytest.raises(Problem) as raised:
        read(chunks, limit, headers)
    return raised.value


def test_a_body_slightly_too_large_is_thrown_away_so_that_the_client_can_read_the_answer() -> None:
    problem = refusal([b"x" * 26, b"x" * 1000], 25)

    assert (problem.status, dict(problem.headers)) == (413, {})


def test_a_body_far_too_large_ends_the_connection() -> None:
    problem = refusal([b"x" * 1_000_000] * 10, 25, [(b"content-length", b"10000000")])

    assert (problem.status, dict(problem.headers)) == (413, {"Connection": "close"})


def test_a_client_that_waits_for_the_go_ahead_is_refused_before_it_sends() -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("this would have told the client to go on")

    headers = {b"content-length": b"26", b"expect": b"100-continue"}
    with pytest.raises(Problem, match="more than 25 bytes"):
        asyncio.run(read_body(headers, receive, 25, Admission().admit()))


def test_a_body_that_does_not_arrive_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.body.ARRIVE_WITHIN", 0.01)

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(Problem) as raised:
        asyncio.run(read_body({}, receive, 25, Admission().admit()))
    assert raised.value.status == 408


def test_a_client_that_goes_away_is_noticed() -> None:
    with pytest.raises(ClientGoneError):
        read([], 25)


def read_compressed(body: bytes, limit: int, held: Held) -> bytes:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return asyncio.run(read_body({b"content-encoding": b"GZIP"}, receive, limit, held, ["gzip"]))


def test_what_is_read_and_what_it_unfolds_to_is_held() -> None:
    admission = Admission()
    held = admission.admit()
    body = gzip.compress(b" " * 1000)

    assert read_compressed(body, 1000, held) == b" " * 1000
    assert admission.bytes == len(body) + 1000
    held.release()
    assert admission.bytes == 0


def test_a_body_for_which_there_is_no_room_is_503_as_soon_as_that_is_so() -> None:
    admission = Admission(max_bytes=25)
    arrived = 0

    async def receive() -> dict[str, Any]:
        nonlocal arrived
        arrived += 10
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    with pytest.raises(Problem) as raised:
        asyncio.run(read_body({}, receive, 1000, admission.admit()))
    assert (raised.value.status, arrived) == (503, 30)


def test_a_body_that_comes_late_but_in_time_is_taken() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"{}", "more_body": False}

    assert asyncio.run(read_body({}, receive, 25, Admission().admit())) == b"{}"


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_is_taken(content_type: str) -> None:
    assert read([b"{}"], 25, [(b"content-type", content_type.encode())])[0] == b"{}"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")],
    ],
)
def test_what_is_not_plain_json_is_415(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Problem) as refused:
        read([b"{}"], 25, headers)

    assert refused.value.status == 415
