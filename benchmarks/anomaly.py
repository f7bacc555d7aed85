"""Anomalies: how many of the jumps and volume spikes put into recorded days are found, at how many false alarms.

Compared: the z-score by median and MAD, the same with the floor of `streams.engine.anomaly` (what the alert condition
uses), and by an EWMA of mean and variance; of volumes the condition's ratio to the mean of the hour before as well.

- False alarms: alarms on the recorded day as it is, of which those within 30 minutes of one (`cooldown: 30m`) are part.
  That a recorded move may be a real anomaly is not considered: it counts as false.
- A jump of K: the return of one bar, drawn by a fixed seed, is K x the local robust volatility larger or smaller, which
  is 1.4826 x the median size of the returns other than 0 in the hour before it. A spike of K: K x the mean volume of a
  bar of the hour before comes on top. Each is put in alone. Found: the bar's score is above the threshold.

Figures: `returns_…` by the minute over 1 hour (5 product-days), `seconds_…` by the second over 15 minutes (one),
`volume_…` by the minute over 1 hour; `…_recall` the least of the product-days, `…_false_alarms` the most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from benchmarks import markets
from benchmarks.markets import DAY, Bars
from benchmarks.table import show
from streams.engine.anomaly import MAD_SCALE, median, score
from streams.engine.inputs import Floats, Ints

HOUR: Final = 3_600
COOLDOWN: Final = 1_800
MAX_FALSE: Final = 3
RECALL: Final = 0.95
ABOVE: Final = 20.0
"""The threshold of the z-score that docs/anomalies.md recommends."""
ABOVE_RATIO: Final = 35.0
"""The same of volumes."""
JUMP: Final = 30
JUMP_OF_A_SECOND: Final = 50
SPIKE: Final = 40
"""K that recall is given for."""
SIZES: Final = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200)
"""K that are tried for the least one with RECALL."""
THRESHOLDS: Final = np.geomspace(3, 3_000, 140)
DECAY: Final = 0.99
_MIN_MOVES: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Values of the bars of one product and day; the day begins at index `start`, before it lies what windows need."""

    name: str
    values: Floats
    start: int
    step: int
    window: int
    """Bars of the window."""
    chosen_on: bool

    @property
    def hour(self) -> int:
        """Bars of an hour."""
        return HOUR // self.step


class Detector(Protocol):
    """A way to score a bar by what lies before it."""

    def of(self, case: Case, indices: Ints, more: Floats) -> Floats:
        """Return the score of each bar, if its value alone were `more` larger; NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A detector at its recommended threshold, and the K that its recall is given for."""

    name: str
    cases: Sequence[Case]
    detector: Detector
    threshold: float
    size: int


@dataclass(frozen=True, slots=True)
class Windowed:
    """A score of the newest value of a window."""

    rate: Callable[[Floats], float | None]

    def of(self, case: Case, indices: Ints, more: Floats) -> Floats:
        """Return the scores."""
        return np.array([self._one(case, index, by) for index, by in zip(indices.tolist(), more.tolist(), strict=True)])

    def _one(self, case: Case, index: int, more: float) -> float:
        window = case.values[max(index + 1 - case.window, 0) : index + 1].copy()
        window[-1] += more
        found = self.rate(window) if len(window) == case.window else None
        return np.nan if found is None else found


