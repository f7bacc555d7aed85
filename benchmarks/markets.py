"""Prices and volumes to judge forecasts and anomalies by: bars recorded at Coinbase, and markets that are made up.

The recorded bars are the files `coinbase/*-trade.csv` of the data folder: milliseconds since midnight, open, high, low,
close, volume; no row without a trade.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streams.engine.inputs import Floats, Ints

DAY = 86_400
MINUTE = 60


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Bars of one product, ascending: the second at which each begins, its last price and its volume."""

    second: Ints
    close: Floats
    volume: Floats


def data_folder() -> Path:
    """Return the folder of recorded data; ends the program with what is missing."""
    shared = os.environ.get("PULSESTREAM_SHARED")
    if not shared:
        raise SystemExit("PULSESTREAM_SHARED is not set: let it name the folder that holds data/coinbase")
    folder = Path(shared) / "data" / "coinbase"
    if not folder.is_dir():
        raise SystemExit(f"recorded bars are not there: {folder} (PULSESTREAM_SHARED={shared})")
    return folder


def recorded(folder: Path, product: str, period: str, days: Sequence[str]) -> Bars:
    """Return the bars of days that follow each other, such as ("20170903", "20170904"); seconds from the first day."""
    parts = []
    for number, day in enumerate(days):
        rows = np.loadtxt(folder / f"{product}-{period}-{day}-trade.csv", delimiter=",", usecols=(0, 4, 5), ndmin=2)
        parts.append(rows + np.array([number * DAY * 1_000, 0, 0]))
    table = np.concatenate(parts)
    return Bars((table[:, 0] // 1_000).astype(np.int64), table[:, 1].copy(), table[:, 2].copy())


def by_minute(bars: Bars) -> Bars:
    """Return bars of 1 minute made of shorter ones."""
    minute = bars.second // MINUTE * MINUTE
    starts = np.flatnonzero(np.diff(minute, prepend=-1))
    ends = np.append(starts[1:], len(minute)) - 1
    return Bars(minute[starts], bars.close[ends], np.add.reduceat(bars.volume, starts))


def filled(bars: Bars, step: int, end: int) -> tuple[Ints, Floats]:
    """Return each multiple of `step` seconds up to `end`, from the first bar on, and the last price before it."""
    times = np.arange((int(bars.second[0]) // step + 1) * step, end + 1, step)
    return times, bars.close[bars.second.searchsorted(times) - 1]


def constant_volatility(days: int, seed: int, volatility: float = 0.8) -> Bars:
    """Return a made-up market: a random walk with normal log returns of one annualised volatility, by the minute."""
    moves = np.random.default_rng(seed).standard_normal(days * DAY // MINUTE)
    return _priced(moves * volatility / np.sqrt(365 * DAY / MINUTE))


def garch(days: int, seed: int, volatility: float = 0.8) -> Bars:
    """Return a made-up market: GARCH(1,1) by the minute (0.06, 0.935), shocks of Student's t with 5 degrees."""
    shocks = np.random.default_rng(seed).standard_t(5, days * DAY // MINUTE) * np.sqrt(3 / 5)
    mean = volatility**2 / (365 * DAY / MINUTE)
    moves, variance = np.empty_like(shocks), mean
    for number, shock in enumerate(shocks):
        moves[number] = np.sqrt(variance) * shock
        variance = 0.005 * mean + 0.06 * moves[number] ** 2 + 0.935 * variance
    return _priced(moves)


def _priced(moves: Floats) -> Bars:
    return Bars(np.arange(len(moves)) * MINUTE, 1_000 * np.exp(np.cumsum(moves)), np.ones(len(moves)))
