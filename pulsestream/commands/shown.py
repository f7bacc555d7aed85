"""How the offline commands show what they find: progress on a terminal, tables of plain text, what was skipped."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TextIO

from pulsestream.commands.reading import Skipped, Slice

SAY_EVERY: Final = 0.5
"""Seconds between two updates of the progress."""
_GAP: Final = "  "


def with_progress(
    slices: Iterator[Slice], out: TextIO, monotonic: Callable[[], float] = time.monotonic
) -> Iterator[Slice]:
    """Yield slices, and on a terminal say how many records were read so far; the line is wiped at the end."""
    if not out.isatty():
        yield from slices
        return
    records, said = 0, monotonic()
    for part in slices:
        records += sum(len(batch.records) for batch in part.batches)
        if monotonic() - said >= SAY_EVERY:
            said = monotonic()
            out.write(f"\r{records:,} records read")
            out.flush()
        yield part
    out.write("\r\x1b[K")
    out.flush()


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


def number(value: float | None) -> str:
    """Return a number as short as it can be told; a hyphen for none."""
    return "-" if value is None else f"{value:.15g}"