@dataclass(frozen=True, slots=True)
class Exponential:
    """The z-score by an EWMA of mean and variance over the values before."""

    decay: float
    absolute: bool = True

    def of(self, case: Case, indices: Ints, more: Floats) -> Floats:
        """Return the scores."""
        means, deviations = self._before(case)
        found = (case.values[indices] + more - means[indices]) / deviations[indices]
        return np.abs(found) if self.absolute else found

    def _before(self, case: Case) -> tuple[Floats, Floats]:
        mean = variance = 0.0
        held = np.full((2, len(case.values)), np.nan)
        for index, value in enumerate(case.values.tolist()):
            if index >= case.window and variance > 0:
                held[:, index] = mean, np.sqrt(variance)
            share = max(1 - self.decay, 1 / (index + 1))
            distance = value - mean
            mean += share * distance
            variance = (1 - share) * (variance + share * distance**2)
        return held[0], held[1]


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Compare, print tables, and return the figures."""
    folder = markets.data_folder()
    drawn = 200 if quick else 600
    minutes, volumes = _by_minute(folder)
    seconds = [_by_second(folder)]
    returns: dict[str, Detector] = {
        "median/MAD": Windowed(_plain),
        "median/MAD with floor": Windowed(lambda window: score(window, float(window[-1]))),
        f"EWMA, decay {DECAY}": Exponential(DECAY),
    }
    long_ewma: dict[str, Detector] = {f"EWMA, decay {1 - 1 / 900:.4f}": Exponential(1 - 1 / 900)}
    spikes: dict[str, Detector] = {
        "ratio to the mean": Windowed(_ratio),
        "ratio to the median": Windowed(_ratio_to_median),
        "median/MAD": Windowed(_plain),
        f"EWMA, decay {DECAY}": Exponential(DECAY, absolute=False),
    }
    _compare("returns by the minute, window 1 h", minutes, returns, drawn)
    _compare("returns by the second, window 15 m", seconds, {**dict([*returns.items()][:2]), **long_ewma}, drawn)
    _compare("volumes by the minute, window 1 h", volumes, spikes, drawn)
    _show_masked(minutes, returns, drawn)
    floored, ratio = returns["median/MAD with floor"], spikes["ratio to the mean"]
    chosen = (
        Chosen("returns", minutes, floored, ABOVE, JUMP),
        Chosen("seconds", seconds, floored, ABOVE, JUMP_OF_A_SECOND),
        Chosen("volume", volumes, ratio, ABOVE_RATIO, SPIKE),
    )
    return {name: value for one in chosen for name, value in _judge(one, drawn).items()}


# ---- recorded days ----


def _by_minute(folder: Path) -> tuple[list[Case], list[Case]]:
    """Return the cases of returns and of volumes."""
    returns: list[Case] = []
    volumes: list[Case] = []
    for product in ("btcusd", "ethusd"):
        bars = markets.recorded(folder, product, "minute", ("20170903", "20170904"))
        for day, name in enumerate(("2017-09-03", "2017-09-04")):
            for cases, values in ((returns, _returns(bars, 60)), (volumes, _volumes(bars))):
                begin = max(day * 1_440 - 120, 0)
                part = values[begin : (day + 1) * 1_440]
                cases.append(Case(f"{product} {name}", part, day * 1_440 - begin, 60, 60, chosen_on=not day))
    quiet = markets.by_minute(markets.recorded(folder, "btcusd", "second", ("20161007",)))
    returns.append(Case("btcusd 2016-10-07", _returns(quiet, 60), 0, 60, 60, chosen_on=True))
    volumes.append(Case("btcusd 2016-10-07", _volumes(quiet), 0, 60, 61, chosen_on=True))
    return returns, [Case(c.name, c.values, c.start, c.step, 61, c.chosen_on) for c in volumes]


def _by_second(folder: Path) -> Case:
    bars = markets.recorded(folder, "btcusd", "second", ("20161007",))
    return Case("btcusd 2016-10-07", _returns(bars, 1), 0, 1, 900, chosen_on=True)


def _returns(bars: Bars, step: int) -> Floats:
    """Return the log returns of a grid; before the first bar there is none."""
    _, prices = markets.filled(bars, step, -(-(int(bars.second[-1]) + 1) // DAY) * DAY)
    return np.diff(np.log(prices))


def _volumes(bars: Bars) -> Floats:
    """Return the volume of each minute from midnight on."""
    found = np.zeros(-(-(int(bars.second[-1]) + 1) // DAY) * 1_440)
    found[bars.second // 60] = bars.volume
    return found


# ---- scores ----


def _plain(window: Floats) -> float | None:
    """Return |x - median| / (1.4826 MAD): of volumes too, of which only those above the median count."""
    middle = median(window)
    deviation = MAD_SCALE * median(np.abs(window - middle))
    return abs(float(window[-1]) - middle) / deviation if deviation else None


def _ratio(window: Floats) -> float | None:
    before = float(window[:-1].mean())
    return float(window[-1]) / before if before else None


def _ratio_to_median(window: Floats) -> float | None:
    before = median(window[:-1])
    return float(window[-1]) / before if before else None


# ---- judging ----


def _compare(title: str, cases: Sequence[Case], detectors: dict[str, Detector], drawn: int) -> None:
    """Show each detector at the least threshold that keeps to MAX_FALSE on the days it may be chosen on."""
    rows = []
    for name, detector in detectors.items():
        scores = [_scores(case, detector) for case in cases]
        fit = (_threshold(case, found) for case, found in zip(cases, scores, strict=True) if case.chosen_on)
        threshold = max(fit)
        false = [_alarms(case, found, threshold) for case, found in zip(cases, scores, strict=True)]
        sizes = [_least_size(case, detector, threshold, drawn) for case in cases]
        rows.append((
            name,
            f"{threshold:.1f}",
            " ".join(f"{count}" for count in false),
            " ".join("-" if size is None else f"{size}" for size in sizes),
        ))  # fmt: skip
    named = f"{title}: {', '.join(case.name for case in cases)}"
    show(named, ("detector", "threshold", "false alarms of each day", f"least K with recall {RECALL}"), rows)


def _show_masked(cases: Sequence[Case], detectors: dict[str, Detector], drawn: int) -> None:
    """Show what is found of a jump of K that follows 5 minutes after another one of the same size."""
    rows = []
    for name, detector in detectors.items():
        cells = []
        for case in cases:
            threshold = ABOVE if isinstance(detector, Windowed) else 6.0
            indices, sizes = _drawn(case, drawn)
            found = [_after_another(case, detector, i, JUMP * u) for i, u in zip(indices, sizes, strict=True)]
            cells.append(f"{np.mean(np.array(found) > threshold):.2f}")
        rows.append((name, " ".join(cells)))
    title = f"recall of a jump of K = {JUMP}, 5 minutes after another, above {ABOVE:g} (EWMA: 6)"
    show(title, ("detector", "recall of each day"), rows)


def _after_another(case: Case, detector: Detector, index: int, size: float) -> float:
    values = case.values.copy()
    values[index - 5] += size
    disturbed = Case(case.name, values[: index + 1], case.start, case.step, case.window, case.chosen_on)
    return float(detector.of(disturbed, np.array([index]), np.array([size]))[0])


def _judge(chosen: Chosen, drawn: int) -> dict[str, float]:
    """Show what the recommended threshold finds, and return the figures."""
    false = [_alarms(case, _scores(case, chosen.detector), chosen.threshold) for case in chosen.cases]
    sizes = (20, 30, 40, 50, 60)
    rows = []
    for case, count in zip(chosen.cases, false, strict=True):
        unit = float(np.median(np.abs(_drawn(case, drawn)[1])))
        recalls = [_recall(case, chosen.detector, chosen.threshold, size, drawn) for size in sizes]
        named = f"{unit:.2f}" if chosen.name == "volume" else f"{10_000 * unit:.2f} bp"
        rows.append((case.name, named, f"{count}", *(f"{recall:.3f}" for recall in recalls)))
    title = f"{chosen.name} above {chosen.threshold:g}: false alarms, and recall of K = {', '.join(map(str, sizes))}"
    show(title, ("day", "median K = 1", "false alarms", *map(str, sizes)), rows)
    recall = min(_recall(case, chosen.detector, chosen.threshold, chosen.size, drawn) for case in chosen.cases)
    return {f"{chosen.name}_recall": recall, f"{chosen.name}_false_alarms": float(max(false))}


def _scores(case: Case, detector: Detector) -> Floats:
    """Return the scores of the day's bars as they are; one without a move or a volume is no anomaly."""
    indices = np.flatnonzero(case.values)
    indices = indices[indices >= case.start]
    found = np.full(len(case.values), np.nan)
    found[indices] = detector.of(case, indices, np.zeros(len(indices)))
    return found


