"""Whether an alert can be told of: a database and a message hold its texts, numbers and times. Pure."""

import math
from collections.abc import Iterator
from typing import Final

from schemas.records import Alert
from schemas.validate import MAX_TIME, check

NAME: Final = 512
WORDS: Final = 4000
"""Characters of names and values, and of a reason."""
MOST: Final = 100
"""Labels of an alert."""
PRICES: Final = 20
_INT: Final = 2**31
_BIGINT: Final = 2**63


def is_sound(alert: Alert) -> bool:
    """Say whether an alert can be stored and told of; what is not was made by no worker of the streams."""
    return (
        check(alert, "alerts") is None
        and len(alert.labels) <= MOST
        and len(alert.last_prices) <= PRICES
        and -_INT <= alert.rule_version < _INT
        and -_BIGINT <= alert.seq < _BIGINT
        and _is_text(alert.reason, WORDS)
        and all(_is_text(text, NAME) for text in _names(alert))
        and all(number is None or math.isfinite(number) for number in _numbers(alert))
        and all(0 <= point.time <= MAX_TIME for point in alert.last_prices)
    )


def _names(alert: Alert) -> Iterator[str]:
    yield from (alert.alert_id, alert.rule_id, alert.rule_name, alert.state, alert.severity, alert.window or "")
    for name, value in alert.labels.items():
        yield name
        yield value


def _numbers(alert: Alert) -> Iterator[float | None]:
    yield alert.value
    yield alert.threshold
    yield from (point.price for point in alert.last_prices)


def _is_text(text: str, most: int) -> bool:
    return len(text) <= most and "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
