"""One product of the self-made market: its price, quotes, trades and 24-hour figures. Pure and deterministic.

The log price is a random walk whose variance clusters (GARCH(1,1), Bollerslev 1986, scaled by the time between two
trades) and is drawn weakly to where it began, so that an endless market stays in range. Prices are whole ticks and
sizes whole units of 1e-8, so that all published figures agree with one another exactly.
"""

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import Final

from producers.exchange.market import UNIT_DIGITS, Print, Ticker, Trade
from pulsestream.core.clock import MICROS_PER_SECOND

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


@dataclass(slots=True)
class _Hour:
    """Open, high, low (ticks), volume (units), ticks times units, and number of trades of one hour."""

    open: int
    high: int
    low: int
    volume: int = 0
    quote: int = 0
    trades: int = 0


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

    def trade(self, at: int, anchor: int = 0) -> list[Print]:
        """Match one incoming order: one trade, or several at one time when it sweeps price levels.

        The times of what is returned count from `anchor`.
        """
        self._move(at)
        self._turn_hour(at)
        taker = self._random.choice(("buy", "sell"))
        order = self._random.getrandbits(60)
        bid, ask = self._quotes()
        self._sequence += self._random.randint(1, 40)
        prints = []
        for level in range(self._cascade()):
            price = ask + level if taker == "buy" else max(1, bid - level)
            quotes = (price - (ask - bid), price) if taker == "buy" else (price, price + (ask - bid))
            prints.append(self._print(anchor + at, taker, order, price, (max(1, quotes[0]), quotes[1])))
            self._sequence += 2
        self._traded = at
        return prints

    def untraded_ticker(self, time: int) -> Ticker:
        """Return the ticker of a product without any trade."""
        self._sequence += self._random.randint(1, 3)
        return Ticker(self._listing.product, self._sequence, time)

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

    def _print(self, time: int, taker: str, order: int, price: int, quotes: tuple[int, int]) -> Print:
        size = self._size(self._listing.size)
        self._trade_id += 1
        hour = self._hours[-1]
        hour.high, hour.low = max(hour.high, price), min(hour.low, price)
        hour.volume += size
        hour.quote += price * size
        hour.trades += 1
        trade = Trade(
            self._listing.product, self._trade_id, self._sequence, time, price, self._listing.decimals, size, taker,
            order,
        )  # fmt: skip
        return Print(trade, self._ticker(trade, quotes))

    def _ticker(self, trade: Trade, quotes: tuple[int, int]) -> Ticker:
        high, low, volume, quote, trades = 0, trade.price, 0, 0, 0
        for hour in self._hours:
            high = max(high, hour.high)
            low = min(low, hour.low)
            volume += hour.volume
            quote += hour.quote
            trades += hour.trades
        return Ticker(
            product=trade.product,
            sequence=trade.sequence,
            time=trade.time,
            trade=trade,
            decimals=trade.decimals,
            bid=quotes[0],
            bid_size=self._size(4 * self._listing.size),
            ask=quotes[1],
            ask_size=self._size(4 * self._listing.size),
            open=self._hours[0].open,
            high=high,
            low=low,
            volume=volume,
            quote_volume=quote,
            trades=trades,
            volume_30d=volume + self._month,
        )

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
            first, last = self._ticks(log_price - step), self._ticks(log_price)
            volume = sum(self._size(self._listing.size) for _ in range(20)) * round(180 * self._listing.weight + 1)
            quote = volume * (first + last) // 2
            hours.appendleft(_Hour(first, max(first, last), min(first, last), volume, quote, 3600))
            log_price -= step
        return hours

    def _ticks(self, log_price: float) -> int:
        return max(2, round(math.exp(log_price) * 10.0**self._listing.decimals))

    def _size(self, median: float) -> int:
        return max(1, round(median * self._random.lognormvariate(0.0, 1.1) * 10.0**UNIT_DIGITS))
