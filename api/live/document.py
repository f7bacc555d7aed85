"""What `/asyncapi.json` says of the live view: the client's message, the server's, and the codes of a close.

Schemas come from the types in `messages` and from the records' Avro schemas, examples from what makes the messages, so
that neither can say anything else than what is sent. Pure.
"""

from typing import Any, Final

import msgspec

from api.live.messages import (
    MAX_MESSAGE,
    SAID,
    Alerts,
    Bye,
    Close,
    Gap,
    Live,
    Position,
    Snapshot,
    Stats,
    Status,
    Subscribe,
    Ticks,
    alerts_message,
    bye_message,
    gap_message,
    live_message,
    position_message,
    rows_message,
    snapshot_message,
    status_message,
)
from api.live.rows import row_text
from api.live.websocket import FIRST_WITHIN, PATH, PING_EVERY, PONG_WITHIN
from pulsestream.core.clock import parse_rfc3339
from schemas.records import Alert, AsOf, PricePoint, Stat, Tick
from schemas.render_schema import rendered_schema

Json = dict[str, Any]

SERVER: Final = "live"
CHANNEL: Final = "live"
_RECORDS: Final = ("tick", "stat", "alert")
_CLOSES: Final = {
    Close.RESTART: "the process stops: connect again with the token",
    Close.TRY_AGAIN: "the process is full, or the database is away: connect again later",
    Close.BAD_MESSAGE: "the first message is not one, or a second one came",
    Close.UNAUTHORIZED: "the key is missing, unknown, expired or revoked",
    Close.FORBIDDEN: "the key's role may not read data, or the tenant is suspended",
    Close.NO_MESSAGE: f"no message within {FIRST_WITHIN:.0f} s",
    Close.BAD_TOKEN: "the resume token is not one, or another tenant's: leave it out",
    Close.TOO_MANY: "the tenant's live connections are in use, or it asks too often",
}
_KEY: Final = "ps_live_<id>_<secret>_<checksum>"
_TOKEN: Final = "WyJhY21lIiwiVGgza…"  # noqa: S105 - an example
_AT: Final = parse_rfc3339("2026-01-31T12:00:00Z")
_TICK: Final = Tick(
    event_id="coinbase:BTC-USD:17",
    exchange="coinbase",
    product="BTC-USD",
    sequence=17,
    price=61902.5,
    exchange_time=_AT,
    received_time=_AT,
)
_STAT: Final = Stat(
    event_id="coinbase:BTC-USD:1m:1769860800000000:trades",
    exchange="coinbase",
    product="BTC-USD",
    window="1m",
    at=_AT,
    basis="trades",
    count=42,
    mean=61899.75,
    as_of=AsOf(topic_id="Th3kV8sLq2ZxYb", partition=0, offset=1041),
    revision=1,
)
_ALERT: Final = Alert(
    alert_id="019c1f6e-8f2a-7c31-9d55-0c1f6e8f2a7c:1:coinbase:BTC-USD:firing:1769860800000000",
    seq=2,
    rule_id="019c1f6e-8f2a-7c31-9d55-0c1f6e8f2a7c",
    rule_name="btc-above-60000",
    rule_version=1,
    exchange="coinbase",
    product="BTC-USD",
    state="firing",
    at=_AT,
    value=61902.5,
    threshold=60000.0,
    reason="price 61902.5 is above 60000",
    severity="warning",
    labels={"desk": "spot"},
    last_prices=[PricePoint(time=_AT, price=61902.5)],
)
EXAMPLES: Final[dict[type, str]] = {
    Subscribe: msgspec.json.encode(Subscribe(_KEY, ("ticks", "alerts"), ["BTC-USD"])).decode(),
    Snapshot: snapshot_message("ticks", [row_text(_TICK)]),
    Live: live_message(_TOKEN),
    Ticks: rows_message("ticks", [row_text(_TICK)]),
    Stats: rows_message("stats", [row_text(_STAT)]),
    Alerts: alerts_message([row_text(_ALERT)], _TOKEN),
    Position: position_message(_TOKEN),
    Gap: gap_message(12),
    Status: status_message("away"),
    Bye: bye_message(Close.RESTART, "the process stops"),
}
"""Of each message one, as it is sent."""
_DESCRIPTION: Final = (
    f"A WebSocket. The client sends one message, of at most {MAX_MESSAGE // 1024} KiB and within {FIRST_WITHIN:.0f} s: "
    "an API key, and what it wants to see. Then come the snapshot, `live`, and what is new; alerts come once and in "
    "order, over reconnects with the newest `resume`. `GET /api/v1/live/events` gives the same messages as Server-Sent "
    f"Events. The server pings every {PING_EVERY:.0f} s and cuts who does not answer within {PONG_WITHIN:.0f} s. "
    "Members and types may be added: pass over those that you do not know."
)


def server() -> Json:
    """Return the API as a server of AsyncAPI."""
    return {
        "host": "{api}",
        "protocol": "wss",
        "description": "The API; on the machine of `make up` without TLS (ws). The key is in the first message.",
        "variables": {"api": {"default": "127.0.0.1:8000", "description": "host:port, given by the operator"}},
    }


def channel() -> Json:
    """Return the WebSocket as a channel."""
    return {
        "address": PATH,
        "title": "live",
        "description": _DESCRIPTION,
        "servers": [{"$ref": f"#/servers/{SERVER}"}],
        "messages": {_name(kind): {"$ref": f"#/components/messages/{_name(kind)}"} for kind in (Subscribe, *SAID)},
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
        "x-close-codes": {str(int(code)): meaning for code, meaning in _CLOSES.items()},
    }


def operations() -> Json:
    """Return what the API does on the channel."""
    return {
        "receiveSubscribe": _operation("receive", "The client says who it is and what it wants to see.", (Subscribe,)),
        "sendLive": _operation("send", "Ticks, statistics and alerts of the tenant, as they come.", SAID),
    }


def messages() -> Json:
    """Return every message by its name."""
    return {
        _name(kind): {
            "name": _name(kind),
            "title": kind.__name__,
            "summary": " ".join((kind.__doc__ or "").split()),
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
            "examples": [{"name": _name(kind), "payload": msgspec.json.decode(text)}],
        }
        for kind, text in EXAMPLES.items()
    }


def schemas() -> Json:
    """Return the messages' schemas, and those of the rows in them."""
    _, made = msgspec.json.schema_components(EXAMPLES, ref_template="#/components/schemas/{name}")
    for kind in SAID:
        del made[kind.__name__]["additionalProperties"]  # a client passes over what it does not know
    return {**made, **{record: rendered_schema(record) for record in _RECORDS}}


def _operation(action: str, summary: str, kinds: tuple[type, ...]) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{CHANNEL}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{CHANNEL}/messages/{_name(kind)}"} for kind in kinds],
    }


def _name(kind: type) -> str:
    """Return a name that no record has: the alert of a topic is another message than the alerts of the live view."""
    return "live" if kind is Live else f"live-{kind.__name__.lower()}"
