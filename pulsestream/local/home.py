"""The folder of a local stack: its lock, its secrets, and the note by which other commands find what runs from it."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from pulsestream.local.errors import HomeBusyError
from pulsestream.local.private import stored_secrets, write_private

_PEPPER: Final = "key_pepper"


class Home:
    """One stack's folder; `lock` makes this process its only user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.demo_key = self.folder / "demo.key"
        self._note = self.folder / "stack.json"
        self._lock: IO[str] | None = None

    def log(self, child: str) -> Path:
        """Return a child's log file."""
        return self.folder / "logs" / f"{child}.log"

    def lock(self) -> None:
        """Take the folder; raises HomeBusyError when another process has it. The kernel frees it when this one ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().strip()
            lock.close()
            raise HomeBusyError(
                f"a stack already runs from {self.folder} (process {owner}): stop it with Ctrl-C, or choose another "
                "folder with PULSESTREAM_HOME"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    @property
    def is_ours(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def unlock(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            self._note.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def pepper(self) -> str:
        """Return the secret that API keys are hashed with, made at the first call."""
        return stored_secrets(self.folder / "secrets.json", [_PEPPER])[_PEPPER]

    def write_note(self, settings: Mapping[str, str | int | None]) -> None:
        """Leave what a command needs to reach this stack as its administrator (mode 0600)."""
        write_private(self._note, json.dumps(settings, indent=1))

    def read_note(self) -> dict[str, str | int | None] | None:
        """Return what a running stack left, or None when none runs from this folder."""
        if not self._note.exists() or not self._is_locked():
            return None
        note: dict[str, str | int | None] = json.loads(self._note.read_text("utf-8"))
        return note

    def _is_locked(self) -> bool:
        with (self.folder / "lock").open("a", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False
