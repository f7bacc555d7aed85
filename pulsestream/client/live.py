"""The live view, followed for as long as it is read: over restarts of the API, with every alert once."""

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, Final

from pulsestream.client.errors import ApiError, UnavailableError
from pulsestream.client.transport import TOO_MANY, TRIES, Query, Transport, route

SILENCE: Final = 45.0
"""Seconds without a word after which a connection counts as lost: the API says something every 15 s."""
GOOD: Final = 60.0
"""Seconds of a connection after which the next one is tried at once again, and not later and later."""
_DATA: Final = "data: "
_REFUSALS: Final = {4400: 400, 4401: 401, 4403: 403, 4409: 400}
"""Codes with which the API ends what would not be better another time, and what HTTP calls them."""

Message = dict[str, Any]


def follow(
    transport: Transport, query: Query, tries: int = TRIES, monotonic: Callable[[], float] = time.monotonic
) -> Iterator[Message]:
    """Yield the messages of docs/live.md, without `bye`; connects again from where it was, for ever.

    Raises ApiError for a refusal, and UnavailableError where not even the first connection comes about.
    """
    resume, failures, has_been = query.get("resume"), 0, False
    while True:
        began = monotonic()
        try:
            with closing(_messages(transport, {**query, "resume": resume})) as messages:
                for message in messages:
                    has_been, resume = True, message.get("resume") or resume
                    yield message
        except ApiError as error:
            if error.status != TOO_MANY:
                raise
        except UnavailableError:
            if not has_been and failures + 1 >= tries:
                raise
        failures = 1 if monotonic() - began > GOOD else failures + 1
        transport.rest(failures)


def _messages(transport: Transport, query: Query) -> Generator[Message, None, None]:
    """Yield the messages of one connection (HTML Living Standard, 9.2: one line of data in each event)."""
    for line in transport.lines(route("live", "events"), query, silence=SILENCE):
        if not line.startswith(_DATA):
            continue
        message: Message = json.loads(line.removeprefix(_DATA))
        if message["type"] != "bye":
            yield message
            continue
        status = _REFUSALS.get(message["code"])
        if status is not None:
            raise ApiError(status, {"title": "The live view ended", "detail": message["reason"]}, "")
        return
