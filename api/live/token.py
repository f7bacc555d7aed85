"""Resume tokens: how far a client has seen its tenant's alerts, as text that only this installation can make.

A token holds the topic's id and the next offset of each of its partitions; its seal covers the tenant. So it is good
with any key of that tenant, on any process, before and after a restart, and with no other tenant's key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from api.keys import Peppers
from api.seal import Seal, SealError

_VERSION: Final = 1


class TokenError(ValueError):
    """The resume token is not one of ours, or another tenant's."""


@dataclass(frozen=True, slots=True)
class Positions:
    """The next offset of each partition in one life of a topic."""

    topic_id: str
    next_offsets: tuple[int, ...]


class _Sealed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    topic_id: str
    next_offsets: tuple[int, ...]


class ResumeSeal:
    """Makes and opens resume tokens."""

    def __init__(self, peppers: Peppers) -> None:
        self._seal = Seal(peppers, "live resume token")

    def seal(self, tenant: str, topic_id: str, next_offsets: Sequence[int]) -> str:
        """Return the token of these positions."""
        return self._seal.close(msgspec.msgpack.encode(_Sealed(_VERSION, topic_id, tuple(next_offsets))), tenant)

    def open(self, token: str, tenant: str) -> Positions:
        """Return the positions in a token; raises TokenError."""
        try:
            sealed = msgspec.msgpack.decode(self._seal.open(token, tenant), type=_Sealed)
        except (SealError, msgspec.MsgspecError) as error:
            raise TokenError(f"the resume token {error}") from error
        return Positions(sealed.topic_id, sealed.next_offsets)
