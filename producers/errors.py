"""What ends a connection, or the whole producer.

OutageError
└── FeedError            anything that ends one connection to an exchange
    ├── StaleFeedError       nothing useful arrived for too long; the feed reconnects
    ├── ExchangeSaidError    the exchange answered with an error that a new connection may cure
    └── FeedRefusedError     trying again cannot help; ends the producer
UsageError
└── FrameError           a recording cannot be read or written
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


class FrameError(UsageError):
    """A recording cannot be read or written; the message names file, line or byte, and fault."""
