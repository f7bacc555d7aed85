"""What `pulsestream up` shows: one line for each thing that happens, coloured on a terminal, plain elsewhere."""

import os
import sys
from pathlib import Path
from typing import IO, Final

from rich.console import Console
from rich.text import Text

from pulsestream.local.home import Home
from pulsestream.local.supervisor import Event, State

_STYLES: Final = {State.READY: "green", State.RESTARTING: "yellow", State.STARTING: "yellow", State.STOPPED: "dim"}


class Screen:
    """Writes lines to a terminal or a file."""

    def __init__(self, out: IO[str]) -> None:
        self._console = Console(file=out, soft_wrap=True, highlight=False, markup=False)

    def begins(self, home: Path, own_broker: bool) -> None:  # noqa: FBT001 - one caller
        """Say where the stack keeps its data."""
        self._line(f"PulseStream starts in {_shown(home)}", "bold")
        if own_broker and not (home / "kafka").exists():
            self._line("The first start sets up the broker (and downloads it, once, about 45 MB).")

    def event(self, event: Event) -> None:
        """Show what happened to a child."""
        self._line(f"  {event.child:<10} {event.text}", _STYLES.get(event.state, ""))

    def fed(self, said: str, *, has_timescale: bool) -> None:
        """Say where ticks come from, and what the database cannot do."""
        self._line(f"  {'feed':<10} {said}", "cyan")
        if not has_timescale:
            self._line(f"  {'storage':<10} plain PostgreSQL: TimescaleDB's features are off", "cyan")

    def key(self, tenant: str, key: str, file: Path) -> None:
        """Show a new tenant's key, once."""
        self._line(f"Tenant {tenant} is registered. Its API key, shown this once and kept in {_shown(file)}:")
        self._line(key, "bold")

    def first_tick(self, seconds: float) -> None:
        """Say how long it took until search found a tick."""
        self._line(f"First tick stored after {seconds:.1f} s.", "green")

    def warns(self, text: str) -> None:
        """Show something that needs attention while everything keeps running."""
        self._line(f"Attention: {text}", "yellow")

    def next_steps(self, api_url: str, home: Home, search: str) -> None:
        """Show three lines to copy."""
        self._line("Ctrl-C stops everything. To copy:")
        self._line(f'  curl -s "{api_url}{search}&limit=3" -H "X-API-Key: $(cat {_shown(home.demo_key)})"')
        elsewhere = home.folder != Path.cwd() / ".pulsestream"
        setting = f"PULSESTREAM_HOME={_shown(home.folder)} " if elsewhere else ""
        self._line(f"  {setting}{_shown(_program())} tail demo alerts")
        self._line(f"  {api_url}/docs")

    def stops(self) -> None:
        """Say that stopping has begun."""
        self._line("Stopping.")

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style))


def _program() -> Path:
    return Path(os.path.abspath(sys.executable)).parent / "pulsestream"  # noqa: PTH100 - a link must stay a link


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
