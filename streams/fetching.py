"""Makes aiokafka's fetcher hand on blocks where it made an object of each record.

What it decides stays its own code: which batches belong to aborted transactions or are marks of their ends, checksums,
and where to go on. Its classes are names in its module, with no way to say others; so two of its methods are run with
ours in their place. Overrides name the method of aiokafka 0.14 that they replace and why;
`tests/unit/test_transport_internals.py` fails when one of them changes.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, Final, TypeVar

from aiokafka.consumer import fetcher as library

from streams.blocks import Block, FetchedBytes
from streams.sessions import FetchSessions

SHARE: Final = 500
"""Records of a partition that are handed on at once while other partitions have some too."""
_F = TypeVar("_F", bound=Callable[..., Any])


class Fetched:
    """The blocks of one partition in a fetch that arrived at some monotonic second; its length counts their records."""

    def __init__(self, arrived_at: float = 0.0) -> None:
        self.arrived_at = arrived_at
        self.blocks: list[Block] = []
        self._records = 0

    def __len__(self) -> int:
        return self._records

    @property
    def first_offset(self) -> int:
        """The offset of the first record."""
        return self.blocks[0].first_offset

    def add(self, block: Block) -> None:
        """Take the next block."""
        self.blocks.append(block)
        self._records += len(block)


class PartitionBlocks(library.PartitionRecords):  # type: ignore[misc] # it has no types
    """The blocks of a fetch that are still to be handed on; what the library takes for a record is a batch's block."""

    _rest: Block | None = None

    def take(self, count: int | None) -> Block | None:
        """Return the next records, of one batch and at most `count`; None: there are no more."""
        while self._rest is None or not len(self._rest):
            self._rest = next(self, None)
            if self._rest is None:
                return None
        block, self._rest = self._rest.split(len(self._rest) if count is None else count)
        self.next_fetch_offset = block.next_offset
        return block

    def _consumer_record(self, tp: Any, record: Block) -> Block:  # noqa: ARG002 - the library's signature
        """Leave out what lies before the offset that was asked for (it decodes keys and values)."""
        return record.since(self.next_fetch_offset)


class BlockResult(library.FetchResult):  # type: ignore[misc] # it has no types
    """What a fetch brought of a partition."""

    _partition_records: PartitionBlocks | None
    share: int | None = SHARE
    """Records that are handed on at once, at most; None: any number."""

    def getall(self, max_records: int | None = None) -> Fetched:
        """Return up to `max_records` records (it counts what the iterator gives, which are batches here)."""
        fetched = Fetched(self._created)
        max_records = min([count for count in (max_records, self.share) if count is not None], default=None)
        blocks = self._partition_records
        if not self.check_assignment(self._topic_partition) or blocks is None:
            return fetched
        while max_records is None or len(fetched) < max_records:
            block = blocks.take(None if max_records is None else max_records - len(fetched))
            if block is None:
                self._update_position()
                self._partition_records = None
                return fetched
            fetched.add(block)
        self._update_position()
        return fetched


def _with_ours(method: _F) -> _F:
    """Return the library's method, to which our classes are those that it makes and asks for."""
    names = {"MemoryRecords": FetchedBytes, "PartitionRecords": PartitionBlocks, "FetchResult": BlockResult}
    ours = FunctionType(
        method.__code__, method.__globals__ | names, method.__name__, method.__defaults__, method.__closure__
    )
    ours.__kwdefaults__ = method.__kwdefaults__
    return ours  # type: ignore[return-value] # it is the same function


class BlockFetcher(library.Fetcher):  # type: ignore[misc] # it has no types
    """The library's fetcher, which keeps and returns blocks."""

    _proc_fetch_request = _with_ours(library.Fetcher._proc_fetch_request)  # noqa: SLF001 - no other way
    _fetched_records = _with_ours(library.Fetcher.fetched_records)

    async def fetched_records(self, partitions: Any, timeout: float = 0, max_records: int | None = None) -> Any:  # noqa: ASYNC109 - the library's signature
        """Hand on a share of each partition in turn (fetcher.py:1209 empties the first before the second).

        So a topic with a backlog delays the others by its share of a turn, not by all that was fetched of it. Those
        that could fill a turn alone share it; what is left of them comes last in the next.
        """
        held = [result for result in self._records.values() if isinstance(result, BlockResult)]
        for result in held:
            result.share = None if max_records is None else max(SHARE, max_records // len(held))
        drained = await self._fetched_records(partitions, timeout, max_records)
        for tp in drained:
            if tp in self._records:
                self._records[tp] = self._records.pop(tp)
        return drained


def hand_on_blocks(fetcher: library.Fetcher, coming: Callable[[], None] = lambda: None) -> None:
    """Make a fetcher that has fetched nothing yet hand on blocks, and fetch within sessions.

    The consumer makes it in the middle of its start, by the library's name for it (consumer/consumer.py:384).
    """
    fetcher.__class__ = BlockFetcher
    fetcher._client = FetchSessions(fetcher._client, lambda: _assignment(fetcher), coming)  # noqa: SLF001 - likewise


def _assignment(fetcher: library.Fetcher) -> object:
    subscription = fetcher._subscriptions.subscription  # noqa: SLF001 - there is no public way
    return subscription.assignment if subscription else None
