"""What the exchange knows at this moment: products, their last quotes, history, and who subscribed to what."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from producers.exchange.history import History
from producers.exchange.market import Event, FeedFrame, Print, Recorded, Ticker


class Board:
    """The state that all sessions and REST answers of one exchange share."""

    def __init__(self, products: Sequence[str], now: Callable[[], int], *, live: bool = True) -> None:
        """Take the products, the exchange's clock (micros since 1970), and whether a market is made, not replayed."""
        self.live = live
        self.products = frozenset(products)
        self.listed = tuple(products)
        self.now = now
        self.history = History(products)
        self.tickers: dict[str, Ticker] = {}
        self.subscribers: Counter[tuple[str, str]] = Counter()
        """Sessions by channel and product."""
        self._last: dict[str, tuple[int, int]] = {}

    def happen(self, events: Iterable[Event]) -> None:
        """Take what the market did."""
        for event in events:
            match event:
                case Print(trade, ticker):
                    self.history.publish((trade,))
                    self.tickers[trade.product] = ticker
                case Recorded(_, trades):
                    self.history.publish(trades)

    def publish(self, frames: Iterable[FeedFrame]) -> None:
        """Take frames that were published."""
        for frame in frames:
            if frame.product is not None:
                sequence, trade_id = self._last.get(frame.product, (0, 0))
                self._last[frame.product] = max(sequence, frame.sequence or 0), max(trade_id, frame.trade_id or 0)

    def last_ids(self, product: str) -> tuple[int, int]:
        """Return the highest sequence and trade id published of a product; both 0 before its first frame."""
        return self._last.get(product, (0, 0))
