"""When a group has something to say, and what: as Alertmanager's notification pipeline does it. Pure.

A message tells of all alerts of a group that fire, and of those that ended since one told of them. It is made when
there is news, and again after the repeat interval while anything fires. What was told is what was delivered: a message
that did not arrive leaves its news to the next one. Unlike there, an alert that fired and ended before any message is
told of, since prices cross a threshold for seconds only; and one that fires anew is news, though it was told of before.
Of a muted alert nothing is said; once it is muted no more, what it says then is news. One that ended meanwhile, and
was never told of, is forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from pulsestream.core.clock import format_rfc3339, to_micros
from schemas.notification import ALERT_FIRING, ALERT_RESOLVED, Channel, Data, Notification, ShownAlert
from sinks.notifier.matching import FIRING, RESOLVED
from sinks.notifier.wording import words

MOST: Final = 100
"""Alerts in one message."""


@dataclass(frozen=True, slots=True)
class Held:
    """An alert of a group: its newest episode and state, those that were told last, and whether nobody is told now."""

    key: str
    episode: str
    state: str
    shown: ShownAlert
    firings: int
    told_episode: str | None
    told_state: str | None
    muted: bool = False

    def is_news(self, *, send_resolved: bool) -> bool:
        """Say whether the channel has to be told of it."""
        if self.told_episode != self.episode:
            return True
        return self.state != self.told_state and (self.state == FIRING or send_resolved)


@dataclass(frozen=True, slots=True)
class Group:
    """A group of a channel. `told_at` None: no message of it was delivered yet."""

    tenant: str
    channel: Channel
    key: str
    labels: dict[str, str]
    told_at: datetime | None
    group_interval: float
    repeat_interval: float
    send_resolved: bool


Item = tuple[str, str, str, int]
"""Of an alert in a message: key, episode, state, and the firings that it tells of."""


@dataclass(frozen=True, slots=True)
class Flush:
    """What a look at a group gives. `again` None: look when there is news. `done`: keys of alerts to forget."""

    message: Notification | None
    told: tuple[Item, ...]
    again: datetime | None
    done: tuple[str, ...] = ()


def flush(group: Group, alerts: Sequence[Held], now: datetime) -> Flush:
    """Return the message that a group has to send, if any, and when to look at it again."""
    heard = [held for held in alerts if not held.muted]
    news = [held for held in heard if held.is_news(send_resolved=group.send_resolved)]
    firing = [held for held in heard if held.state == FIRING]
    interval = now + timedelta(seconds=group.group_interval)
    unmuting = interval if any(held.muted and not _is_over(held) for held in alerts) else None
    repeat_at = None if group.told_at is None else group.told_at + timedelta(seconds=group.repeat_interval)
    due = bool(firing) and repeat_at is not None and repeat_at <= now
    if not news and not due:
        done = tuple(held.key for held in alerts if held.state == RESOLVED and (not held.muted or _is_over(held)))
        return Flush(None, (), unmuting or (repeat_at if firing else None), done)
    known = [held for held in firing if held not in news]
    chosen = sorted([*news, *known][:MOST], key=_order)
    again = interval if len(news) > MOST else unmuting
    told = tuple((held.key, held.episode, held.state, held.firings) for held in chosen)
    left = len(news) + len(known) - len(chosen)
    return Flush(_message(group, chosen, left, now, repeat=not news), told, again)


def _is_over(held: Held) -> bool:
    """Say whether an alert has ended before anybody was told that it fires."""
    return held.state == RESOLVED and held.told_episode != held.episode


def _order(held: Held) -> tuple[bool, str, str]:
    return held.state != FIRING, held.shown.started_at, held.key


def _message(group: Group, chosen: Sequence[Held], more: int, now: datetime, *, repeat: bool) -> Notification:
    alerts = [msgspec.structs.replace(held.shown, firings=held.firings) for held in chosen]
    is_firing = any(held.state == FIRING for held in chosen)
    data = Data(
        tenant=group.tenant,
        channel=group.channel,
        text="",
        status="firing" if is_firing else "resolved",
        repeat=repeat,
        group=group.labels,
        alerts=alerts,
        more=more,
    )
    data = msgspec.structs.replace(data, text=words(data))
    return Notification(ALERT_FIRING if is_firing else ALERT_RESOLVED, format_rfc3339(to_micros(now)), data)
