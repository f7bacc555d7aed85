"""How the offline commands show what they find: progress on a terminal, tables of plain text, what was skipped."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

from pulsestream.commands.reading import Skipped
from streams.engine.reading import Slice

SAY_EVERY: Final = 0.5
"""Seconds between two updates of the progress."""
_GAP: Final = "  "


class Counter:
    """How many records were read, as a line on a terminal that is wiped at the end; silent elsewhere."""

    def __init__(self, out: TextIO, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._monotonic = monotonic
        self._shows = out.isatty()
        self._said = monotonic()

    def say(self, records: int) -> None:
        """Show a number, if the one before is old enough."""
        if self._shows and self._monotonic() - self._said >= SAY_EVERY:
            self._said = self._monotonic()
            self._out.write(f"\r{records:,} records read")
            self._out.flush()

    def end(self) -> None:
        """Wipe the line."""
        if self._shows:
            self._out.write("\r\x1b[K")
            self._out.flush()


def with_progress(
    slices: Iterator[Slice], out: TextIO, monotonic: Callable[[], float] = time.monotonic
) -> Iterator[Slice]:
    """Yield slices, and show how many records they held."""
    records, counter = 0, Counter(out, monotonic)
    for part in slices:
        records += sum(len(batch.records) for batch in part.batches)
        counter.say(records)
        yield part
    counter.end()


def warn_of(skipped: Skipped, out: TextIO) -> None:
    """Say which records were skipped: the first ones by file and line, and how many in all."""
    out.writelines(f"skipped: {line}\n" for line in skipped.shown)
    if skipped.count > len(skipped.shown):
        out.write(f"skipped: {skipped.count:,} records in all\n")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str] = frozenset()) -> str:
    """Return rows below their headings, columns aligned; those named in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in (headings, *rows):
        cells = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    """Return a text in which nothing can command a terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def number(value: float | None) -> str:
    """Return a number as short as it can be told; a hyphen for none."""
    return "-" if value is None else f"{value:.15g}"


def listing(found: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, out: TextIO) -> None:
    """Write what was found: these columns of it as a table, or all of it as JSON, one a line."""
    if as_json:
        out.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in found)
        return
    headings = [column.upper().replace("_", " ") for column in columns]
    out.write(table(headings, [[cell(one[column]) for column in columns] for one in found]))


def cell(value: object) -> str:
    """Return a value as a table shows it: a hyphen for none, lists and objects as JSON."""
    if value is None or value == "":
        return "-"
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
