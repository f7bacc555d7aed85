"""The client and the OpenAPI document: it reaches what a tenant may call, and asks and reads as the document says.

A server on this machine answers with instances of the document's own schemas, so that no broker or database is needed;
tests/integration/test_client.py speaks to the real API.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from typing import Any, Final, TypeAlias, cast, get_type_hints
from urllib.parse import parse_qs, urlsplit

import pytest
from jsonschema import Draft202012Validator

from api.app import create_app
from api.dependencies import Services
from pulsestream.client import Client, objects
from tests.support.answering import Answer, Server, serving
from tests.support.api import EVENT, RULE

Operation: TypeAlias = tuple[str, str]
EXCEPTIONS: Final[dict[str, str]] = {}
"""Operations of a tenant that the client has not, and why. Add none without a reason."""
OTHERS: Final = {
    "health": "for operators and their machines, without a key",
    "schema registry": "Confluent's protocol, which Confluent's clients speak",
}
"""Tags of operations that are not for this client, and why."""
UNTIL: Final = "2027-01-31T12:00:00Z"
WEBHOOK: Final = {"kind": "webhook", "url": "https://example.com/alerts"}
MATCHER: Final[objects.Matcher] = {"name": "product", "op": "=~", "value": "BTC-*"}
NIGHTLY: Final[objects.Weekly] = {"days": ["mon"], "from_time": "22:30", "minutes": 60, "time_zone": "Europe/Berlin"}
CALLS: Final[list[Callable[[Client], object]]] = [
    lambda api: api.tenant.register("acme", "Acme", token="ps_invite_…"),
    lambda api: api.tenant.show(),
    lambda api: api.tenant.usage(from_="2026-01-01", to="2026-01-31"),
    lambda api: api.tenant.delete("acme"),
    lambda api: api.keys.create("desk", "viewer", expires_at=UNTIL),
    lambda api: list(api.keys.list("any")),
    lambda api: api.keys.get("k"),
    lambda api: api.keys.change("k", name="desk 2", expires_at=None),
    lambda api: api.keys.rotate("k", overlap_seconds=0),
    lambda api: api.keys.rotate("k"),
    lambda api: api.keys.revoke("k"),
    lambda api: api.kafka_credentials.create("desk"),
    lambda api: list(api.kafka_credentials.list(ended=True)),
    lambda api: api.kafka_credentials.connection()["topics"],
    lambda api: api.kafka_credentials.get("k"),
    lambda api: api.kafka_credentials.rotate("k", overlap_seconds=60),
    lambda api: api.kafka_credentials.revoke("k"),
    lambda api: api.subscriptions.list(),
    lambda api: api.subscriptions.set([("coinbase", "BTC-USD")], ["ticks"]),
    lambda api: api.rules.create(RULE),
    lambda api: api.rules.test(RULE, from_="2026-01-30T00:00:00Z", to="2026-01-31T00:00:00Z", products=["BTC-USD"]),
    lambda api: api.rules.list(),
    lambda api: api.rules.get("r"),
    lambda api: api.rules.replace("r", RULE, version=1),
    lambda api: api.rules.pause("r", version=1),
    lambda api: api.rules.resume("r"),
    lambda api: list(api.rules.versions("r")),
    lambda api: api.rules.delete("r", version=None),
    lambda api: list(api.alerts.current(state="any", rule_id="r", exchange="coinbase", product="BTC-USD")),
    lambda api: list(api.alerts.history(severity="critical", from_=UNTIL, order="asc")),
    lambda api: api.alerts.acknowledge("a", "on it"),
    lambda api: api.alerts.unacknowledge("a"),
    lambda api: api.alerts.snooze("a", UNTIL, "at lunch"),
    lambda api: api.alerts.unsnooze("a"),
    lambda api: api.channels.create("desk", WEBHOOK, matchers={"severities": ["critical"]}, group_wait="10s"),
    lambda api: api.channels.list(),
    lambda api: api.channels.get("c"),
    lambda api: api.channels.change("c", enabled=False, repeat_interval="1h"),
    lambda api: api.channels.delete("c"),
    lambda api: api.channels.test("c"),
    lambda api: list(api.channels.attempts("c", message_id="m", outcome="failed")),
    lambda api: list(api.channels.messages("c", state="failed")),
    lambda api: api.channels.resend("c", message_id="m"),
    lambda api: api.channels.resend("c", failed_since=UNTIL),
    lambda api: api.silences.create([MATCHER], "upgrade", ends_at=UNTIL),
    lambda api: api.silences.create([MATCHER], "nightly", weekly=NIGHTLY),
    lambda api: list(api.silences.list("active")),
    lambda api: api.silences.get("s"),
    lambda api: api.silences.preview([MATCHER]),
    lambda api: api.silences.end("s"),
    lambda api: list(api.dead_letters.list(reason="undecodable", order="asc")),
    lambda api: api.dead_letters.get("d"),
    lambda api: api.dead_letters.settle("replay", {"ids": ["d"], "dry_run": True}),
    lambda api: api.dead_letters.settle("discard", {"where": {}, "reason": "test data"}),
    lambda api: list(api.audit.list(action="rule.delete", from_=UNTIL)),
    lambda api: list(api.audit.export(format="csv")),
    lambda api: api.audit.verify(),
    lambda api: api.send(EVENT),
    lambda api: list(api.send_all([EVENT])),
    lambda api: list(api.ticks(product="BTC-USD", order="ingested")),
    lambda api: list(api.trades(side="buy")),
    lambda api: list(api.events(contains='{"n": 7}')),
    lambda api: list(api.stats(window="1m")),
    lambda api: list(api.bars(period="1m", fill="true")),
    lambda api: list(api.export("events", fields="event_id")),
    lambda api: api.feeds(hours=1, product="BTC-USD"),
    lambda api: api.status(),
    lambda api: api.ticket(),
    lambda api: next(api.follow(["alerts"], products=["BTC-USD"], windows=["1m"], resume="t")),
]
TYPES: Final[dict[str, type]] = {
    "RegisteredTenant": objects.Registered,
    "ShownTenant": objects.TenantStanding,
    "ShownDay": objects.DayOfUsage,
    "DeletedTenant": objects.DeletedTenant,
    "ShownKey": objects.Key,
    "MadeKey": objects.MadeKey,
    "ShownCredential": objects.KafkaCredential,
    "ShownWhole": objects.WholeKafkaCredential,
    "MadeCredential": objects.MadeKafkaCredential,
    "ShownClients": objects.KafkaClients,
    "ShownSubscription": objects.Subscription,
    "ShownRule": objects.Rule,
    "ShownTrial": objects.RuleTrial,
    "ShownTransition": objects.Transition,
    "ShownVersion": objects.RuleVersion,
    "ShownDifference": objects.Difference,
    "ShownCurrent": objects.CurrentAlert,
    "ShownSnooze": objects.Snooze,
    "ShownChannel": objects.Channel,
    "MadeChannel": objects.MadeChannel,
    "CreateChannel": objects.ChannelSettings,
    "ChangeChannel": objects.ChannelChanges,
    "ChangeKey": objects.KeyChanges,
    "WantedMatchers": objects.ChannelMatchers,
    "ShownAttempt": objects.Attempt,
    "ShownMessage": objects.Message,
    "ShownSilence": objects.Silence,
    "ShownWeekly": objects.Weekly,
    "Matcher": objects.Matcher,
    "ShownLetter": objects.DeadLetter,
    "ShownEntry": objects.AuditEntry,
    "ShownVerdict": objects.AuditVerdict,
    "ShownTicket": objects.Ticket,
}
"""Schemas of the document, and what the client calls them."""


class NoServices:
    """Stands where the services are: the document is made of routes alone."""

    def __getattr__(self, name: str) -> "NoServices":
        return self


DOCUMENT: Final[Any] = create_app(cast(Services, NoServices()), lambda: 0).openapi()
SCHEMAS: Final = DOCUMENT["components"]["schemas"]
OPERATIONS: Final[dict[Operation, Any]] = {
    (method.upper(), path): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def operation_of(method: str, target: str) -> Operation:
    """Return the operation that a request means; a path without parameters comes first."""
    asked = urlsplit(target).path
    fitting = [
        (of, path)
        for of, path in OPERATIONS
        if of == method and re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)), asked)
    ]
    return min(fitting, key=lambda operation: operation[1].count("{"))


def instance(schema: Any) -> Any:
    """Return something that fits a schema: lists are empty, what can be null is null."""
    if "$ref" in schema:
        return instance(reduce(getitem, schema["$ref"].split("/")[1:], DOCUMENT))
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            kinds = schema[choice]
            return None if {"type": "null"} in kinds else instance(kinds[0])
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: instance(one) for name, one in schema.get("properties", {}).items()}
    return {"array": [], "integer": 1, "number": 1.5, "boolean": True, "string": "x", "null": None}[
        kind[-1] if isinstance(kind, list) else kind
    ]


def answered(method: str, target: str) -> Answer:
    """Answer as the document says, in success."""
    responses = OPERATIONS[operation_of(method, target)]["responses"]
    status = min(status for status in responses if status.startswith("2"))
    contents = responses[status].get("content", {})
    if "text/event-stream" in contents:
        return {"body": b'id: t\ndata: {"type":"live","resume":"t"}\n\n'}
    content = contents.get("application/json")
    return {"status": int(status), "body": b"" if content is None else instance(content["schema"])}


@pytest.fixture(scope="module")
def asked() -> Iterator[Server]:
    """What the server was asked by every method of the client."""
    with serving(answered) as server, Client(server.url, "key", tries=1) as api:
        for call in CALLS:
            call(api)
        yield server


def test_every_operation_of_a_tenant_is_reached_or_is_an_exception(asked: Server) -> None:
    reached = {" ".join(operation_of(method, target)) for method, target, _ in asked.seen}
    meant = {
        " ".join(operation) for operation, described in OPERATIONS.items() if not OTHERS.keys() & described["tags"]
    }

    assert reached | EXCEPTIONS.keys() == meant
    assert reached & EXCEPTIONS.keys() == set()


def test_a_request_has_only_the_parameters_and_the_body_that_the_document_describes(asked: Server) -> None:
    for method, target, body in asked.seen:
        operation = operation_of(method, target)
        described = OPERATIONS[operation]
        known = {one["name"] for one in described.get("parameters", ()) if one["in"] == "query"}
        assert parse_qs(urlsplit(target).query).keys() <= known, operation
        assert bool(body) == ("requestBody" in described), operation
        if body:
            schema = described["requestBody"]["content"]["application/json"]["schema"]
            whole = {"components": DOCUMENT["components"], **schema}
            assert [each.message for each in Draft202012Validator(whole).iter_errors(json.loads(body))] == [], operation


@pytest.mark.parametrize("name", TYPES)
def test_what_the_client_gives_is_typed_as_the_document_says(name: str) -> None:
    hints = get_type_hints(TYPES[name])
    told = {
        member: _is_nullable(schema) for member, schema in SCHEMAS[name]["properties"].items()
        if name != "CreateChannel" or member not in {"name", "target"}  # which are parameters of their own
    }  # fmt: skip
    if name == "ChangeChannel":
        told["target"] = False  # null is to leave it out

    assert {member: type(None) in getattr(hint, "__args__", ()) for member, hint in hints.items()} == told


def _is_nullable(schema: Any) -> bool:
    return {"type": "null"} in schema.get("anyOf", ()) or "null" in schema.get("type", ())
