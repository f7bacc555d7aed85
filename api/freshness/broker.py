"""Where topics end now: the broker is asked in threads of its own, so that nobody else waits for an absent one."""

import asyncio
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pulsestream.core.kafka import Admin, BrokerError
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings

WITHIN: Final = 2.0
"""Seconds that an answer may take."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Ends:
    """A topic's id, and the offset after the last record of each partition."""

    topic_id: str
    partitions: Mapping[int, int]


class Broker:
    """Asks the broker. Close it at the end."""

    def __init__(self, settings: Settings) -> None:
        self._admin = Admin(settings, "ps-api-ends")
        self._threads = ThreadPoolExecutor(2, "ends")

    async def ends(self, topics: Collection[str]) -> Mapping[str, Ends] | None:
        """Return the ends of those topics that exist; None when the broker does not say so in time."""
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, topics)
        try:
            return await asyncio.wait_for(asked, WITHIN)
        except (TimeoutError, BrokerError) as error:
            _log.warning("the ends of topics are not known", reason=str(error) or "no answer in time")
            return None

    def close(self) -> None:
        """Ask no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, topics: Collection[str]) -> Mapping[str, Ends]:
        known = self._admin.describe(topics)
        ends = self._admin.ends({topic.name: topic.partitions for topic in known.values()}, WITHIN)
        return {name: Ends(topic.topic_id, ends[name]) for name, topic in known.items()}
