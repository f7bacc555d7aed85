"""A self-made market: endless, and the same for the same seed but for ids and times.

Trades arrive as a Poisson process whose intensity varies from second to second; each changes the quotes.
`write_recording` writes the same market to a file without waiting, with the irregularities that a consumer must
stand: silent seconds, ticks that share a microsecond, a ticker that arrives late, a product without a price.
"""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Final

from producers.exchange.board import Board
from producers.exchange.dialects import Dialect, speak
from producers.exchange.errors import SimulatorError
from producers.exchange.history import Past
from producers.exchange.instrument import MEAN_CASCADE, Instrument, Listing
from producers.exchange.market import FeedFrame, Moment, Recorded, Ticker
from producers.frames import FrameWriter
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, wall_clock

LISTINGS: Final = (
    Listing("BTC-USD", 64_000.0, 2, 4.0, 0.01),
    Listing("ETH-USD", 3_100.0, 2, 3.0, 0.15),
    Listing("SOL-USD", 150.0, 2, 2.0, 3.0),
    Listing("XRP-USD", 0.6, 4, 1.5, 900.0),
    Listing("DOGE-USD", 0.15, 5, 1.2, 3_000.0),
    Listing("ADA-USD", 0.45, 4, 1.0, 1_500.0),
    Listing("AVAX-USD", 35.0, 2, 0.8, 10.0),
    Listing("LINK-USD", 15.0, 3, 0.8, 30.0),
    Listing("LTC-USD", 80.0, 2, 0.6, 3.0),
    Listing("DOT-USD", 7.0, 3, 0.5, 50.0),
    Listing("BTC-EUR", 59_000.0, 2, 0.5, 0.008),
    Listing("ETH-EUR", 2_900.0, 2, 0.4, 0.1),
    Listing("BCH-USD", 450.0, 2, 0.4, 0.5),
    Listing("UNI-USD", 8.0, 3, 0.4, 40.0),
    Listing("ATOM-USD", 9.0, 3, 0.3, 30.0),
    Listing("XLM-USD", 0.11, 6, 0.3, 2_000.0),
    Listing("ETH-BTC", 0.048, 5, 0.3, 0.2),
    Listing("ALGO-USD", 0.18, 4, 0.2, 1_000.0),
    Listing("SKL-USD", 0.79, 4, 0.1, 200.0),
    Listing("MONA-USD", 0.4, 4, 0.0, 1.0),
)
"""Products that the market always has. The last one never trades: its ticker says price "0"."""
RECORDED: Final = ("BTC", "ETH", "SOL", "ADA", "DOGE")
"""Currencies whose dollar products a recording has for which none are named, beside the one that never trades."""

_DOLLARS: Final = tuple(f"{currency}-USD" for currency in RECORDED)
_PRODUCT: Final = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{1,20}")
_BACKGROUND: Final = 0.01  # trades of unnamed products, relative to named ones
_UNTRADED_EVERY: Final = 10 * MICROS_PER_SECOND
_LULL_EVERY, _LULL_AT = 8, 5  # of every eight seconds the sixth is silent
_LATE_BY, _LATEST = 3 * MICROS_PER_SECOND, 9 * MICROS_PER_SECOND


def listings(named: Sequence[str], seed: int, venue: str = "coinbase") -> tuple[Listing, ...]:
    """Return the market's products: the named ones, equally busy, and the standing ones in the background.

    None named: the standing ones alone. Binance's standing ones are quoted in USDT where the others' are in USD.
    Raises SimulatorError for a name unlike BTC-USD.
    """
    if venue == "binance":
        standing = tuple(replace(entry, product=entry.product.replace("-USD", "-USDT")) for entry in LISTINGS)
    else:
        standing = LISTINGS
    if not named:
        return standing
    chosen = [listing(product, seed) for product in dict.fromkeys(named)]
    taken = {entry.product for entry in chosen}
    return (*chosen, *(_reweighted(entry, _BACKGROUND) for entry in standing if entry.product not in taken))


def listing(product: str, seed: int) -> Listing:
    """Return a named product of weight 1; price and size of one that is not listed are made up from its name."""
    if not _PRODUCT.fullmatch(product):
        raise SimulatorError(f"{product!r} is no product: name products as BASE-QUOTE in capitals, such as BTC-USD")
    for entry in LISTINGS:
        if product in (entry.product, entry.product.replace("-USD", "-USDT")):
            return replace(_reweighted(entry, 1.0), product=product)
    dice = random.Random(f"{seed}:{product}")  # noqa: S311 - a market, no secret
    price = 10 ** dice.uniform(-1.5, 3.5)
    decimals = min(8, max(2, 4 - math.floor(math.log10(price))))
    return Listing(product, round(price, decimals), decimals, 1.0, 500.0 / price)


