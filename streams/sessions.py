"""Fetch sessions (KIP-227) for aiokafka, which names every partition in every fetch and is answered about every one.

The broker keeps what was asked for; a request then names what has changed since, and the answer the partitions in
which something has. With thousands of tenants' partitions of which few have records at a time, that is most of what
reading costs. This stands before the client: the library's fetcher asks for everything, as it always does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.errors import for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from pulsestream.core.log import logger

PACED_FROM: Final = 100
"""Partitions of a request from which on fetches are spaced out: looking through them all costs, however few answer."""
MICROS_EACH: Final = 25
"""For each partition of a paced request, how long the broker gathers records before it answers, microseconds."""
GATHERED_BYTES: Final = 64 * 1024
"""With so many it answers at once: a backlog is not paced."""
GATHERED_FOR: Final = 0.02
"""Seconds for which the broker gathers at most because the worker is busy."""
_GAIN, _LOSS, _SHORTEST = 0.3, 0.7, 0.001
FIRST_EPOCH: Final = 0
_SESSIONLESS: Final = 0
_LAST_EPOCH: Final = 2**31 - 1
_WITH_SESSIONS: Final = 7
"""The version of the fetch protocol from which on there are sessions; a broker of before is asked for everything."""

_log = logger(__name__)


class Gathering:
    """How long the broker may gather records before it answers: for as long as they would lie here anyway.

    A fetch is asked for when the one before is handed on. Answered at once, it would lie until that one is folded, and
    what the broker gets meanwhile would wait for the next. Set in one thread and read in another.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def lay(self, seconds: float) -> None:
        """Take note of how long records lay here because those before were being folded; 0 when they did not."""
        if seconds > 0:
            self.seconds = min(self.seconds + _GAIN * seconds, GATHERED_FOR)
        else:
            self.seconds *= _LOSS


class FetchSessions:
    """The client of a fetcher, with a session on each broker. On the consumer's event loop.

    With another `assignment` sessions begin anew: it knows nothing yet of what the broker has told.
    """

    def __init__(  # AIOKafkaClient has no types
        self, client: Any, assignment: Callable[[], object], coming: Callable[[], None] = lambda: None
    ) -> None:
        self._client = client
        self._coming = coming
        self._sessions: dict[int, Session] = {}
        self._assignment = assignment
        self._served: object = None
        self.gathering = Gathering()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        """Send a request; of a fetch only what has changed since the last one (client.py:447)."""
        if not isinstance(request, FetchRequest):
            return await self._client.send(node_id, request, **options)
        assignment = self._assignment()
        if assignment is not self._served:
            self._sessions, self._served = (
                {node: session.successor() for node, session in self._sessions.items()},
                assignment,
            )
        session = self._sessions.setdefault(node_id, Session())
        asked = session.ask(request, self.gathering.seconds)
        try:
            response = await self._client.send(node_id, asked, **options)
        except BaseException:  # cancelled, too: nobody knows whether the broker has seen it
            session.doubt()
            raise
        session.answered(response)
        if any(response.topics):
            self._coming()
        return response

    def unchanged_at(self, tp: TopicPartition) -> float:
        """Return when a broker last said, if only by naming it not, where a partition ends; 0: never.

        Seconds since 1970. May be asked on another thread.
        """
        return max((session.answered_at for session in self._sessions.values() if session.speaks_of(tp)), default=0.0)


class Session:
    """What one broker knows of our partitions."""

    def __init__(self) -> None:
        self.id = _SESSIONLESS
        self.epoch = FIRST_EPOCH
        #: Offsets that the broker holds for this session, and when it last answered (seconds since 1970).
        self.held: dict[TopicPartition, int] = {}
        self.answered_at = 0.0
        self._asked: dict[TopicPartition, int] = {}
        self._failing: set[TopicPartition] = set()

    def ask(self, request: FetchRequest, gather: float = 0.0) -> "SessionRequest":
        """Return what to send in place of a request that names every partition; the broker may `gather` (seconds)."""
        wanted = {
            TopicPartition(topic, partition): offset
            for topic, partitions in request.topics
            for partition, offset, _ in partitions
        }
        self._asked = wanted
        if self.epoch == FIRST_EPOCH:
            return SessionRequest(request, (self.id, FIRST_EPOCH), Delta(request.topics, [], len(wanted)), gather)
        held = self.held
        changed = [
            (topic, named)
            for topic, partitions in request.topics
            if (named := [one for one in partitions if held.get(TopicPartition(topic, one[0])) != one[1]])
        ]
        forgotten: dict[str, list[int]] = {}
        for topic, partition in held.keys() - wanted.keys():
            forgotten.setdefault(topic, []).append(partition)
        return SessionRequest(request, (self.id, self.epoch), Delta(changed, [*forgotten.items()], len(wanted)), gather)

    def answered(self, response: Any) -> None:
        """Take an answer in: go on with the session, or begin another one where the broker has lost it."""
        error = getattr(response, "error_code", 0)
        if error:
            _log.debug("a fetch session begins anew", reason=for_code(error).__name__)
            self.doubt()
            return
        self.id = getattr(response, "session_id", _SESSIONLESS)
        self.epoch = FIRST_EPOCH if self.id == _SESSIONLESS else self.epoch % _LAST_EPOCH + 1
        self.held = self._asked
        self.answered_at = time.time()
        self._failing = {
            TopicPartition(topic, partition)
            for topic, partitions in response.topics
            for partition, code, *_ in partitions
            if code
        }

    def speaks_of(self, tp: TopicPartition) -> bool:
        """Tell whether the last answer says something of a partition, be it that nothing has changed."""
        return tp in self.held and tp not in self._failing

    def doubt(self) -> None:
        """Begin a new session with the next request, which ends the old one."""
        self.epoch = FIRST_EPOCH
        self.held = {}

    def successor(self) -> "Session":
        """Return a session that ends this one when it begins."""
        session = Session()
        session.id = self.id
        return session


@dataclass(frozen=True, slots=True)
class Delta:
    """What a request says anew: partitions with offset and size, those no longer asked for, and how many are asked."""

    topics: list[tuple[str, list[tuple[int, int, int]]]]
    forgotten: list[tuple[str, list[int]]]
    count: int


class SessionRequest(FetchRequest):  # type: ignore[misc] # it has no types
    """A request within a session (its id and epoch), in place of a whole one.

    The library builds it for the version that the broker speaks; the fields of a session are put in here.
    """

    def __init__(self, whole: FetchRequest, session: tuple[int, int], delta: Delta, gather: float) -> None:
        wait, least = whole._max_wait_ms, whole._min_bytes  # noqa: SLF001 - a builder's fields
        if delta.count > PACED_FROM:
            gather = max(gather, delta.count * MICROS_EACH / 1e6, wait / 1000)
        if gather >= _SHORTEST:
            wait, least = int(gather * 1000), GATHERED_BYTES
        super().__init__(wait, least, whole._max_bytes, whole._isolation_level, delta.topics, whole._rack_id)  # noqa: SLF001 - likewise
        self._whole = whole
        self._session = session
        self._forgotten = delta.forgotten

    def build(self, request_struct_class: Any) -> Any:
        """Return the request to send (protocol/fetch.py:564 leaves sessions out)."""
        if request_struct_class.API_VERSION < _WITH_SESSIONS:
            return self._whole.build(request_struct_class)
        built = super().build(request_struct_class)
        built.session_id, built.session_epoch = self._session
        built.forgotten_topics_data = self._forgotten
        return built
