"""Alerts that no record brought about, from the decision until the broker has them, in order. Pure.

What the clock or a rule's end decides cannot be found again by reading the records again, so it is part of the
checkpoint before anyone sees it. A key's later alerts wait behind it: they may not overtake it.
"""

from collections.abc import Iterable, Mapping
from enum import Enum

from streams.entries import PendingAlert


class _Stage(Enum):
    FRESH = 0
    """Not in a checkpoint yet."""
    READY = 1
    """In a checkpoint, not handed to the producer."""
    SENT = 2
    """Handed to the producer, not acknowledged."""


class Outbox:
    """The pending alerts of one shard by number; numbers count up."""

    def __init__(self, restored: Mapping[int, PendingAlert]) -> None:
        self._alerts = dict(sorted(restored.items()))
        self._stages = dict.fromkeys(self._alerts, _Stage.READY)
        self._next = max(self._alerts, default=0) + 1

    def __len__(self) -> int:
        return len(self._alerts)

    def holds(self, key: str) -> bool:
        """Return whether an alert of this key is pending: until the broker has it, a later one could overtake it."""
        return any(alert.key == key for alert in self._alerts.values())

    def add(self, alert: PendingAlert) -> int:
        """Take an alert in; it is not sent before `checkpointed` names its number."""
        number, self._next = self._next, self._next + 1
        self._alerts[number] = alert
        self._stages[number] = _Stage.FRESH
        return number

    def get(self, number: int) -> PendingAlert:
        """Return a pending alert."""
        return self._alerts[number]

    def checkpointed(self, numbers: Iterable[int]) -> None:
        """Let these be sent: they are in a checkpoint."""
        for number in numbers:
            if number in self._alerts:
                self._stages[number] = _Stage.READY

    def take_ready(self, parked: Iterable[str]) -> list[tuple[int, PendingAlert]]:
        """Return what may be sent, in order, and count it as sent; parked tenants' alerts stay."""
        held = tuple(f"{tenant}/" for tenant in parked)
        ready = [
            (number, alert)
            for number, alert in self._alerts.items()
            if self._stages[number] is _Stage.READY and not alert.key.startswith(held)
        ]
        for number, _ in ready:
            self._stages[number] = _Stage.SENT
        return ready

    def put_off(self, number: int) -> None:
        """Count an alert as not sent after all."""
        self._stages[number] = _Stage.READY

    def acknowledged(self, number: int) -> bool:
        """Drop an alert that the broker has; False when it was not pending any more."""
        self._stages.pop(number, None)
        return self._alerts.pop(number, None) is not None

    def send_again(self, tenant: str) -> None:
        """Let this tenant's alerts wait to be sent again: the broker did not take them."""
        for number, alert in self._alerts.items():
            if alert.key.startswith(f"{tenant}/") and self._stages[number] is _Stage.SENT:
                self._stages[number] = _Stage.READY

    def tenants(self) -> set[str]:
        """Return whose alerts are pending."""
        return {alert.key.split("/", 1)[0] for alert in self._alerts.values()}

    def forget(self, tenant: str) -> list[int]:
        """Forget a tenant's alerts, and return their numbers."""
        numbers = [number for number, alert in self._alerts.items() if alert.key.startswith(f"{tenant}/")]
        self.drop(numbers)
        return numbers

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget alerts whose decision was taken back before any checkpoint."""
        for number in numbers:
            self.acknowledged(number)
