"""Where the records of all feeds go: to the publisher, trades by way of the trade ledger, which knows the doubles."""

from collections.abc import Collection

from producers.completeness import TradeLedger
from producers.publisher import Publisher
from producers.venues.protocol import Heartbeat
from schemas.records import Tick, Trade


class Intake:
    """Takes what the feeds deliver."""

    def __init__(self, publisher: Publisher, trades: TradeLedger) -> None:
        self._publisher = publisher
        self._trades = trades

    async def record(self, record: Tick | Trade) -> None:
        """Publish a record; returns when there is room for it, or when its loss is written down."""
        if isinstance(record, Trade) and not self._trades.trade(record):
            return
        await self._publisher.publish(record)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Look whether the newest trade that the exchange knows has arrived."""
        if heartbeat.product is not None:
            self._trades.heartbeat(heartbeat.product, heartbeat.last_trade_id)

    def interrupted(self, products: Collection[str], cause: str) -> None:
        """Name the cause of trades that will turn out to be missing."""
        self._trades.interrupted(products, cause)
