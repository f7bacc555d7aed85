"""Become a command that dies with its parent: `python -I -S child.py SIGNAL PARENT USER GROUP COMMAND…`.

The kernel sends SIGNAL when the process PARENT ends for whatever reason, also by SIGKILL, so nothing of the local
stack outlives its supervisor (Linux; elsewhere the command simply runs). A program of its own rather than a function
between fork and exec: Python code in a forked copy of a process with threads may deadlock. The user (-1: unchanged)
is taken on first, because the kernel forgets the signal when a process changes its user.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Take on the user, ask for the signal, and turn into the command."""
    signal, parent, user, group = (int(argument) for argument in arguments[:4])
    command = arguments[4:]
    if user >= 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:
            raise SystemExit("the parent ended before its child began")
    os.execvp(command[0], command)  # noqa: S606 - the command is the supervisor's own


if __name__ == "__main__":
    main(sys.argv[1:])
