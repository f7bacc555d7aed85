"""How the simulator is started, and the market that this asks for."""

import math
from dataclasses import dataclass
from pathlib import Path

from producers.exchange.dialects import speak
from producers.exchange.errors import SimulatorError
from producers.exchange.replay import Replay
from producers.exchange.source import Market
from producers.exchange.synthetic import SyntheticMarket, listings


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeOptions:
    """Exactly one of `frames` (a recording to replay) and `synthetic` (a market's seed) says what is played.

    venue: the exchange whose language is spoken: coinbase, binance or kraken.
    speed: of a replay; 2 is twice as fast, 0 as fast as clients take the frames.
    loop: begin the replay again at its end, with new ids and present times.
    unfiltered: every subscribed client gets every frame.
    products: of a synthetic market, beside the standing ones; of a replay, silent ones that can be subscribed to.
    rate: trades a second and product of a synthetic market.
    port: 0 chooses a free one.
    sent: file to which all frames sent are written as a recording; `{session}` in its name becomes the session's
        number, which gives one file a session.
    subscribe_within: seconds until a client that has subscribed to nothing is disconnected.
        None: as the exchange does.
    outbox: frames that may wait for a slow client before it is disconnected.
    faults: plan of what goes wrong, YAML (producers.exchange.faults); fault_log: file for what did.
    truth: file for what the market did, whatever went wrong (producers.exchange.journal).
    rest_rate: REST requests a second, 0: any number; None: the exchange's own limit.
    max_age: seconds until a connection is ended, announced `notice` seconds before where the exchange does that; None:
        the exchange's own age (Binance: 24 h).
    start_after: seconds without another subscription before a recording begins: so several clients that come one after
        another, such as the shards of a producer, miss nothing of it.
    """

    venue: str = "coinbase"
    frames: Path | None = None
    synthetic: int | None = None
    speed: float = 1.0
    loop: bool = False
    unfiltered: bool = False
    products: tuple[str, ...] = ()
    rate: float = 2.0
    host: str = "127.0.0.1"
    port: int = 0
    sent: Path | None = None
    subscribe_within: float | None = None
    outbox: int = 10_000
    faults: Path | None = None
    fault_log: Path | None = None
    truth: Path | None = None
    rest_rate: float | None = None
    max_age: float | None = None
    notice: float = 10.0
    start_after: float = 0.0


def make_market(options: ExchangeOptions) -> Market:
    """Return the market to play; raises SimulatorError or FrameError for options or a recording that cannot be."""
    if (options.frames is None) == (options.synthetic is None):
        raise SimulatorError("choose one of a recording (--frames FILE) and a synthetic market (--synthetic SEED)")
    if not 0 <= options.speed < math.inf:
        raise SimulatorError(f"speed {options.speed} is not a number from 0 (as fast as clients take it)")
    if options.synthetic is not None:
        return _synthetic(options, options.synthetic)
    if options.loop and options.speed == 0:
        raise SimulatorError("a loop needs a speed above 0: without one its times would run ahead of the clock")
    if options.loop and options.venue != "coinbase":
        raise SimulatorError("only a recording of Coinbase's frames can be played in a loop")
    assert options.frames is not None  # noqa: S101 - one of the two is set, see above
    return Replay(
        options.frames,
        dialect=speak(options.venue),
        speed=options.speed,
        loop=options.loop,
        extra_products=options.products,
    )


def _synthetic(options: ExchangeOptions, seed: int) -> Market:
    if options.speed != 1 or options.loop:
        raise SimulatorError("speed and loop belong to a replay: a synthetic market has a rate and never ends")
    return SyntheticMarket(seed, listings(options.products, seed, options.venue), rate=options.rate)
