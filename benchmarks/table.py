"""A table of figures on the terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table


def show(title: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table; every column but the first is of figures."""
    first, *figures = columns
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in figures:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
