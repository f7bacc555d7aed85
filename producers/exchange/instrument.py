"""One product of the self-made market: its price, quotes, trades and 24-hour figures. Pure and deterministic.

The log price is a random walk whose variance clusters (GARCH(1,1), Bollerslev 1986, scaled by the time between two
trades) and is drawn weakly to where it began, so that an endless market stays in range. Prices are whole ticks and
sizes whole units of 1e-8, so that all published figures agree with one another exactly.
"""

import math
import random
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND

UNIT_DIGITS: Final = 8
"""Decimals of a size."""
_HOUR: Final = 3600 * MICROS_PER_SECOND
_VARIANCE: Final = 1.2e-4**2  # of the log price in a second: about 3.5 % a day
_SHOCK, _PERSISTENCE = 0.08, 0.90
_PULL: Final = math.log(2) / 86_400  # half of the way back in a day
_LONGEST_STEP: Final = 60.0
_SWEEP, _DEEPEST = 0.13, 5
MEAN_CASCADE: Final = sum(_SWEEP**level for level in range(_DEEPEST))
"""Trades that one order makes on average."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A product: its first price, decimals of the price, relative frequency of trades (0: none ever), median size."""

    product: str
    price: float
    decimals: int
    weight: float
    size: float


@dataclass(frozen=True, slots=True)
class Print:
    """One trade and the ticker that follows it, as the exchange writes them, but without their time.

    `side` is the taker's; the match frame carries the maker's.
    """

    match: Mapping[str, str | int]
    ticker: Mapping[str, str | int]


@dataclass(slots=True)
class _Hour:
    """Open, high, low (ticks) and volume (units) of one hour."""

    open: int
    high: int
    low: int
    volume: int = 0

    def trade(self, price: int, size: int) -> None:
        self.high = max(self.high, price)
        self.low = min(self.low, price)
        self.volume += size


