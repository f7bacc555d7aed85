"""A supervisor of two child programs, run as a process of its own so that a test can kill it: `python … FOLDER`."""

import signal
import sys
import threading
from pathlib import Path

from pulsestream.local.supervisor import ChildSpec, Event, Supervisor

PROGRAM = Path(__file__).with_name("child_program.py")


def child(folder: Path, name: str, *options: str, needs: tuple[str, ...] = (), stop_timeout: float = 5.0) -> ChildSpec:
    """A child program that is ready when it has said so."""
    mark = folder / f"{name}.ready"
    return ChildSpec(
        name=name,
        prepare=lambda: mark.unlink(missing_ok=True),
        command=lambda: [sys.executable, str(PROGRAM), str(folder), name, *options],
        log=folder / f"{name}.log",
        problem=lambda: None if mark.exists() else "it has not begun",
        needs=needs,
        stop_timeout=stop_timeout,
    )


def main(folder: Path) -> None:
    def tell(event: Event) -> None:
        sys.stdout.write(f"{event.child} {event.text}\n")

    stopping = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    supervisor = Supervisor(tell)
    supervisor.start([child(folder, "first"), child(folder, "second", needs=("first",))])
    sys.stdout.write(f"all ready {' '.join(str(pid) for pid in supervisor.pids().values())}\n")
    sys.stdout.flush()
    stopping.wait()
    supervisor.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
