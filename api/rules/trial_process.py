"""`python -m api.rules.trial_process`: one trial of a rule, its task on standard input, its result on standard output.

A process of its own, so that no trial holds up a request, and one that takes too long or too much can be ended. It is
given what it may see (the database as the API's role, for one tenant) and nothing else, gives way to the API, and ends
by itself after its time, also when whoever started it is gone.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
import psycopg

from api.rules.trial import TooMany, try_rule
from api.rules.trial_task import AWAY, LARGE, SLOW, Task
from api.stored import StoredRecords, snapshot
from streams.engine.reading import Span
from streams.engine.rules import parse_rule

_MIB: Final = 1_048_576
_NICE: Final = 10
_OUT_OF_MEMORY: Final = "out of memory"
"""What libpq says, without a code, where it has no room for an answer."""


def run(task: Task) -> dict[str, Any]:
    """Return the result of a task, member by member."""
    try:
        with snapshot(task.database_url, task.tenant, task.seconds) as connection:
            records = StoredRecords(connection, task.tenant, Span(task.begin, task.end))
            found = try_rule(records, parse_rule(task.rule), task.most_records)
    except psycopg.errors.QueryCanceled:
        return {"failure": SLOW}
    except psycopg.Error as error:
        if _OUT_OF_MEMORY in str(error):
            return {"failure": LARGE}
        if not isinstance(error, psycopg.OperationalError):
            raise
        return {"failure": AWAY, "why": " ".join(str(error).split())}
    except MemoryError:
        return {"failure": LARGE}
    return {"begin": found.begin} if isinstance(found, TooMany) else {"answer": found}


def main() -> None:
    """Do the task."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    _bind(task)
    sys.stdout.buffer.write(orjson.dumps(run(task)))


def _bind(task: Task) -> None:
    """Let this process take no more than it may, as far as the system can.

    Where memory runs out in spite of that (a container's limit), Linux ends it and not the API.
    """
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 (not there on Windows)

        signal.alarm(task.seconds + 1)
        os.nice(_NICE)
        resource.setrlimit(resource.RLIMIT_DATA, (task.mebibytes * _MIB, task.mebibytes * _MIB))


if __name__ == "__main__":
    main()
