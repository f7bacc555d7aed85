"""Ask a process on this machine whether it is ready: what a container's health check runs.

Imports the standard library only and reads two settings itself, because it runs every few seconds beside each process.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

from pulsestream.local.probe import http_problem

_PORTS: Final = ("PULSESTREAM_OPS_PORT", "PULSESTREAM_API_PORT")
_DEFAULT_PORT: Final = "8000"


def main(arguments: Sequence[str]) -> int:
    """Ask the given URL, else the /readyz that the settings name; returns 0 when ready, else 1 after saying why not."""
    problem = http_problem(arguments[0] if arguments else _readyz())
    sys.stdout.write(f"{problem or 'ready'}\n")
    return 0 if problem is None else 1


def _readyz() -> str:
    given = (os.environ.get(name, "") for name in _PORTS)
    port = next((value for value in given if value not in {"", "0"}), _DEFAULT_PORT)
    return f"http://127.0.0.1:{port}/readyz"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
