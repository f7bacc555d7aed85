"""Which dead letters are meant: what a search binds, without a database. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from api.cursor import Position
from pulsestream.core.clock import to_datetime
from pulsestream.core.topics import DATASETS, tenant_topic

STATES: Final = ("open", "replayed", "discarded")
WALK: Final = "dead-letters"
"""What a cursor of dead letters names as its dataset."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What letters have in common; None: anything. Times are microseconds, `from_time` included, `to_time` not."""

    state: str | None = None
    reason: str | None = None
    topic: str | None = None
    key: str | None = None
    from_time: int | None = None
    to_time: int | None = None

    def identity(self) -> list[Any]:
        """Return what a cursor is bound to, beside the order."""
        return [WALK, self.state, self.reason, self.topic, self.key, self.from_time, self.to_time]


def conditions(
    wanted: Filter, tenant: str, behind: Position | None, *, ascending: bool
) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the filters in `queries.sql`, and the parameters that they bind."""
    found = [*_conditions(wanted, tenant)]
    if behind is not None:
        bound = {"cursor_time": to_datetime(behind.time), "cursor_id": behind.event_id}
        found.append(("filter_letters_behind_asc" if ascending else "filter_letters_behind_desc", bound))
    return [name for name, _ in found], {key: value for _, bound in found for key, value in bound.items()}


def _conditions(wanted: Filter, tenant: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if wanted.state == "open":
        yield "filter_letters_open", {}
    elif wanted.state is not None:
        yield "filter_letters_settled", {"settled": wanted.state}
    if wanted.reason is not None:
        yield "filter_letters_reason", {"reason": wanted.reason}
    if wanted.topic is not None:
        yield "filter_letters_topic", {"topic": _topic(wanted.topic, tenant)}
    if wanted.key is not None:
        yield "filter_letters_key", {"key": wanted.key.encode(errors="surrogatepass")}
    for name, bound in (("from", wanted.from_time), ("to", wanted.to_time)):
        if bound is not None:
            yield f"filter_letters_{name}", {name: to_datetime(bound)}


def _topic(name: str, tenant: str) -> str:
    """Return a topic by its name, or by the name of its dataset."""
    return tenant_topic(tenant, name) if name in DATASETS else name
