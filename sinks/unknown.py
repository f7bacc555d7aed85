"""What a sink does about records of a schema that it does not know: asks the registry, if there is one.

What cannot be had then is refused as `unknown_schema`, and can be replayed when it is known.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

from pulsestream.core.log import logger
from schemas import registry
from schemas.codec import schema_id
from schemas.remote import RegistryAwayError, fetch
from sinks.rows import Refused

ASK_AGAIN: Final = 30.0
"""Seconds until an id that was not to be had is asked for again."""
AT_ONCE: Final = 3
"""Ids that one batch asks for: records can name as many as they like."""
_REMEMBERED: Final = 10_000

_log = logger(__name__)


class UnknownSchemas:
    """Learns schemas from the registry at `url`; an empty one is none."""

    def __init__(self, url: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._monotonic = monotonic
        self._asked: dict[int, float] = {}

    def learn(self, refused: Iterable[Refused]) -> bool:
        """Ask for schemas that records were refused for; return whether one is known now that was not."""
        if not self._url:
            return False
        found = {schema_id(each.arrived.value) for each in refused if each.code == "unknown_schema"}
        due = sorted(each for each in found if each is not None and self._is_due(each))
        learned = [self._ask(each) for each in due[:AT_ONCE]]
        return any(learned)

    def _is_due(self, wanted: int) -> bool:
        return self._monotonic() >= self._asked.get(wanted, 0.0)

    def _ask(self, wanted: int) -> bool:
        if len(self._asked) >= _REMEMBERED:
            self._asked.clear()
        self._asked[wanted] = self._monotonic() + ASK_AGAIN
        try:
            schema = fetch(self._url, wanted)
        except RegistryAwayError as error:
            _log.warning("schema registry", schema_id=wanted, reason=str(error))
            return False
        if schema is None:
            _log.warning("the schema registry has no schema of use", schema_id=wanted)
            return False
        registry.learn(schema)
        _log.info("schema learned", schema_id=wanted, name=schema.name)
        return True
