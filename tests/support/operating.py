"""`pulsestream tenant` as an operator runs it, on the database of a running installation."""

import os
import subprocess
import sys

from tests.support.e2e import Installation


def tenant_command(running: Installation, *arguments: str, code: int = 0) -> str:
    """Run `pulsestream tenant` as the relay's role and return what it says; fails for another exit code."""
    own = {
        "PULSESTREAM_API_PORT": str(running.api_port),
        "PULSESTREAM_HOME": os.devnull + "/nowhere",
        "PULSESTREAM_DATABASE_URL": running.database.url("ps_relay"),
    }
    command = [sys.executable, "-m", "pulsestream.cli", "tenant", *arguments]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
