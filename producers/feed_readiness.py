"""What a producer's operations port says: whether it is ready, and what is not well without making it unready.

The checks are called from the port's own thread: they only look.
"""

from collections.abc import Mapping
from typing import Final

from producers.feed_shard import FeedShard
from producers.filler import Filler
from producers.owned_shards import OwnedShards
from producers.publisher import Publisher
from pulsestream.core.health import Readiness

_SHOWN: Final = 20


def readiness(exchange: str, owned: OwnedShards, publisher: Publisher, filler: Filler) -> Readiness:
    """Return the checks of a producer, and its details."""
    made = Readiness()
    made.add("exchange", lambda: exchange_problem(owned))
    made.add("broker", publisher.problem)
    made.add_detail("shards", lambda: shards_detail(owned))
    made.add_detail("history", filler.problem)
    made.add_detail("products", lambda: products_detail(exchange, list(owned.owned.values())))
    made.add_detail("tenants", lambda: tenants_detail(publisher.parked()))
    return made


def exchange_problem(owned: OwnedShards) -> str | None:
    """Return why a shard that has products gets no data, or None."""
    if not owned.has_begun:
        return "the group of producers has not yet said which shards are to be fed here"
    problems = (shard.feed.problem() for shard in list(owned.owned.values()))
    return next((problem for problem in problems if problem is not None), None)


def shards_detail(owned: OwnedShards) -> str | None:
    """Return what is unusual about the shards of this process, or None."""
    if owned.in_doubt:
        return f"the broker has dropped this producer from its group: shards {sorted(owned.in_doubt)} are in doubt"
    if owned.has_begun and not owned.owned:
        return "no shard is left for this producer: raise PULSESTREAM_FEED_SHARDS, or run fewer producers"
    return None


def products_detail(exchange: str, shards: list[FeedShard]) -> str | None:
    """Return which products are not delivered, and why, or None."""
    refused = {product: reason for shard in shards for product, reason in shard.feed.refused().items()}
    return f"not delivered by {exchange}: {_listed(refused)}" if refused else None


def tenants_detail(parked: Mapping[str, str]) -> str | None:
    """Return which tenants get nothing, and why, or None."""
    return f"tenants that get nothing at present: {_listed(parked)}" if parked else None


def _listed(reasons: Mapping[str, str]) -> str:
    shown = [f"{name} ({reason})" for name, reason in sorted(reasons.items())[:_SHOWN]]
    more = len(reasons) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
