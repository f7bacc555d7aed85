"""What each process of a local stack keeps in memory at most, as `make up` starts it, feed and all.

Under more load `ingest`, `sink` and `streams` tell it of the API, the sink and the worker, `make soak` of the producer.
"""

import tempfile
import time
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from benchmarks.resident import peak_mib
from benchmarks.table import show
from pulsestream.core.settings import Settings
from pulsestream.local.stack import Stack

SECONDS: Final = 120.0
QUICK_SECONDS: Final = 10.0
_OWN: Final = SecretStr("")
"""No address: the stack's own database."""


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Run the stack for two minutes, print a table, and return what each process had at most (MiB)."""
    with tempfile.TemporaryDirectory(prefix="pulsestream-benchmark-", ignore_cleanup_errors=True) as folder:
        settings = Settings(home=Path(folder), api_port=0, feed="simulator", kafka_bootstrap="", database_url=_OWN)
        stack = Stack(settings)
        try:
            stack.start()
            time.sleep(QUICK_SECONDS if quick else SECONDS)
            most = {name: peak_mib(pid) for name, pid in sorted(stack.pids().items())}
        finally:
            stack.stop()
    show("resident memory at most", ("process", "MiB"), [(name, f"{size:.0f}") for name, size in most.items()])
    return {f"{name}_peak_mib": size for name, size in most.items()}
