"""Tickets of 30 s that open a stream of events once: a browser's EventSource can send no header.

A ticket names its key and is sealed; that it was used stands in the database, so that no other process takes it again.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from api.auth import Caller
from api.database import Database, execute
from api.keys import Peppers
from api.seal import Seal, SealError
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, to_datetime

LIFETIME: Final = 30
"""Seconds."""
_NONCE_BYTES: Final = 16
_ANYBODY: Final = ""
"""Owner of the seal: the tenant is in the ticket."""


class TicketError(ValueError):
    """The ticket is not one of ours, too old, or used."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket's text, and until when it opens a stream."""

    ticket: str
    expires_at: datetime


class _Sealed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    tenant: str
    key_id: str
    expires: int
    nonce: bytes


class Tickets:
    """Gives and takes tickets."""

    def __init__(self, database: Database, peppers: Peppers, clock: Clock) -> None:
        self._database = database
        self._seal = Seal(peppers, "live ticket")
        self._clock = clock

    def give(self, caller: Caller) -> Ticket:
        """Return a new ticket for the holder of a key."""
        expires = self._clock() + LIFETIME * MICROS_PER_SECOND
        sealed = _Sealed(caller.tenant, caller.key_id, expires, secrets.token_bytes(_NONCE_BYTES))
        return Ticket(self._seal.close(msgspec.msgpack.encode(sealed), _ANYBODY), to_datetime(expires))

    async def take(self, text: str) -> str:
        """Return the id of the key that a ticket was given for; raises TicketError, and Problem 503."""
        try:
            sealed = msgspec.msgpack.decode(self._seal.open(text, _ANYBODY), type=_Sealed)
        except SealError as error:
            raise TicketError("the ticket was not given by this service") from error
        if sealed.expires <= self._clock():
            raise TicketError(f"the ticket is older than {LIFETIME} s")
        async with self._database.tenant(sealed.tenant) as connection:
            await execute(connection, "forget_live_tickets", {"tenant": sealed.tenant})
            used = {"tenant": sealed.tenant, "nonce": sealed.nonce, "expires_at": to_datetime(sealed.expires)}
            if not await execute(connection, "use_live_ticket", used):
                raise TicketError("the ticket was used before")
        return sealed.key_id