class Instrument:
    """A product's market. Times are market times in microseconds, never decreasing."""

    def __init__(self, listing: Listing, seed: int, started: int) -> None:
        """Begin with 24 hours of made-up history; sequences and trade ids count from `started`."""
        self._listing = listing
        self._random = random.Random(f"{seed}/{listing.product}")  # noqa: S311 - a market, no secret
        self._begin = math.log(listing.price)
        self._log_price = self._begin
        self._variance = _VARIANCE
        self._traded = 0
        self._sequence = started
        self._trade_id = started
        self._hour = 0
        self._hours = self._history()
        self._month = round(29 * sum(hour.volume for hour in self._hours) * self._random.uniform(0.8, 1.25))

    def trade(self, at: int) -> list[Print]:
        """Match one incoming order: one trade, or several at one time when it sweeps price levels."""
        self._move(at)
        self._turn_hour(at)
        taker = self._random.choice(("buy", "sell"))
        order = self._uuid()
        bid, ask = self._quotes()
        self._sequence += self._random.randint(1, 40)
        prints = []
        for level in range(self._cascade()):
            price = ask + level if taker == "buy" else max(1, bid - level)
            quotes = (price - (ask - bid), price) if taker == "buy" else (price, price + (ask - bid))
            prints.append(self._print(taker, order, price, (max(1, quotes[0]), quotes[1])))
            self._sequence += 2
        self._traded = at
        return prints

    def untraded_ticker(self) -> Mapping[str, str | int]:
        """Return the ticker of a product without any trade: price "0", and neither time nor trade."""
        self._sequence += self._random.randint(1, 3)
        zeros = dict.fromkeys(
            ("price", "open_24h", "volume_24h", "low_24h", "high_24h", "volume_30d", "best_bid", "best_ask"), "0"
        )
        return {"type": "ticker", "sequence": self._sequence, "product_id": self._listing.product, **zeros}

    def _move(self, at: int) -> None:
        seconds = min(max((at - self._traded) / MICROS_PER_SECOND, 0.001), _LONGEST_STEP)
        step = self._random.gauss(0.0, math.sqrt(self._variance * seconds))
        shocked = _VARIANCE * (1 - _SHOCK - _PERSISTENCE) + _SHOCK * step**2 / seconds + _PERSISTENCE * self._variance
        self._variance = min(shocked, 100 * _VARIANCE)
        self._log_price += step - _PULL * seconds * (self._log_price - self._begin)

    def _quotes(self) -> tuple[int, int]:
        """Return best bid and ask in ticks, about one basis point apart."""
        middle = self._ticks(self._log_price)
        spread = 1 + int(self._random.expovariate(1.0) * middle * 1e-4)
        bid = max(1, middle - spread // 2)
        return bid, bid + spread

    def _cascade(self) -> int:
        levels = 1
        while levels < _DEEPEST and self._random.random() < _SWEEP:
            levels += 1
        return levels

    def _print(self, taker: str, order: str, price: int, quotes: tuple[int, int]) -> Print:
        size = self._size(self._listing.size)
        self._trade_id += 1
        self._hours[-1].trade(price, size)
        return Print(self._match(taker, order, price, size), self._ticker(taker, price, size, quotes))

    def _match(self, taker: str, order: str, price: int, size: int) -> dict[str, str | int]:
        return {
            "type": "match",
            "trade_id": self._trade_id,
            "maker_order_id": self._uuid(),
            "taker_order_id": order,
            "side": "sell" if taker == "buy" else "buy",
            "size": _decimal(size, UNIT_DIGITS),
            "price": self._text(price),
            "product_id": self._listing.product,
            "sequence": self._sequence,
        }

    def _ticker(self, taker: str, price: int, size: int, quotes: tuple[int, int]) -> dict[str, str | int]:
        volume = sum(hour.volume for hour in self._hours)
        return {
            "type": "ticker",
            "sequence": self._sequence,
            "product_id": self._listing.product,
            "price": self._text(price),
            "open_24h": self._text(self._hours[0].open),
            "volume_24h": _decimal(volume, UNIT_DIGITS),
            "low_24h": self._text(min(hour.low for hour in self._hours)),
            "high_24h": self._text(max(hour.high for hour in self._hours)),
            "volume_30d": _decimal(volume + self._month, UNIT_DIGITS),
            "best_bid": self._text(quotes[0]),
            "best_bid_size": _decimal(self._size(4 * self._listing.size), UNIT_DIGITS),
            "best_ask": self._text(quotes[1]),
            "best_ask_size": _decimal(self._size(4 * self._listing.size), UNIT_DIGITS),
            "side": taker,
            "time": "",
            "trade_id": self._trade_id,
            "last_size": _decimal(size, UNIT_DIGITS),
        }

    def _turn_hour(self, at: int) -> None:
        price = self._ticks(self._log_price)
        for _ in range(min(at // _HOUR - self._hour, 24)):
            self._hours.append(_Hour(price, price, price))
        self._hour = at // _HOUR

    def _history(self) -> deque[_Hour]:
        """Return 24 hours that end at the first price, the last one empty."""
        hours: deque[_Hour] = deque(maxlen=24)
        log_price = self._begin
        for _ in range(24):
            step = self._random.gauss(0.0, math.sqrt(_VARIANCE * 3600))
            ends = sorted((self._ticks(log_price), self._ticks(log_price - step)))
            volume = sum(self._size(self._listing.size) for _ in range(20)) * round(180 * self._listing.weight + 1)
            hours.appendleft(_Hour(self._ticks(log_price - step), ends[1], ends[0], volume))
            log_price -= step
        return hours

    def _ticks(self, log_price: float) -> int:
        return max(2, round(math.exp(log_price) * 10.0**self._listing.decimals))

    def _size(self, median: float) -> int:
        return max(1, round(median * self._random.lognormvariate(0.0, 1.1) * 10.0**UNIT_DIGITS))

    def _text(self, ticks: int) -> str:
        return _decimal(ticks, self._listing.decimals)

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))


def _decimal(number: int, digits: int) -> str:
    whole, fraction = divmod(number, 10**digits)
    return f"{whole}.{fraction:0{digits}d}"