class SyntheticMarket:
    """An endless market of listings; `rate` is trades a second of a product with weight 1."""

    def __init__(self, seed: int, entries: Sequence[Listing], *, rate: float, lulls: bool = False) -> None:
        """Take a finite rate above 0; `lulls`: one second in eight is silent. Raises SimulatorError."""
        if not 0 < rate < math.inf:
            raise SimulatorError(f"rate {rate} is not a number of trades a second above 0")
        self._seed = seed
        self._listings = tuple(entries)
        self._rate = rate
        self._lulls = lulls
        self.products: Sequence[str] = tuple(entry.product for entry in entries)

    def __str__(self) -> str:
        return f"synthetic market {self._seed}, {len(self.products)} products"

    def time(self, at: int, anchor: int) -> int:
        """Return the wall time of a market time."""
        return anchor + at

    def moments(self, started: int) -> Iterator[Moment]:
        """Yield one moment for each order that trades, and every ten seconds the tickers of what never trades."""
        instruments = {entry.product: Instrument(entry, self._seed, started) for entry in self._listings}
        silent = [instruments[entry.product] for entry in self._listings if not entry.weight]
        reminder = 0
        for at, product in self._orders():
            while reminder <= at:
                if silent:
                    yield Moment(reminder, partial(_remind, silent, reminder))
                reminder += _UNTRADED_EVERY
            yield Moment(at, partial(instruments[product].trade, at))

    def pasts(self, started: int) -> Mapping[str, Past]:
        """Return the past of each product that trades."""
        busy = [entry for entry in self._listings if entry.weight]
        return {entry.product: Past(entry, self._seed, started, self._rate * entry.weight) for entry in busy}

    def _orders(self) -> Iterator[tuple[int, str]]:
        """Yield market time and product of each incoming order."""
        dice = random.Random(self._seed)  # noqa: S311 - a market, no secret
        busy = [entry for entry in self._listings if entry.weight]
        names = [entry.product for entry in busy]
        weights = list(accumulate(entry.weight for entry in busy))
        intensity = self._rate * weights[-1] / MEAN_CASCADE / MICROS_PER_SECOND
        second, activity, at = -1, 1.0, 0
        while True:
            if at // MICROS_PER_SECOND != second:
                second = at // MICROS_PER_SECOND
                activity = dice.lognormvariate(-0.08, 0.4)
            at += 1 + int(dice.expovariate(intensity * activity))
            if self._lulls:
                at = _after_lull(at)
            yield at, dice.choices(names, cum_weights=weights)[0]


def write_recording(
    path: Path,
    *,
    seed: int,
    seconds: float,
    products: Sequence[str] = (),
    rate: float = 2.0,
    start: int | None = None,
    clock: Clock = wall_clock,
    venue: str = "coinbase",
) -> int:
    """Write the first seconds of a market as a recording of an exchange's frames and return how many it has.

    Ids and times count from `start` (microseconds since 1970); None: so long ago that the recording ends now. Raises
    SimulatorError for a wrong product or rate, FrameError if the file cannot be written.
    """
    duration = round(seconds * MICROS_PER_SECOND)
    begin = clock() - duration if start is None else start
    recorded = [entry.product for entry in listings((), seed, venue) if entry.product.startswith(_DOLLARS)]
    named = [listing(product, seed) for product in dict.fromkeys(products or recorded)]
    untraded = [entry for entry in listings((), seed, venue) if not entry.weight and entry.product not in products]
    market = SyntheticMarket(seed, [*named, *untraded], rate=rate, lulls=True)
    dialect = speak(venue)
    dice = random.Random(f"{seed}:receipt")  # noqa: S311 - a market, no secret
    count, received = 0, begin
    with FrameWriter(path) as file:
        if (first := dialect.prologue(market.products)) is not None:
            file.write(begin, first)
            count += 1
        for at, frame in _with_late_ticker(_published(market, dialect, begin, duration), duration, dialect):
            received = max(received, begin + at + dice.randint(2_000, 25_000))
            file.write(received, frame.text)
            count += 1
    return count


def _published(market: SyntheticMarket, dialect: Dialect, begin: int, duration: int) -> Iterator[tuple[int, FeedFrame]]:
    """Yield all frames up to a market time, in order, with each second's heartbeats."""
    now = [begin]
    board = Board(market.products, lambda: now[0])
    client = dialect.session(board, "/")
    for message in dialect.heartbeat_requests(market.products):
        client.receive(message, begin)
    beat = MICROS_PER_SECOND
    for moment in market.moments(begin):
        while beat <= min(moment.at, duration):
            now[0] = begin + beat
            yield from ((beat, frame) for frame in (*dialect.due(now[0]), *client.beat(now[0])))
            beat += MICROS_PER_SECOND
        if moment.at > duration:
            return
        events = moment.events(begin)
        board.happen(events)
        frames = [frame for event in events if not isinstance(event, Recorded) for frame in dialect.render(event)]
        board.publish(frames)
        yield from ((moment.at, frame) for frame in frames)


def _with_late_ticker(
    published: Iterator[tuple[int, FeedFrame]], duration: int, dialect: Dialect
) -> Iterator[tuple[int, FeedFrame]]:
    """Deliver one ticker from the middle late, after a newer one of its product if one comes within nine seconds."""
    due, latest = min(_LATE_BY, duration // 4), min(_LATEST, duration // 2)
    held: FeedFrame | None = None
    held_at, overtaken, released = 0, False, False
    for at, frame in published:
        if held is None and at >= 2 * duration // 5 and _is_tick(frame, dialect):
            held, held_at = frame, at
            continue
        if held is not None and not released and at >= held_at + (due if overtaken else latest):
            yield at, held
            released = True
        yield at, frame
        overtaken = overtaken or (
            held is not None and at > held_at and _is_tick(frame, dialect) and frame.product == held.product
        )
    if held is not None and not released:
        yield duration, held


def _is_tick(frame: FeedFrame, dialect: Dialect) -> bool:
    return frame.channel in dialect.kinds["ticks"] and frame.trade_id is not None


def _remind(silent: Sequence[Instrument], at: int, anchor: int) -> list[Ticker]:
    return [instrument.untraded_ticker(anchor + at) for instrument in silent]


def _after_lull(at: int) -> int:
    second, rest = divmod(at, MICROS_PER_SECOND)
    return at if second % _LULL_EVERY != _LULL_AT else (second + 1) * MICROS_PER_SECOND + rest


def _reweighted(entry: Listing, weight: float) -> Listing:
    return replace(entry, weight=weight if entry.weight else 0.0)
