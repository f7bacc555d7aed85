"""One connected client: what it is to be told, and the signals between the hub and the connection's own task."""

import asyncio
from collections.abc import Callable

from api.asgi import ClientGoneError
from api.auth import Caller
from api.live.messages import CloseError, Interest
from api.live.repeats import Seen
from api.live.session import Session


class Client:
    """Made by a connection, joined to a tenant's view by the hub."""

    def __init__(self, caller: Caller, interest: Interest, abort: Callable[[], None]) -> None:
        self.caller = caller
        self.interest = interest
        self.abort = abort
        self.session: Session | None = None
        self.closing: CloseError | ClientGoneError | None = None
        self.sending_since: float | None = None
        self.wake = asyncio.Event()
        self.seen = Seen()
        self.reading: asyncio.Task[None] | None = None

    def close(self, reason: CloseError | ClientGoneError) -> None:
        """Ask the connection to end."""
        if self.closing is None:
            self.closing = reason
            self.wake.set()
