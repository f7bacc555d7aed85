"""The stats command: the live statistics and bars over records of the past, one emission a line.

Each is told once, as its final revision: it is held until no record can revise it. So lines come in order of time for
each product. Windows without records (count 0) are left out.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, TextIO, TypeAlias

import msgspec
import orjson

from pulsestream.commands.shown import number, warn_of, with_progress
from pulsestream.commands.sources import Sources
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339
from pulsestream.core.errors import UsageError
from schemas.records import Bar, Stat
from streams.engine.evaluation import Choice, StatEvaluation
from streams.engine.lines import PERIODS, WINDOWS
from streams.engine.reading import Key

Emission: TypeAlias = Stat | Bar

SPAN: Final = 600 * MICROS_PER_SECOND
"""Event time of a slice: so much of all products' statistics is in memory at once."""
FIRST: Final[dict[type[Emission], tuple[str, ...]]] = {
    Stat: ("product", "exchange", "window", "at", "count", "basis"),
    Bar: ("product", "exchange", "period", "start"),
}
"""The fields that a line of JSON begins with; the others follow as in the schema."""
UNTOLD: Final = frozenset({"event_id", "as_of", "revision", "received_time"})
"""What says something only where records have positions in topics."""
SHOWN: Final[dict[type[Emission], tuple[str, ...]]] = {
    Stat: ("count", "open", "high", "low", "close", "volume", "vwap", "change_pct", "volatility", "spread_bps"),
    Bar: ("trades", "open", "high", "low", "close", "volume", "vwap"),
}
"""What the table tells; --json tells everything."""

_HEAD: Final = "{:27}  {:20}  {:6}  {:>6}"
_CELL: Final = "  {:>12}"


def parse_lines(windows: str, bars: str) -> frozenset[str]:
    """Return the labels of the lines (streams.engine.lines) that lists such as 1m,5m ask for.

    All windows where both are empty. Raises UsageError for a window or a period that is not there.
    """
    named = _names("--windows", windows, [window.name for window in WINDOWS])
    periods = _names("--bars", bars, list(PERIODS))
    if not named and not periods:
        named = [window.name for window in WINDOWS]
    labels = [f"{kind}:{name}" for kind in ("prices", "quotes") for name in named]
    return frozenset(labels + [f"bar:{name}" for name in periods])


def emissions(
    sources: Sources, choice: Choice, lines: frozenset[str], progress: TextIO = sys.stderr
) -> Iterator[Emission]:
    """Yield the final revision of everything that these lines emit, but for windows without records."""
    evaluation = StatEvaluation(choice, lines)
    held: dict[Key, dict[str, Emission]] = {}
    for part in with_progress(sources.slices(SPAN), progress):
        for batch in part.batches:
            _hold(held.setdefault(batch.key, {}), evaluation.take(batch))
        yield from _ordered([one for key, ones in held.items() for one in _settled(ones, evaluation.settled(key))])
    rest = {one.event_id: one for ones in held.values() for one in ones.values()}
    _hold(rest, evaluation.finish())
    yield from _ordered(rest.values())


def run(sources: Sources, choice: Choice, lines: frozenset[str], *, as_json: bool, out: TextIO, err: TextIO) -> None:
    """Print each emission as a line of JSON, or of a table. What was skipped goes to `err`."""
    told = emissions(sources, choice, lines, err)
    first = next(told, None)
    if first is None:
        err.write("nothing to tell: no record in this time that prices are taken from (see --from, --to and --basis)\n")
    else:
        out.writelines(map(_json if as_json else _Table(), chain((first,), told)))
    warn_of(sources.skipped, err)


def _names(option: str, text: str, known: Sequence[str]) -> list[str]:
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise UsageError(f"{option} {name!r} is not there: choose of {','.join(known)}")
    return wanted


def _hold(held: dict[str, Emission], emitted: Iterable[Emission]) -> None:
    held.update({one.event_id: one for one in emitted if isinstance(one, Bar) or one.count})


def _settled(held: dict[str, Emission], time: int) -> list[Emission]:
    """Take those out that are of a time which no record can change."""
    settled = [one for one in held.values() if _at(one) <= time]
    for one in settled:
        del held[one.event_id]
    return settled


def _at(one: Emission) -> int:
    """Return when an emission is due, micros."""
    return one.at if isinstance(one, Stat) else one.start + PERIODS[one.period] * MICROS_PER_SECOND


def _ordered(emitted: Iterable[Emission]) -> list[Emission]:
    return sorted(emitted, key=lambda one: (_at(one), one.exchange, one.product))


def _json(one: Emission) -> str:
    said: dict[str, Any] = msgspec.to_builtins(one)
    said["at" if isinstance(one, Stat) else "start"] = _shown_time(one)
    first = FIRST[type(one)]
    rest = [name for name in said if name not in UNTOLD and name not in first]
    return orjson.dumps({name: said[name] for name in (*first, *rest)}).decode() + "\n"


class _Table:
    """Gives a line for each emission, below headings where a statistic follows a bar or the reverse."""

    def __init__(self) -> None:
        self._kind: type[Emission] | None = None

    def __call__(self, one: Emission) -> str:
        if type(one) is self._kind:
            return _row(one)
        self._kind = kind = type(one)
        names = ("time", "product", "basis", "window") if kind is Stat else ("start", "product", "origin", "period")
        return _HEAD.format(*names) + "".join(map(_CELL.format, SHOWN[kind])) + "\n" + _row(one)


def _row(one: Emission) -> str:
    made_of, length = (one.basis, one.window) if isinstance(one, Stat) else (one.origin, one.period)
    head = _HEAD.format(_shown_time(one), f"{one.exchange}:{one.product}", made_of, length)
    return head + "".join(_CELL.format(_short(getattr(one, name))) for name in SHOWN[type(one)]) + "\n"


def _shown_time(one: Emission) -> str:
    return format_rfc3339(one.at if isinstance(one, Stat) else one.start)


def _short(value: float | None) -> str:
    return number(None if value is None else float(f"{value:.8g}"))
