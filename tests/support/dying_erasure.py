"""A process that erases a tenant and ends itself with SIGKILL where it is told to: `python -m … TENANT MOMENT BATCH`.

Settings come from the environment. Exit code 0: it was not at that moment, and is finished or has to wait.
"""

import os
import signal
import sys

from api.erasure.broker import Belongings
from api.erasure.service import Erasure
from api.relay_database import connect
from pulsestream.core.settings import load_settings


def main(tenant: str, fatal: str, batch: int) -> None:
    settings = load_settings()

    def moment(name: str) -> None:
        if name == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    with connect(settings, "dying-erasure") as connection:
        Erasure(connection, Belongings(settings), tenant, moment=moment, batch=batch).run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
