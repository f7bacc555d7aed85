"""What the API gives the process that tries a rule, and what it gets back."""

from typing import Final

import msgspec

SLOW: Final = "slow"
LARGE: Final = "large"
AWAY: Final = "away"
BROKEN: Final = "broken"


class Task(msgspec.Struct, frozen=True):
    """A rule, as JSON, over the records of a tenant from begin to before end, micros; and what it may take."""

    database_url: str
    tenant: str
    rule: str
    begin: int
    end: int
    most_records: int
    seconds: int
    mebibytes: int


class Result(msgspec.Struct, frozen=True):
    """One of: the answer; the time, micros, from which on there are few enough records; a failure's name, and why."""

    answer: msgspec.Raw = msgspec.Raw()
    begin: int | None = None
    failure: str | None = None
    why: str = ""
