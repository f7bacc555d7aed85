"""Silences and maintenance windows over the HTTP API: what was written on the command line, and what there is."""

import json
import re
from collections.abc import Sequence
from datetime import timedelta
from itertools import islice
from typing import Any, Final, TextIO, cast

from pulsestream.client import Client
from pulsestream.client.objects import Matcher, Silence, Weekly
from pulsestream.commands.shown import listing, printable
from pulsestream.commands.times import parse_span, parse_time
from pulsestream.core.clock import Clock, format_rfc3339
from pulsestream.core.errors import UsageError

_MATCHER: Final = re.compile(r"([a-z_]+|labels\.[A-Za-z0-9_]+)(=~|!~|!=|=)(.*)", re.DOTALL)
_WEEKLY: Final = re.compile(r"([a-z,]+)@([0-9]{2}:[0-9]{2})")
_COLUMNS: Final = ("silence_id", "state", "matchers", "starts_at", "ends_at", "weekly", "comment")
_ALERTS: Final = ("rule_name", "product", "exchange", "state", "severity", "alert_id")
_MINUTE: Final = timedelta(minutes=1)


def matchers_of(texts: Sequence[str]) -> list[Matcher]:
    """Return the matchers in texts such as product=~BTC-*; raises UsageError."""
    found: list[Matcher] = []
    for text in texts:
        match = _MATCHER.fullmatch(text)
        if match is None:
            raise UsageError(
                f"--match {text!r} is not NAME=VALUE (or != =~ !~) with a name of rule_id, rule_name, exchange, "
                f"product, severity, labels.NAME"
            )
        found.append(cast(Matcher, {"name": match[1], "op": match[2], "value": match[3]}))
    return found


def end_of(option: str, until: str | None, span: str | None, clock: Clock) -> str | None:
    """Return the end that was asked for, None for none; raises UsageError where it is given twice."""
    if until is not None and span is not None:
        raise UsageError(f"{option} and --for both say until when: give one of them")
    if until is not None:
        return format_rfc3339(parse_time(option, until))
    return None if span is None else format_rfc3339(clock() + parse_span("--for", span) // timedelta(microseconds=1))


def weekly_of(text: str, span: str | None, zone: str) -> Weekly:
    """Return a maintenance window such as sat,sun@22:30 for a span by the clock of a zone; raises UsageError."""
    match = _WEEKLY.fullmatch(text)
    if match is None:
        raise UsageError(f"--weekly {text!r} is not DAYS@TIME, such as sat,sun@22:30")
    if span is None:
        raise UsageError("--weekly says when the window begins; say with --for how long it holds, such as --for 3h")
    minutes = parse_span("--for", span) // _MINUTE
    return {"days": match[1].split(","), "from_time": match[2], "minutes": minutes, "time_zone": zone}


def create(api: Client, matchers: Sequence[Matcher], comment: str, **times: Any) -> Silence:
    """Make a silence, or a maintenance window; raises UsageError where it would have neither end nor week."""
    if times["ends_at"] is None and times["weekly"] is None:
        raise UsageError("a silence ends: say --for 2h, --until TIME, or --weekly DAYS@TIME for a maintenance window")
    return api.silences.create(matchers, comment, **times)


def told(silence: Silence) -> str:
    """Return what to show of a silence that was made."""
    end = silence["ends_at"] or "it is ended"
    return f"silence {silence['silence_id']} is {silence['state']}, until {end}"


def preview(api: Client, matchers: Sequence[Matcher], *, as_json: bool, out: TextIO) -> None:
    """Write what is pending or firing now and would be silenced."""
    listing(api.silences.preview(matchers), _ALERTS, as_json=as_json, out=out)


def listed(api: Client, state: str, limit: int, *, as_json: bool, out: TextIO) -> None:
    """Write the silences of a state, the newest first."""
    found = islice(api.silences.list(state), limit or None)
    if as_json:
        listing(found, _COLUMNS, as_json=True, out=out)
    else:
        listing([_readable(one) for one in found], _COLUMNS, as_json=False, out=out)


def show(api: Client, silence_id: str) -> str:
    """Return a silence as JSON."""
    return json.dumps(api.silences.get(silence_id), ensure_ascii=False, indent=2)


def end(api: Client, silence_id: str) -> str:
    """End a silence now; return what to show."""
    api.silences.end(silence_id)
    return printable(f"silence {silence_id} is over: what fires is told of again")


def _readable(silence: Silence) -> dict[str, Any]:
    week = silence["weekly"]
    matchers = " ".join(f"{one['name']}{one['op']}{one['value']}" for one in silence["matchers"])
    weekly = week and f"{','.join(week['days'])}@{week['from_time']} for {week['minutes']}m {week['time_zone']}"
    return {**silence, "matchers": matchers, "weekly": weekly}
