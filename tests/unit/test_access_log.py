"""Lines of the access log: what they say, that they hold no secret, and when they are written."""

import asyncio
import json
from typing import Any

import pytest

from api import keys
from api.access_log import CALLER, LONGEST_PATH, MOST, AccessLog
from api.auth import Caller
from pulsestream.core.log import mask_secrets

TIME = 1_769_860_800_123_456
ID = b"r-1"


class Written(list[bytes]):
    """What was written, call by call."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in b"".join(self).splitlines()]


def scope(path: str = "/api/v1/rules", caller: Caller | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"method": "GET", "path": path, "client": ("10.0.0.1", 4711)}
    return made if caller is None else made | {CALLER: caller}


def logged(*requests: tuple[dict[str, Any], int], level: Any = "all") -> Written:
    written = Written()

    async def go() -> None:
        log = AccessLog(level, lambda: TIME, written.append)
        for request, status in requests:
            log.add(request, "/api/v1/rules", status, ID, 0.0123456789)
        log.flush()

    asyncio.run(go())
    return written


def test_a_line_says_who_asked_for_what_and_how_it_ended() -> None:
    [line] = logged((scope(caller=Caller("acme", "owner", "03kV8sLq2ZxYb", "pro")), 200)).lines()

    assert line == {
        "event": "request",
        "process": "api",
        "level": "info",
        "timestamp": "2026-01-31T12:00:00.123456Z",
        "request_id": "r-1",
        "method": "GET",
        "path": "/api/v1/rules",
        "route": "/api/v1/rules",
        "status": 200,
        "seconds": 0.012346,
        "client": "10.0.0.1",
        "tenant": "acme",
        "key_id": "03kV8sLq2ZxYb",
    }


def test_nobody_is_named_where_nobody_is_known() -> None:
    [line] = logged((scope() | {"client": None}, 401)).lines()

    assert "tenant" not in line
    assert "key_id" not in line
    assert line["client"] == ""


def test_a_client_that_has_gone_is_499() -> None:
    assert [line["status"] for line in logged((scope(), 0)).lines()] == [499]


@pytest.mark.parametrize(("level", "statuses"), [("all", [200, 404, 503]), ("refused", [404, 503]), ("off", [])])
def test_the_level_says_which_requests_leave_a_line(level: str, statuses: list[int]) -> None:
    written = logged(*((scope(), status) for status in (200, 404, 503)), level=level)

    assert [line["status"] for line in written.lines()] == statuses


def test_a_path_is_bounded_one_line_and_without_keys() -> None:
    key = keys.generate().text
    written = logged((scope(f"/{key}/\n{{}}\ud800" + "x" * 1000), 404))

    [line] = written.lines()
    assert key not in b"".join(written).decode()
    assert len(line["path"]) <= LONGEST_PATH


def test_lines_are_written_together_and_never_held_back_for_long() -> None:
    written = Written()

    async def go() -> None:
        both = asyncio.Event()

        def write(data: bytes) -> None:
            written.append(data)
            if len(written) > 1:
                both.set()

        log = AccessLog("all", lambda: TIME, write)
        for _ in range(MOST + 3):
            log.add(scope(), "/r", 200, ID, 0.1)
        assert [len(part.splitlines()) for part in written] == [MOST]
        await both.wait()
        log.flush()

    asyncio.run(asyncio.wait_for(go(), 30))
    assert [len(part.splitlines()) for part in written] == [MOST, 3]


def test_secrets_are_masked_however_deep_they_are() -> None:
    key = keys.generate().text
    event = {
        "event": "x",
        "deep": {"list": [f"at {key}", ("postgresql://a:b@c/d",)], "password": "p", 1: {"api_key": 2}},
        "bytes": key.encode(),
        "error": ValueError(key),
        "set": {key},
        "count": 3,
    }

    masked = mask_secrets(None, "", event)

    assert key not in repr(masked)
    assert masked["deep"]["list"] == ["at ***", ["postgresql://***@c/d"]]
    assert (masked["deep"]["password"], masked["deep"][1], masked["count"]) == ("***", {"api_key": "***"}, 3)
