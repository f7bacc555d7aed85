"""A source of Coinbase ticker frames at a steady rate, for the latency benchmark: `python -m … PORT RATE`.

It confirms what a client subscribes to, and from then on sends frames of the subscribed products in turn, each stamped
with the time at which it is written. The frames of a millisecond go to a socket in one write; what a slow reader leaves
behind waits in this process, and its time has been stamped before.
"""

import asyncio
import json
import sys
import time
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, serve

from pulsestream.core.clock import format_rfc3339, wall_clock

_STEP: Final = 0.001
_FRAME: Final = (
    b'{"type":"ticker","sequence":%d,"product_id":"%b","price":"%d.%04d","open_24h":"14.6647",'
    b'"volume_24h":"94381.01000000","low_24h":"14.3691","high_24h":"16.55","volume_30d":"2295579.01000000",'
    b'"best_bid":"14.4900","best_bid_size":"12.50000000","best_ask":"14.5100","best_ask_size":"0.40000000",'
    b'"side":"buy","time":"%b","trade_id":%d,"last_size":"0.01000000"}'
)


class Source:
    """All connections, and the products that each of them gets."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._listeners: dict[str, ServerConnection] = {}
        self._number = 0

    async def converse(self, connection: ServerConnection) -> None:
        """Serve one connection until it ends."""
        own: set[str] = set()
        channels: set[str] = set()
        try:
            async for message in connection:
                asked: dict[str, Any] = json.loads(message)
                channels |= {each["name"] if isinstance(each, dict) else each for each in asked["channels"]}
                own |= set(asked["product_ids"])
                listed = [{"name": name, "product_ids": sorted(own)} for name in sorted(channels)]
                await connection.send(json.dumps({"type": "subscriptions", "channels": listed}))
                self._listeners |= dict.fromkeys(own, connection)
        finally:
            for product in own:
                self._listeners.pop(product, None)

    async def pump(self) -> None:
        """Send for ever."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(_STEP)
            if not self._listeners:
                began, self._number = time.monotonic(), 0
                continue
            self._send(int((time.monotonic() - began) * self._rate) - self._number)

    def _send(self, count: int) -> None:
        products = list(self._listeners)
        pending: dict[ServerConnection, list[bytes]] = {}
        for number in range(self._number, self._number + count):
            product = products[number % len(products)]
            pending.setdefault(self._listeners[product], []).append(_frame(product))
        self._number += count
        for connection, frames in pending.items():
            connection.transport.write(b"".join(frames))


def _frame(product: str) -> bytes:
    """Return a ticker of now as an unmasked text frame of 126 to 65,535 bytes (RFC 6455, section 5.2)."""
    now = wall_clock()
    payload = _FRAME % (now, product.encode(), 14, now % 10_000, format_rfc3339(now).encode(), now)
    return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload


async def _serve(port: int, rate: float) -> None:
    source = Source(rate)
    async with serve(source.converse, "127.0.0.1", port, compression=None):
        await source.pump()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
