"""Tells the platform which products an exchange has: its own list, asked for over REST, on the topic of products.

One process of an exchange tells, the one that feeds its first shard. Who subscribes tenants reads the topic, so that a
product that does not exist is refused when it is asked for, and not by silence.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError

from producers.errors import RestAwayError, RestRefusedError
from producers.ledger_writer import ControlSender
from producers.rest_client import RestClient
from producers.venues.protocol import ProtocolError, Rest
from pulsestream.core.clock import Clock
from pulsestream.core.log import logger
from pulsestream.core.topics import PRODUCTS
from schemas.codec import codec
from schemas.records import ProductList

EVERY: Final = 900.0
"""Seconds between two lists that were told."""
RETRY: Final = 60.0
"""Seconds until one that was not told is asked for again."""
LOOK: Final = 1.0
_log = logger(__name__)


class ProductLists:
    """Tells one exchange's list, for as long as `may_tell` says that this process is the one to."""

    def __init__(
        self,
        exchange: str,
        rest: Rest,
        client: RestClient,
        sender: ControlSender,
        *,
        may_tell: Callable[[], bool],
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchange = exchange
        self._rest = rest
        self._client = client
        self._sender = sender
        self._may_tell = may_tell
        self._clock = clock
        self._monotonic = monotonic
        self._next = 0.0
        self._encode = codec(ProductList).encode

    async def run(self) -> None:
        """Tell the list again and again, until cancelled."""
        while True:
            if self._may_tell() and self._monotonic() >= self._next:
                self._next = self._monotonic() + RETRY
                await self._tell()
            await asyncio.sleep(LOOK)

    async def _tell(self) -> None:
        try:
            products = self._rest.parse_products(await self._client.get(self._rest.products()))
        except (RestAwayError, RestRefusedError, ProtocolError) as error:
            _log.warning("the exchange's products are not known", exchange=self._exchange, reason=str(error))
            return
        now = self._clock()
        told = ProductList(exchange=self._exchange, products=products, at=now, version=now)
        if self._may_tell():
            self._sender.send(PRODUCTS, self._exchange, self._encode(told), self._told)

    def _told(self, error: KafkaError | None) -> None:
        if error is None:
            self._next = self._monotonic() + EVERY
        else:
            _log.warning("the exchange's products are not told", exchange=self._exchange, reason=error.str())
