"""`pulsestream api` with its door open: `python -m benchmarks.peers.open_api TENANT`, set as the API is.

The same command, but for one thing that is exchanged before it starts: whoever asks is the owner of TENANT. No key is
looked at, nothing is limited, and no header says what is left. What the API takes longer is what keys and limits cost.
"""

import sys
import time
from dataclasses import replace
from datetime import date
from typing import Final

import api.server
from api.access_log import CALLER
from api.app import Application, create_app
from api.asgi import Scope
from api.auth import Authenticator, Caller
from api.dependencies import Services
from api.limits.entrance import Entrance
from api.limits.limiter import Limiter
from api.limits.usage import Usage
from pulsestream import cli
from pulsestream.core.clock import Clock

KEY_ID: Final = "opendoor00000"


class OpenDoor(Entrance):
    """Lets everybody in as one caller, and counts no requests."""

    def __init__(self, authenticator: Authenticator, tenant: str) -> None:
        unlimited = Limiter(None, 1, time.monotonic_ns, Usage(date(2026, 1, 1)))
        super().__init__(authenticator, unlimited, time.monotonic_ns)
        self._caller = Caller(tenant, "owner", KEY_ID, "free")

    def recent(self, text: bytes, scope: Scope) -> Caller | None:  # noqa: ARG002 - whatever it is
        """Return the one caller."""
        scope[CALLER] = self._caller
        return self._caller

    async def caller(self, text: str | None, scope: Scope) -> Caller:  # noqa: ARG002 - likewise
        """Return the one caller."""
        scope[CALLER] = self._caller
        return self._caller


def main(tenant: str) -> None:
    """Serve until SIGTERM."""

    def opened(services: Services, clock: Clock) -> Application:
        return create_app(replace(services, entrance=OpenDoor(services.authenticator, tenant)), clock)

    api.server.create_app = opened  # type: ignore[attr-defined] # not exported: what it imports is exchanged here
    sys.argv = ["pulsestream", "api"]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1])
