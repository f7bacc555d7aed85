"""Where the local stack's ticks come from: the live exchange, the simulator, or a recording."""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from producers.frames import read_frames
from producers.source import SIMULATOR, exchange_of, websocket_url
from pulsestream.core.errors import SettingsError
from pulsestream.core.settings import Settings

PRODUCTS: Final = ("BTC-USD", "ETH-USD", "SOL-USD")
_REPLAY: Final = "replay:"
_LOOKED_AT: Final = 20_000
"""Frames of a recording that are read to see which products it has."""
_SEED: Final = "7"
_START_AFTER: Final = "2"
"""Seconds in which the connections of all shards are there."""


class _Head(msgspec.Struct):
    """What a frame of the exchange says of itself; a product without trades has tickers without a time."""

    type: str = ""
    product_id: str = ""
    time: str = ""


_heads: Final = msgspec.json.Decoder(_Head)


@dataclass(frozen=True, slots=True)
class Feed:
    """A chosen source. `arguments` start a local exchange (its port is added), none for one that runs elsewhere.

    `products` are those that the demo tenant is subscribed to.
    """

    exchange: str
    arguments: tuple[str, ...]
    said: str
    products: tuple[str, ...] = PRODUCTS

    @property
    def is_replay(self) -> bool:
        """Whether the ticks carry times of the past."""
        return "--frames" in self.arguments


def choose(settings: Settings, reachable: Callable[[str], bool]) -> Feed:
    """Return the feed that the setting asks for; raises SettingsError.

    `auto` is the live exchange if it is `reachable`, and otherwise the simulator.
    """
    wanted = settings.feed
    if wanted == "live":
        return _live(settings)
    if wanted == SIMULATOR:
        return _simulator("asked for by PULSESTREAM_FEED")
    if wanted.startswith(_REPLAY):
        return _replay(settings, Path(wanted.removeprefix(_REPLAY)))
    if wanted != "auto":
        raise SettingsError(f"PULSESTREAM_FEED={wanted!r} is wrong: use auto, live, simulator or replay:FILE")
    if reachable(websocket_url(settings, exchange_of(settings))):
        return _live(settings)
    return _simulator("the live exchange cannot be reached")


def command(feed: Feed, port: int) -> list[str]:
    """Return the command line of the local exchange."""
    return [sys.executable, "-m", "pulsestream.cli", "exchange", *feed.arguments, "--port", str(port)]


def _live(settings: Settings) -> Feed:
    return Feed(settings.exchange, (), f"live from {websocket_url(settings, exchange_of(settings))}")


def _simulator(why: str) -> Feed:
    return Feed(SIMULATOR, ("--synthetic", _SEED), f"simulated market, not real prices ({why})")


def _replay(settings: Settings, recording: Path) -> Feed:
    if not recording.is_file():
        raise SettingsError(f"PULSESTREAM_FEED names the recording {recording}, which is not a file")
    products = _products(recording)
    if not products:
        raise SettingsError(f"the recording {recording} has no ticker frame among its first {_LOOKED_AT:,}")
    arguments = ("--frames", str(recording.absolute()), "--start-after", _START_AFTER)
    return Feed(settings.exchange, arguments, f"replayed from {recording}", products)


def _products(recording: Path) -> tuple[str, ...]:
    """Return as many products as there are in PRODUCTS: those where the recording has them, else its busiest."""
    heads = (_heads.decode(frame.text) for frame in islice(read_frames(recording), _LOOKED_AT))
    ticks = Counter(head.product_id for head in heads if head.type == "ticker" and head.time)
    wanted = [product for product in PRODUCTS if product in ticks]
    busiest = [product for product, _ in ticks.most_common() if product not in wanted]
    return tuple([*wanted, *busiest][: len(PRODUCTS)])
