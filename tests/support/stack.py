"""A whole local stack for tests: `running_stack` in this process, `Up` as the command that a person types."""

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pulsestream.core.settings import Settings, environment
from pulsestream.local.stack import Stack

START_TIMEOUT: Final = 120.0


@contextmanager
def running_stack(home: Path, **settings: object) -> Iterator[Stack]:
    """Run every part in `home` on free ports, fed by the simulator unless `settings` say otherwise.

    `stack.pids()`, `stack.kill(name)`, `stack.home.log(name)` reach each part.
    """
    values: dict[str, Any] = {"home": home, "api_port": 0, "feed": "simulator", "kafka_bootstrap": ""} | settings
    stack = Stack(Settings(**values))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


class Up:
    """`pulsestream up` as a process; its output is read line by line."""

    def __init__(self, home: Path, **settings: object) -> None:
        self.home = home
        given = environment({"home": home, "feed": "simulator"} | settings)
        self.lines: list[str] = []
        self._arriving: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pulsestream.cli", "up"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=given,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, timeout: float = START_TIMEOUT) -> str:
        """Return the first new line that contains `text`; fails with everything said when none comes."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._arriving.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"{text!r} was not said:\n" + "".join(self.lines)
            if text in line:
                return line

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self, timeout: float = 90.0) -> int:
        """Return the exit code of a command that ends by itself."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._arriving.put(line)
        self._arriving.put(None)
