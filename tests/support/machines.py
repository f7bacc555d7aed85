"""What any consumer may count on of a rule's alerts, whatever crashed while they were made."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from schemas.records import Alert

_FOLLOWS: Final = {
    "inactive": {"pending", "firing"},
    "pending": {"firing", "inactive", "resolved"},
    "firing": {"resolved"},
    "resolved": {"pending", "firing"},
}


def assert_consistent(alerts: Iterable[Alert]) -> dict[tuple[str, int, str], list[Alert]]:
    """Each id has one content, and each machine's numbers count up through states that may follow each other.

    `alerts` are in the order of their topic. Returns each machine's alerts, by rule, version and product.
    """
    once: dict[str, Alert] = {}
    for alert in alerts:
        first = once.setdefault(alert.alert_id, alert)
        assert first == alert, f"two contents of one alert_id: {first} and {alert}"
    machines: dict[tuple[str, int, str], list[Alert]] = {}
    for alert in once.values():
        machines.setdefault((alert.rule_id, alert.rule_version, alert.product), []).append(alert)
    for own in machines.values():
        assert [alert.seq for alert in own] == list(range(1, len(own) + 1)), own
        for earlier, later in pairwise(own):
            assert later.state in _FOLLOWS[earlier.state], (earlier, later)
            assert later.at >= earlier.at, (earlier, later)
    return machines
