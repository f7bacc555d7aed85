"""Records that were refused: looked at, sent again, or settled."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from pulsestream.client.objects import DeadLetter
from pulsestream.client.transport import Transport, parameters, route

PAGE = 1000


class DeadLetters:
    """Records of the tenant that were refused."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, order: Literal["asc", "desc"] = "desc", page: int = PAGE, **filters: Any) -> Iterator[DeadLetter]:
        """Yield dead letters, by default the open ones."""
        query = {**parameters(filters), "order": order, "limit": page}
        return cast(Iterator[DeadLetter], self._transport.walk(route("dead-letters"), "dead_letters", query))

    def get(self, letter_id: str) -> dict[str, Any]:
        """Return a dead letter with its record."""
        return cast(dict[str, Any], self._transport.request("GET", route("dead-letters", letter_id)))

    def settle(self, how: Literal["replay", "discard"], body: Mapping[str, Any]) -> dict[str, Any]:
        """Replay or discard dead letters, one page of them; both are safe to repeat."""
        return cast(dict[str, Any], self._transport.request("POST", route("dead-letters", how), body=body))
