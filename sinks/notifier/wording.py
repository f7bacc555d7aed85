"""Messages about alerts in words, for people: one line an alert. Pure.

What rules and labels say comes from tenants, and is put on one line each, without characters that do not show.
"""

from typing import Final

from schemas.notification import Data, ShownAlert

LINES: Final = 20
"""Alerts that are written out."""
_SIGNS: Final = {"critical": "CRITICAL", "warning": "WARNING", "info": "INFO"}


def words(data: Data) -> str:
    """Return what a message says, its headline first."""
    lines = [headline(data), *(_line(alert) for alert in data.alerts[:LINES])]
    left = len(data.alerts) - LINES + data.more if len(data.alerts) > LINES else data.more
    if left:
        lines.append(f"and {left} more")
    return "\n".join(lines)


def headline(data: Data) -> str:
    """Return a message's subject: what happened, in one line."""
    firing = sum(alert.status == "firing" for alert in data.alerts)
    ended = len(data.alerts) - firing
    count = " and ".join(
        part for part in (f"{firing} firing" if firing else "", f"{ended} resolved" if ended else "") if part
    )
    first = data.alerts[0]
    named = f"{first.rule_name} {first.product}" if len(data.alerts) == 1 else _common(data)
    again = "still " if data.repeat else ""
    return one_line(f"[{_severity(data)}] {again}{count}: {named}")


def one_line(text: str) -> str:
    """Return a text without line ends and other characters that do not show, and with single blanks."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _severity(data: Data) -> str:
    worst = next((name for name in _SIGNS if any(alert.severity == name for alert in data.alerts)), "info")
    return _SIGNS[worst]


def _common(data: Data) -> str:
    names = dict.fromkeys(alert.rule_name for alert in data.alerts)
    shown = ", ".join(list(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more rules"  # noqa: PLR2004 - as many as shown


def _line(alert: ShownAlert) -> str:
    where = alert.product if alert.exchange == "*" else f"{alert.product} on {alert.exchange}"
    since = f"since {alert.started_at}" if alert.ended_at is None else f"{alert.started_at} to {alert.ended_at}"
    times = f", fired {alert.firings} times" if alert.firings > 1 else ""
    return one_line(f"{alert.status} {alert.rule_name}: {where}, {alert.reason} ({since}{times})")
