"""Trials of rules: each in a process of its own, few at once, one of a tenant, ended when it takes too long."""

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from api import errors
from api.rules.trial_task import AWAY, BROKEN, LARGE, SLOW, Result, Task
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, format_rfc3339
from pulsestream.core.log import logger
from pulsestream.core.metrics import RULE_TRIALS
from pulsestream.core.settings import PREFIX, Settings
from schemas.validate import MAX_TIME

AT_ONCE: Final = 2
"""Trials of all tenants together, in this process of the API."""
MOST_RECORDS: Final = 1_000_000
SECONDS: Final = 30
"""That a trial may take."""
MEBIBYTES: Final = 1_024
"""Of memory that it may take."""
RETRY: Final = 5
DEFAULT_SPAN: Final = 24 * 3600 * MICROS_PER_SECOND
_HOUR: Final = 3600 * MICROS_PER_SECOND
_ENDED: Final = -9
"""The exit code of a process that Linux ended for want of memory: nobody else kills one but we, after its time."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rule, as JSON, and the event times to try it on, micros: from begin to before end; None: the default."""

    rule: str
    begin: int | None
    end: int | None


class Trials:
    """Tries rules on what is stored. `most_hours`: how long a span may be."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._url = settings.database_url.get_secret_value()
        self._most_hours = settings.trial_hours
        self._clock = clock
        self._tenants: set[str] = set()

    async def run(self, tenant: str, wanted: Wanted) -> bytes:
        """Return the answer as JSON; raises Problem 422 (too long a span, too many records) or 503."""
        begin, end = self._span(wanted)
        task = Task(self._url, tenant, wanted.rule, begin, end, MOST_RECORDS, SECONDS, MEBIBYTES)
        with self._turn(tenant):
            result = await _result(task)
        return _answer(result, begin, end)

    def _span(self, wanted: Wanted) -> tuple[int, int]:
        end = self._clock() if wanted.end is None else wanted.end
        begin = max(0, end - DEFAULT_SPAN) if wanted.begin is None else wanted.begin
        if begin >= end:
            raise _wrong_span(f"{format_rfc3339(begin)} is not before {format_rfc3339(end)}, where the trial ends")
        if end - begin > self._most_hours * _HOUR:
            least = format_rfc3339(end - self._most_hours * _HOUR)
            raise _wrong_span(
                f"a trial spans at most {self._most_hours} h: ask for {least} or later, or an earlier `to`"
            )
        return begin, min(end, MAX_TIME)

    @contextmanager
    def _turn(self, tenant: str) -> Iterator[None]:
        if tenant in self._tenants:
            raise errors.overloaded("1 trial of a rule of this tenant is under way", RETRY)
        if len(self._tenants) >= AT_ONCE:
            raise errors.overloaded(f"{AT_ONCE} trials of rules are under way", RETRY)
        self._tenants.add(tenant)
        try:
            yield
        finally:
            self._tenants.discard(tenant)


def _wrong_span(message: str) -> errors.Problem:
    return errors.invalid_body([errors.FieldError("/from", message)])


async def _result(task: Task) -> Result:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "api.rules.trial_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(os.environ),
    )
    try:
        async with asyncio.timeout(task.seconds):
            said, complaint = await child.communicate(msgspec.json.encode(task))
    except TimeoutError:
        return Result(failure=SLOW)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode == _ENDED:
        return Result(failure=LARGE)
    if child.returncode:
        why = complaint.decode(errors="replace")[-2000:]
        return Result(failure=BROKEN, why=f"exit code {child.returncode}: {why}")
    return msgspec.json.decode(said, type=Result)


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return what the process is to know: no setting of ours, the same modules, one thread for arrays."""
    kept = {name: value for name, value in own.items() if not name.startswith(PREFIX)}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}


def _answer(result: Result, begin: int, end: int) -> bytes:
    if bytes(result.answer):
        RULE_TRIALS.labels("done").inc()
        span = {"from": format_rfc3339(begin), "to": format_rfc3339(end)}
        return msgspec.json.encode(span)[:-1] + b"," + bytes(result.answer)[1:]
    failure = LARGE if result.begin is not None else result.failure or BROKEN
    RULE_TRIALS.labels(failure).inc()
    if result.begin is not None:
        raise errors.trial_too_large(
            f"A rule is tried on at most {MOST_RECORDS:,} records, and in this time its products have more",
            format_rfc3339(result.begin),
        )
    if failure == SLOW:
        raise errors.trial_too_large(f"Trying the rule took longer than {SECONDS} s, and was ended")
    if failure == LARGE:
        raise errors.trial_too_large(f"Trying the rule took more than {MEBIBYTES} MiB of memory, and was ended")
    if failure == AWAY:
        _log.warning("database unavailable", reason=result.why)
        raise errors.database_away()
    _log.error("a trial of a rule ended early", reason=result.why)
    raise errors.trial_broken()
