"""A process that reports, as PULSESTREAM_SENTRY_DSN says: `python -m tests.support.reporting_child WHAT`.

logged: an error of the log, with secrets in its fields; request: the API's own application, of which a route fails;
ended: an exception that nobody foresaw ends it; at-once: it ends without unwinding, as the streams do.
"""

import asyncio
import sys
from dataclasses import fields
from datetime import date
from typing import Any, NoReturn, cast

import httpx

from api import keys
from api.access_log import AccessLog
from api.app import create_app
from api.audit.denials import Denials
from api.auth import Authenticator, StoredKey
from api.database import Database
from api.dependencies import Services
from api.limits.entrance import Entrance
from api.limits.limiter import Limiter
from api.limits.usage import Usage
from pulsestream import cli
from pulsestream.core.log import logger
from streams.ending import end_process

SECRET = "hunter2"
PEPPERS = {1: b"pepper"}
KEY = keys.generate()


def logged() -> None:
    """Fail with a secret in every place that an error has."""
    try:
        _connect(SECRET)
    except ValueError:
        logger(__name__).exception("it failed", tenant="acme", request_id="r-1", nested={"api_key": SECRET}, count=3)


def _connect(password: str) -> NoReturn:
    raise ValueError(f"cannot reach postgresql://ps_api:{password}@db/pulsestream with {KEY.text}")


async def request() -> None:
    """Ask a route whose service is not there, with a secret in a header, in the query and in the body."""
    stored = StoredKey("acme", "owner", keys.digest(KEY, PEPPERS[1]), 1, None, None, "active", "free")

    async def lookup(_: str) -> StoredKey:
        return stored

    entrance = Entrance(
        Authenticator(lookup, PEPPERS, lambda: 0, lambda: 0.0),
        Limiter(None, 1, lambda: 0, Usage(date(2026, 1, 1))),
        lambda: 0,
    )
    there = {"entrance": entrance, "access_log": AccessLog("off", lambda: 0), "denials": Denials(cast(Database, None))}
    nothing: dict[str, Any] = {each.name: None for each in fields(Services)}
    app = create_app(Services(**nothing | there), lambda: 0)
    headers = {"X-API-Key": KEY.text, "X-Request-ID": "r-2"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api", headers=headers) as http:
        answer = await http.post("/api/v1/keys", json={"name": SECRET, "role": "viewer"})
    assert answer.status_code == 500, answer.text


def ended() -> NoReturn:
    """End by an exception that no command foresees."""
    raise RuntimeError(f"nobody foresaw {KEY.text}")


def main(what: str) -> None:
    """Start as a command does, and do what is asked for."""
    cli._start("test")
    if what == "request":
        asyncio.run(request())
    elif what == "logged":
        logged()
    elif what == "at-once":
        end_process(RuntimeError(f"nobody foresaw {KEY.text}"))
    else:
        cli.app.command("ended")(ended)
        cli.main()  # the argument is the command's name


if __name__ == "__main__":
    main(sys.argv[1])
