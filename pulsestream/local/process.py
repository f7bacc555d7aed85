"""Start and stop child processes that never outlive this one."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from pulsestream.local import child
from pulsestream.local.errors import StartError

_LAUNCHER: Final = str(Path(child.__file__))
_UNCHANGED: Final = (-1, -1)
_PORTS: Final = range(20_000, 32_000)
_LOG_LIMIT: Final = 16 * 1024 * 1024


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    on_parent_death: signal.Signals = signal.SIGKILL,
    user: tuple[int, int] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, its output appended to `log`.

    A session of its own keeps the terminal's Ctrl-C away from it: only its owner stops it, in order. When the thread
    that calls this ends (Linux counts the thread, not the process), the kernel sends it `on_parent_death`.
    `user` is (uid, gid) to run as.
    """
    uid, gid = user or _UNCHANGED
    launcher = [sys.executable, "-I", "-S", _LAUNCHER, str(int(on_parent_death)), str(os.getpid()), str(uid), str(gid)]
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_name(f"{log.name}.1"))
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - the command is built by the stack
            [*launcher, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], *, grace: float = 10.0, with_signal: signal.Signals = signal.SIGTERM) -> int:
    """Ask a child to end, kill it after `grace` seconds, and return its exit code (negative: the signal)."""
    if process.poll() is None:
        process.send_signal(with_signal)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on now.

    Below the range from which systems give outgoing connections their ports: a client that tries again and again
    while its server is down could otherwise be given that very port, and keep the server from coming back.
    """
    for _ in range(100):
        port = secrets.choice(_PORTS)
        if port_is_free(port):
            return port
    raise StartError(f"no free port found between {_PORTS.start} and {_PORTS.stop}")


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether this process could listen on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def last_lines(log: Path, count: int = 12) -> str:
    """Return the end of a log file, for a message about why something did not start."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-count:])


def runs(pid: int, words: str) -> bool:
    """Return whether process `pid` runs with `words` in its command line."""
    try:
        return words in " ".join(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
