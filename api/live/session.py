"""What one client has to be told, message by message. Pure: the shell asks for the next one when the last is sent.

Memory of a client: its positions, the keys that it has not been told, at most one part of the topic that it reads for
itself, and a few words of the server.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from api.live.alert_log import AlertLane
from api.live.latest import Batch, Lane
from api.live.messages import BrokerState, gap_message, live_message, status_message

_WORDS: Final = 16
"""Messages of the server itself that may wait."""


class Session:
    """One client."""

    def __init__(self, lanes: Sequence[Lane], alerts: AlertLane | None, snapshot: Iterable[str] = ()) -> None:
        """Begin with the `snapshot` of alerts, then those of the `lanes`."""
        self.alerts = alerts
        self._lanes = {lane.dataset: lane for lane in lanes}
        self._words: deque[str] = deque(snapshot)
        self._status: str | None = None
        self._is_live = False
        self._is_reminded = False
        self._turn = 0

    def offer(self, batch: Batch) -> bool:
        """Note rows that came; returns whether there is something to take."""
        lane = self._lanes.get(batch.dataset)
        return lane is not None and lane.offer(batch)

    def tell_status(self, broker: BrokerState) -> None:
        """Note whether the broker can be read; only the newest word waits."""
        self._status = status_message(broker)

    def tell_gap(self, records: int) -> None:
        """Note that alerts were gone before the client could read them."""
        if len(self._words) < _WORDS:
            self._words.append(gap_message(records))

    def lacking(self) -> Mapping[int, tuple[int, int]]:
        """Return the alerts that have to be read from the topic for this client."""
        return {} if self.alerts is None else self.alerts.lacking()

    def take(self) -> str | None:
        """Return the next message, which counts as sent; None where there is nothing to say now."""
        if self._words:
            return self._words.popleft()
        if self._status is not None:
            text, self._status = self._status, None
            return text
        return self._take_rows() or self._take_live() or self._take_position()

    def remind(self) -> None:
        """Tell the resume token when there is nothing else to say, if it has moved since it was told last."""
        self._is_reminded = True

    def waiting(self) -> int:
        """Return how many keys and words are held for this client."""
        return len(self._words) + sum(len(lane) for lane in self._lanes.values())

    def _take_rows(self) -> str | None:
        """Take from alerts and from each dataset in turn, so that much of one leaves room for the others."""
        sources: list[AlertLane | Lane] = [*([self.alerts] if self.alerts else ()), *self._lanes.values()]
        for step in range(len(sources)):
            place = (self._turn + step) % len(sources)
            text = sources[place].take()
            if text is not None:
                self._turn = (place + 1) % len(sources)
                return text
        return None

    def _take_live(self) -> str | None:
        if self._is_live or self.lacking() or any(lane.is_snapshot for lane in self._lanes.values()):
            return None
        self._is_live = True
        return live_message(None if self.alerts is None else self.alerts.token())

    def _take_position(self) -> str | None:
        is_due, self._is_reminded = self._is_reminded and self._is_live, False
        return self.alerts.position() if is_due and self.alerts is not None else None
