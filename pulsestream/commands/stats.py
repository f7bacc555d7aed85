"""The stats command: the live statistics over records of the past, one emission a line.

Each statistic is told once, as its final revision: it is held until no record can revise it. So lines come in order of
time for each product. Windows without records (count 0) are left out.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TextIO

import orjson

from pulsestream.commands.evaluation import Choice, Evaluation
from pulsestream.commands.reading import Key
from pulsestream.commands.shown import number, warn_of, with_progress
from pulsestream.commands.sources import Sources
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339
from pulsestream.core.errors import UsageError
from schemas.records import Stat
from streams.engine.lines import WINDOWS

SPAN: Final = 600 * MICROS_PER_SECOND
"""Event time of a slice: so much of all products' statistics is in memory at once."""
FIRST: Final = ("product", "exchange", "window", "at", "count", "basis")
UNTOLD: Final = frozenset({"event_id", "as_of", "revision"})
"""What says something only where records have positions in topics."""
SHOWN: Final = ("open", "high", "low", "close", "volume", "vwap", "change_pct", "volatility", "spread_bps")
"""What the table tells of a statistic; --json tells everything."""

_FIELDS: Final = (*FIRST, *(name for name in Stat.__struct_fields__ if name not in UNTOLD and name not in FIRST))
_HEAD: Final = "{:27}  {:20}  {:6}  {:6}  {:>7}"
_CELL: Final = "  {:>12}"


def parse_windows(text: str) -> frozenset[str]:
    """Return the windows in a list such as 1m,5m; all where it is empty. Raises UsageError for one that is not."""
    known = [window.name for window in WINDOWS]
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UsageError(f"--windows {unknown[0]!r} is no window: choose of {','.join(known)}")
    return frozenset(wanted or known)


def emissions(
    sources: Sources, choice: Choice, windows: frozenset[str], progress: TextIO = sys.stderr
) -> Iterator[Stat]:
    """Yield the final revision of each statistic of these windows that holds records."""
    evaluation = Evaluation((), choice)
    held: dict[Key, dict[str, Stat]] = {}
    for part in with_progress(sources.slices(SPAN), progress):
        for batch in part.batches:
            _hold(held.setdefault(batch.key, {}), evaluation.take(batch).stats, windows)
        yield from _ordered([stat for key, stats in held.items() for stat in _settled(stats, evaluation.settled(key))])
    rest = {stat.event_id: stat for stats in held.values() for stat in stats.values()}
    _hold(rest, evaluation.finish().stats, windows)
    yield from _ordered(rest.values())


def run(sources: Sources, choice: Choice, windows: frozenset[str], *, as_json: bool, out: TextIO, err: TextIO) -> None:
    """Print each emission as a line of JSON, or of a table. What was skipped goes to `err`."""
    if not as_json:
        out.write(_HEAD.format("time", "product", "basis", "window", "count"))
        out.write("".join(_CELL.format(name) for name in SHOWN) + "\n")
    out.writelines(_json(stat) if as_json else _row(stat) for stat in emissions(sources, choice, windows, err))
    warn_of(sources.skipped, err)


def _hold(held: dict[str, Stat], stats: Iterable[Stat], windows: frozenset[str]) -> None:
    held.update({stat.event_id: stat for stat in stats if stat.window in windows and stat.count})


def _settled(held: dict[str, Stat], time: int) -> list[Stat]:
    """Take those out that are of a time which no record can change."""
    settled = [stat for stat in held.values() if stat.at <= time]
    for stat in settled:
        del held[stat.event_id]
    return settled


def _ordered(stats: Iterable[Stat]) -> Sequence[Stat]:
    return sorted(stats, key=lambda stat: (stat.at, stat.exchange, stat.product))


def _json(stat: Stat) -> str:
    fields = {name: getattr(stat, name) for name in _FIELDS}
    fields["at"] = format_rfc3339(stat.at)
    return orjson.dumps(fields).decode() + "\n"


def _row(stat: Stat) -> str:
    head = _HEAD.format(format_rfc3339(stat.at), f"{stat.exchange}:{stat.product}", stat.basis, stat.window, stat.count)
    return head + "".join(_CELL.format(_short(getattr(stat, name))) for name in SHOWN) + "\n"


def _short(value: float | None) -> str:
    return number(value if value is None else float(f"{value:.8g}"))
