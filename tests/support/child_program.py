"""A small real process for tests of the supervisor: `python child_program.py FOLDER NAME [--stubborn] [--broken]`.

It notes its start and its end in FOLDER/journal and is ready when FOLDER/NAME.ready exists, which it makes itself.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType


def main(folder: Path, name: str, options: list[str]) -> None:
    def note(what: str) -> None:
        with (folder / "journal").open("a", encoding="utf-8") as journal:
            journal.write(f"{name} {what}\n")

    def end(_number: int, _frame: FrameType | None) -> None:
        if "--stubborn" not in options:
            note("stopped")
            sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    note("started")
    if "--broken" in options:
        sys.exit("wrong setting: colour")
    (folder / f"{name}.ready").write_text(str(os.getpid()), "utf-8")
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
