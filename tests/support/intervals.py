"""A recorder of intervals that keeps the ledger's rule: one open for a scope, a second opening changes nothing."""

from dataclasses import dataclass

from producers.ledger import BUFFER, Scope


@dataclass
class Interval:
    """One interval without data; `closed` None while it is open."""

    scope: Scope
    opened: int
    cause: str
    closed: int | None = None


class Intervals:
    """Every interval that a publisher opened, oldest first."""

    def __init__(self) -> None:
        self.every: list[Interval] = []

    def open(self, scope: Scope, opened: int, cause: str) -> None:
        if scope not in self.open_scopes():
            self.every.append(Interval(scope, opened, cause))

    def close(self, scope: Scope, closed: int) -> None:
        for interval in self.every:
            if interval.scope == scope and interval.closed is None:
                interval.closed = closed

    def open_scopes(self) -> list[Scope]:
        return [interval.scope for interval in self.every if interval.closed is None]

    def newest(self, scope: Scope) -> Interval:
        return [interval for interval in self.every if interval.scope == scope][-1]

    def cover(self, tenant: str, product: str, at: int) -> bool:
        """Say whether an interval that concerns a tenant's product holds a moment."""
        concerned = {Scope(tenant), Scope(tenant, product), BUFFER}
        return any(
            interval.opened < at and (interval.closed is None or at <= interval.closed)
            for interval in self.every
            if interval.scope in concerned
        )
