"""Which products an exchange has, as far as its producer has told: asked for when somebody wants new ones.

The topic of products holds one record an exchange: it is read anew, and the answer kept for a while. Where nothing is
known (no producer has told, its last word is old, the broker is away) every product is taken.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND, Clock
from pulsestream.core.kafka import BrokerError
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings
from pulsestream.core.topics import PRODUCTS
from schemas.control import ControlTable
from schemas.records import ProductList

KEPT: Final = 5.0
"""Seconds for which what was read is taken for the present."""
WITHIN: Final = 2.0
"""Seconds that reading may take."""
OLD: Final = 24 * 3600 * MICROS_PER_SECOND
"""Age, micros, from which on a list says nothing."""
NEAR: Final = 3
"""Products that are named for one that is not there."""
_log = logger(__name__)

Lists = Mapping[str, Sequence[str]]
"""The products of exchanges, in order, where they are known."""


class KnownProducts:
    """Reads the topic of products. Close it at the end."""

    def __init__(self, settings: Settings, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._thread = ThreadPoolExecutor(1, "products")
        self._one_at_a_time = asyncio.Lock()
        self._lists: Lists = {}
        self._until = -KEPT

    async def lists(self) -> Lists:
        """Return what is known now; waits for one reading at most."""
        async with self._one_at_a_time:
            if self._monotonic() >= self._until:
                self._lists = await self._asked()
                self._until = self._monotonic() + KEPT
        return self._lists

    def close(self) -> None:
        """Read no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _asked(self) -> Lists:
        reading = asyncio.get_running_loop().run_in_executor(self._thread, self._read)
        try:
            told = await asyncio.wait_for(reading, WITHIN)
        except (TimeoutError, BrokerError) as error:
            _log.warning("exchanges' products are not known", reason=str(error) or "no answer in time")
            return {}
        now = self._clock()
        return {one.exchange: one.products for one in told if now - one.at < OLD}

    def _read(self) -> list[ProductList]:
        table = ControlTable(self._settings, PRODUCTS, ProductList, "ps-api-products")
        try:
            table.load()
        finally:
            table.close()
        return list(table.records.values())


def explained(exchange: str, product: str, products: Sequence[str]) -> str:
    """Return the message about a product that an exchange does not have; it names those that are like it."""
    found = near(product, products)
    return f"{exchange} has no product {product!r}" + (f": did you mean {', '.join(found)}?" if found else "")


def near(product: str, products: Sequence[str]) -> list[str]:
    """Return the products that this one is most like, the nearest first; only those that share a currency if any do."""
    currencies = set(product.split("-"))
    alike = [name for name in products if not currencies.isdisjoint(name.split("-"))]
    return get_close_matches(product, alike or products, NEAR)
