"""Asks the broker where topics end, on the event loop: a question takes one round trip, and several may be under way.

A connection of its own: on one that fetches, a question would wait behind a fetch that the broker holds back.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

from pulsestream.core.kafka import ADMIN_TIMEOUT, BrokerError, tls
from pulsestream.core.settings import Settings

RETRY_WAIT: Final = 0.1
"""Seconds until a question that failed is asked again: the broker is away, or another one leads."""
_LATEST: Final = -1
_READ_COMMITTED: Final = 1
_NOBODY: Final = -1
_LEADER_NOT_AVAILABLE: Final = 5
"""Kafka's code for what is retried: an election is under way, or the topic was not heard of yet."""


class Ends:
    """Where partition 0 of some topics ends. On the event loop that made it; `start` first, `close` last."""

    def __init__(self, settings: Settings, client_id: str, topics: Collection[str]) -> None:
        self._topics = [TopicPartition(topic, 0) for topic in topics]
        self._client = AIOKafkaClient(
            bootstrap_servers=settings.kafka_bootstrap,
            client_id=client_id,
            security_protocol=settings.kafka_security,
            ssl_context=tls(settings),
            sasl_mechanism="SCRAM-SHA-256",
            sasl_plain_username=settings.kafka_username,
            sasl_plain_password=settings.kafka_password.get_secret_value(),
            request_timeout_ms=int(ADMIN_TIMEOUT * 1000),
        )

    async def start(self) -> None:
        """Connect; raises BrokerError."""
        try:
            await self._client.bootstrap()
            await self._client.set_topics([where.topic for where in self._topics])
        except KafkaError as error:
            raise BrokerError(f"cannot ask for the ends of {self._named}: {error!r}") from error

    async def ask(self) -> Mapping[str, int]:
        """Return the offset after the last record of each topic, as of some moment after the call; BrokerError."""
        deadline = time.monotonic() + ADMIN_TIMEOUT
        while True:
            try:
                return await self._ask()
            except KafkaError as error:
                if time.monotonic() > deadline:
                    raise BrokerError(f"cannot read the ends of {self._named}: {error!r}") from error
                self._client.force_metadata_update()
                await asyncio.sleep(RETRY_WAIT)

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    @property
    def _named(self) -> str:
        return " and ".join(where.topic for where in self._topics)

    async def _ask(self) -> dict[str, int]:
        asked: dict[int, list[tuple[str, list[tuple[int, int]]]]] = {}
        for where in self._topics:
            leader = self._client.cluster.leader_for_partition(where)
            node = _NOBODY if leader is None else leader
            asked.setdefault(node, []).append((where.topic, [(where.partition, _LATEST)]))
        if _NOBODY in asked:
            raise for_code(_LEADER_NOT_AVAILABLE)(self._named)
        answers = await asyncio.gather(*(self._ask_broker(node, topics) for node, topics in asked.items()))
        return {topic: end for answer in answers for topic, end in answer.items()}

    async def _ask_broker(self, node: int, topics: list[tuple[str, list[tuple[int, int]]]]) -> dict[str, int]:
        response = await self._client.send(node, OffsetRequest(-1, _READ_COMMITTED, topics))
        ends = {}
        for topic, partitions in response.topics:
            for _, code, _, end in partitions:
                if code:
                    raise for_code(code)(topic)
                ends[topic] = end
        return ends
