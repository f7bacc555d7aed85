"""How much may be under way at once: requests, and bytes of their bodies. What is beyond is refused, never queued.

A body counts as it arrives, so a client that announces much and sends little holds little.
"""

from typing import Final

from api import errors

MAX_REQUESTS: Final = 4096
MAX_BYTES: Final = 32 * 1024 * 1024


class Admission:
    """Counts what is under way in this process; belongs to one event loop."""

    def __init__(self, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    def admit(self) -> "Held":
        """Return what a new request holds; raises Problem 503."""
        if self.requests >= self._max_requests:
            raise errors.overloaded(f"{self.requests} requests are under way")
        self.requests += 1
        return Held(self)

    def take(self, size: int) -> None:
        """Count bytes; raises Problem 503 when there is no room for them."""
        if self.bytes + size > self._max_bytes:
            raise errors.overloaded(f"bodies of {self.bytes} bytes are under way")
        self.bytes += size

    def give_back(self, size: int) -> None:
        """Count the end of a request that held so many bytes."""
        self.requests -= 1
        self.bytes -= size


class Held:
    """What one request holds, until it is released."""

    __slots__ = ("_admission", "_bytes")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0

    def take(self, size: int) -> None:
        """Hold so many bytes more; raises Problem 503."""
        self._admission.take(size)
        self._bytes += size

    def release(self) -> None:
        """Give everything back; once."""
        self._admission.give_back(self._bytes)
