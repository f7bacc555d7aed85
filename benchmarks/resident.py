"""How much memory a process takes."""

import re
from pathlib import Path
from typing import Final

import psutil

MIB: Final = 1024 * 1024
_PEAK: Final = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def peak_mib(pid: int) -> float:
    """Return the largest resident set that a process has had (MiB); where the system does not say, the present one."""
    status = Path(f"/proc/{pid}/status")
    found = _PEAK.search(status.read_text("ascii")) if status.exists() else None
    return int(found[1]) / 1024 if found else float(psutil.Process(pid).memory_info().rss) / MIB
