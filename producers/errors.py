"""What ends a connection, or the whole producer; and FrameError, a UsageError of recordings.

OutageError
├── FeedError            anything that ends one connection to an exchange
│   ├── StaleFeedError       nothing useful arrived for too long; the feed reconnects
│   ├── ExchangeSaidError    the exchange answered with an error that a new connection may cure
│   └── FeedRefusedError     trying again cannot help; ends the producer
└── RestError            a REST API did not give what was asked for
    ├── RestRefusedError     it refuses this request, or answers past all bounds; asking again cannot help
    └── RestAwayError        it is away, or wants no requests for a while
"""

from pulsestream.core.errors import OutageError, UsageError


class FeedError(OutageError):
    """A connection to an exchange ended."""


class StaleFeedError(FeedError):
    """No good frame arrived within the setting stale_after."""


class ExchangeSaidError(FeedError):
    """The exchange sent an error frame that concerns the whole connection."""


class FeedRefusedError(FeedError):
    """The exchange, or what stands at its address, refuses for good."""


class RestError(OutageError):
    """An exchange's REST API did not give what was asked for."""


class RestRefusedError(RestError):
    """The API refuses this request; `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RestAwayError(RestError):
    """The API is away, or wants no requests; `retry_in`: seconds after which asking again makes sense."""

    def __init__(self, message: str, retry_in: float) -> None:
        super().__init__(message)
        self.retry_in = retry_in


class FrameError(UsageError):
    """A recording cannot be read or written; the message names file, line or byte, and fault."""
