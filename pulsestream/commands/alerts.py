"""Alerts as they stand and as they were, and the marks that people put on them, over the HTTP API."""

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final, TextIO

from pulsestream.client import Client
from pulsestream.client.objects import CurrentAlert
from pulsestream.commands.shown import listing, printable

_COLUMNS: Final = ("state", "at", "severity", "rule_name", "exchange", "product", "reason", "muted", "alert_id")
_HISTORY: Final = ("at", "state", "severity", "rule_name", "exchange", "product", "value", "reason")


def listed(api: Client, filters: Mapping[str, Any], limit: int, *, as_json: bool, out: TextIO) -> None:
    """Write how each rule stands for each product."""
    listing(islice(api.alerts.current(**filters), limit or None), _COLUMNS, as_json=as_json, out=out)


def history(api: Client, filters: Mapping[str, Any], limit: int, *, as_json: bool, out: TextIO) -> None:
    """Write transitions, the newest first."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    found = api.alerts.history(page=min(limit or 1000, 1000), **wanted)
    listing(islice(found, limit or None), _HISTORY, as_json=as_json, out=out)


def told(alert: CurrentAlert, *, as_json: bool) -> str:
    """Return what to show of an alert that was marked."""
    if as_json:
        return json.dumps(alert, ensure_ascii=False)
    muted = f"nobody is told of it: {alert['muted']}" if alert["muted"] else "people are told of it"
    return printable(f"{alert['rule_name']} for {alert['product']} on {alert['exchange']}, {alert['state']}; {muted}")