def _threshold(case: Case, scores: Floats) -> float:
    return next(float(one) for one in THRESHOLDS if _alarms(case, scores, one) <= MAX_FALSE)


def _alarms(case: Case, scores: Floats, threshold: float) -> int:
    """Return how often a rule with a cooldown would fire."""
    count, quiet_until = 0, 0
    for index in np.flatnonzero(scores > threshold).tolist():
        if index >= quiet_until:
            count, quiet_until = count + 1, index + COOLDOWN // case.step
    return count


def _least_size(case: Case, detector: Detector, threshold: float, drawn: int) -> int | None:
    return next((size for size in SIZES if _recall(case, detector, threshold, size, drawn) >= RECALL), None)


def _recall(case: Case, detector: Detector, threshold: float, size: int, drawn: int) -> float:
    indices, units = _drawn(case, drawn)
    found = detector.of(case, indices, size * units)
    return float(np.mean(found > threshold))


def _drawn(case: Case, count: int) -> tuple[Ints, Floats]:
    """Draw bars by a fixed seed; return them with what K is multiplied by, half of it negative for returns."""
    generator = np.random.default_rng(len(case.values) + case.start)
    indices = np.sort(generator.integers(max(case.start, case.hour, case.window), len(case.values), count))
    signs = generator.choice([-1.0, 1.0], count)
    units = np.array([_unit(case.values[index - case.hour : index]) for index in indices])
    if (case.values >= 0).all():
        units = np.array([case.values[index - case.hour : index].mean() for index in indices])
        signs = np.ones(count)
    known = units > 0
    return indices[known], (units * signs)[known]


def _unit(before: Floats) -> float:
    """Return the local robust volatility; 0 where too little moved."""
    moves = np.abs(before[before != 0])
    return MAD_SCALE * median(moves) if len(moves) >= _MIN_MOVES else 0.0
