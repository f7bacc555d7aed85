"""`pulsestream backtest` over a day of bars of 1 s of many products, as one starts it: the process's start included.

Two markets: every second has a trade (86,400 bars a product), or about as many as the recorded day has (5,000).

- `{dense,sparse}_prices_s`: rules over single prices; `…_windows_s`: change, volume, volatility and z-score besides
- `…_cpu_s`: processor time of the same, of all processes
- `read_s`: of one process, to read and check the dense bars alone
"""

import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Final

import numpy as np

from benchmarks.table import show
from pulsestream.commands.sources import Sources
from streams.engine.reading import Span

SECONDS: Final = 86_400
SPARSE: Final = 5_000
PRODUCTS: Final = 100
RULES: Final = {
    "prices": """
  - {name: low, product: "*", condition: {type: price, below: 590, clear: 595}, for: 60s}
  - {name: high, product: "*", condition: {type: price, above: 610}, for: 60s, cooldown: 5m}
  - {name: cross, product: "*", condition: {type: price, crosses: 600}, cooldown: 10m}
""",
    "windows": """
  - {name: drop, product: "*", condition: {type: change, window: 5m, below_pct: -0.5}, for: 30s}
  - {name: surge, product: "*", condition: {type: volume, window: 1m, baseline: 15m, above_ratio: 6}}
  - {name: wild, product: "*", condition: {type: volatility, window: 5m, above: 0.8}, for: 10s}
  - {name: odd, product: "*", condition: {type: zscore, window: 15m, above: 8}}
""",
}


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Measure, print a table, and return the figures."""
    products = 4 if quick else PRODUCTS
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="pulsestream-bars-") as name:
        folder = Path(name)
        for market, bars in (("dense", SECONDS), ("sparse", SPARSE)):
            write(folder / market, bars, products)
            for rules in ("prices", "windows"):
                seconds, cpu = _timed(folder, market, rules)
                figures |= {f"{market}_{rules}_s": seconds, f"{market}_{rules}_cpu_s": cpu}
        figures["read_s"] = _read(folder / "dense")
    show(
        f"a day of bars of 1 s of {products} products",
        ("figure", "seconds"),
        [(name, f"{value:.2f}") for name, value in figures.items()],
    )
    return figures


def write(folder: Path, bars: int, products: int) -> None:
    """Write files of so many bars: a random walk with steps of a hundredth of a per cent."""
    folder.mkdir()
    for number, letters in enumerate(list(product(ascii_lowercase, repeat=2))[:products]):
        random = np.random.default_rng(number)
        ms = np.sort(random.choice(SECONDS, bars, replace=False)) * 1_000
        opened = np.round(600 * np.exp(np.cumsum(random.normal(0, 1e-4, bars))), 2)
        close = np.round(opened * np.exp(random.normal(0, 5e-5, bars)), 2)
        high = np.maximum(opened, close) + np.round(random.random(bars) * 0.1, 2)
        low = np.minimum(opened, close) - np.round(random.random(bars) * 0.1, 2)
        columns = (ms, opened, high, low, close, random.exponential(1, bars))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        text = "".join(f"{t},{o:.2f},{h:.2f},{lo:.2f},{c:.2f},{v:.8f}\n" for t, o, h, lo, c, v in rows)
        (folder / f"{''.join(letters)}usd-second-20161007-trade.csv").write_text(text)


def _timed(folder: Path, market: str, rules: str) -> tuple[float, float]:
    """Return the wall time and the processor time of one backtest."""
    file = folder / f"{rules}.yaml"
    file.write_text("rules:" + RULES["prices"] + (RULES["windows"] if rules == "windows" else ""))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "pulsestream.cli", "backtest", str(file), str(folder / market)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _read(folder: Path) -> float:
    began = time.perf_counter()
    for _ in Sources.open([str(folder)], Span(), str).slices(None):
        pass
    return time.perf_counter() - began
