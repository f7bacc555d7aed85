"""Schemas that this version was not released with, from a registry that speaks Confluent's API (`/schemas/ids/{id}`).

A schema is taken only if records written with it can be read as the record of the same full name that is known here.
"""

import json
import time
from collections.abc import Callable
from typing import Final

import httpx

from pulsestream.core.errors import OutageError
from schemas import registry
from schemas.registry import Released

TRIES: Final = 3
"""How often a registry that does not answer is asked."""
_TIMEOUT: Final = 2.0
_REST: Final = 0.25
"""Seconds before the second try; doubled before each further one."""
_LARGEST: Final = 1_000_000


class RegistryAwayError(OutageError):
    """The schema registry does not answer, or with an error of its own."""


def fetch(url: str, schema_id: int, sleep: Callable[[float], None] = time.sleep) -> Released | None:
    """Return a registry's schema of this id, None where it has none that is of use; raises RegistryAwayError."""
    for attempt in range(TRIES):
        try:
            response = httpx.get(f"{url.rstrip('/')}/schemas/ids/{schema_id}", timeout=_TIMEOUT, trust_env=False)
            if response.status_code == httpx.codes.NOT_FOUND:
                return None
            response.raise_for_status()
            return _usable(schema_id, response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure = error
        if attempt < TRIES - 1:
            sleep(_REST * 2**attempt)
    raise RegistryAwayError(f"the schema registry does not give schema {schema_id}: {failure}") from failure


def _usable(schema_id: int, response: httpx.Response) -> Released | None:
    if len(response.content) > _LARGEST:
        return None
    try:
        text = response.json()["schema"]
        full_name = _full_name(text)
    except (ValueError, TypeError, KeyError):
        return None
    for name in registry.names():
        known = registry.current(name)
        if _full_name(known.text) == full_name:
            return Released(schema_id, name, text) if registry.reads(known.text, text) else None
    return None


def _full_name(text: str) -> tuple[object, object]:
    schema = json.loads(text)
    return schema["namespace"], schema["name"]
