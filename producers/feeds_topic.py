"""The feeds topic as a table that a producer keeps current, so that taking a shard over costs a short read only."""

import threading
from collections.abc import Mapping

from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEEDS
from schemas.control import ControlTable
from schemas.records import Feed


class FeedsTopic:
    """The newest record of each key of the ledger. Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._table = ControlTable(settings, FEEDS, Feed, "ps-producer-feeds")
        self._one_at_a_time = threading.Lock()

    def read(self) -> Mapping[str, Feed]:
        """Return the records up to the topic's present end; blocks, raises BrokerError."""
        with self._one_at_a_time:
            self._table.load()
            return dict(self._table.records)

    def follow(self) -> None:
        """Take what has arrived, without waiting; raises BrokerError."""
        if self._one_at_a_time.acquire(blocking=False):
            try:
                self._table.refresh()
            finally:
                self._one_at_a_time.release()

    def records(self) -> Mapping[str, Feed]:
        """Return the records as far as they are read; none while another thread reads them."""
        if not self._one_at_a_time.acquire(blocking=False):
            return {}
        try:
            return dict(self._table.records)
        finally:
            self._one_at_a_time.release()

    def close(self) -> None:
        """Leave the broker."""
        with self._one_at_a_time:
            self._table.close()
