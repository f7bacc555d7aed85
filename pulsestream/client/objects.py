"""What a tenant has besides rows, as the API gives it. Times are RFC 3339 text in UTC with microseconds."""

from typing import Any, Literal, TypedDict

Role = Literal["owner", "admin", "viewer"]


class Acknowledgement(TypedDict):
    """Who took note of an alert, and when."""

    at: str
    by: str
    comment: str | None


class Snooze(Acknowledgement):
    """Who does not want to hear of a rule for one product, and until when."""

    until: str


class CurrentAlert(TypedDict):
    """How a rule stands for one product; `muted`: why nobody is told of it, None where they are."""

    alert_id: str
    rule_id: str
    rule_name: str
    rule_version: int
    exchange: str
    product: str
    state: str
    at: str
    value: float | None
    threshold: float | None
    reason: str
    severity: str
    labels: dict[str, str]
    window: str | None
    muted: str | None
    acknowledged: Acknowledgement | None
    snoozed: Snooze | None


class Subscription(TypedDict):
    """A product that the tenant gets."""

    exchange: str
    product: str
    datasets: list[str]
    since: str


class Rule(TypedDict):
    """The newest version of a rule."""

    rule_id: str
    version: int
    name: str
    enabled: bool
    definition: dict[str, Any]
    created_at: str
    created_by: str
    effective_at: str | None


class Difference(TypedDict):
    """One place where two versions of a rule differ, as a JSON pointer; None: nothing stands there."""

    pointer: str
    before: Any
    after: Any


class RuleVersion(TypedDict):
    """A version of a rule: what it did, who made it, and when it held."""

    version: int
    change: Literal["created", "changed", "paused", "resumed", "deleted"]
    differences: list[Difference]
    definition: dict[str, Any]
    created_at: str
    created_by: str
    effective_at: str | None
    ended_at: str | None


class Transition(TypedDict):
    """A transition that a rule would have made."""

    rule: str
    product: str
    state: Literal["pending", "firing", "resolved", "inactive"]
    at: str
    value: float | None
    reason: str
    exchange: str
    threshold: float | None
    window: str | None
    severity: str
    labels: dict[str, str]


class TrialSummary(TypedDict):
    """What transitions come to."""

    fired: int
    would_notify: int
    firing_seconds: float
    longest_seconds: float
    firing_at_end: int


class TrialRecords(TypedDict):
    """The records that a rule was tried on; `left_out`: how many of them the platform drops, and why."""

    count: int
    first: str | None
    last: str | None
    left_out: dict[str, int]


RuleTrial = TypedDict(
    "RuleTrial",
    {
        "from": str,
        "to": str,
        "transitions": list[Transition],
        "count": int,
        "truncated": bool,
        "summary": TrialSummary,
        "records": TrialRecords,
    },
)
"""What a rule would have done; where it is `truncated`, there are more transitions than are told."""


class Registered(TypedDict):
    """A new tenant and its first key, which is shown this once."""

    tenant: str
    name: str
    tier: str
    api_key: str
    key_id: str
    role: str


class Quota(TypedDict):
    """How many of something the tenant may have (None: any number), and has."""

    limit: int | None
    use: int


class Quotas(TypedDict):
    """What the tenant may have a number of."""

    products: Quota
    rules: Quota
    keys: Quota
    channels: Quota
    kafka_credentials: Quota


class Rates(TypedDict):
    """What the tenant may do in a second; None: as often as it likes."""

    requests: int | None
    events: int | None


class TenantStanding(TypedDict):
    """The tenant of the key, its limits and how much of them is in use."""

    tenant: str
    name: str
    tier: str
    status: str
    created_at: str
    rates: Rates
    quotas: Quotas
    retention_days: int | None


class DayOfUsage(TypedDict):
    """What was used on a day (UTC)."""

    day: str
    requests: int
    events: int
    bytes: int
    refused: int


class DeletedTenant(TypedDict):
    """A tenant that is being deleted; until `delete_after` an operator can restore it."""

    tenant: str
    status: str
    delete_after: str


class Key(TypedDict):
    """An API key, without its text: nobody can see that again."""

    id: str
    name: str
    role: Role
    state: Literal["active", "expired", "revoked"]
    created_at: str
    created_by: str | None
    expires_at: str | None
    revoked_at: str | None
    replaced_by: str | None
    last_used_at: str | None


class MadeKey(Key):
    """A new key with its text, which is shown this once."""

    api_key: str


class KeyChanges(TypedDict, total=False):
    """What to change of a key; `expires_at` None: it does not end."""

    name: str
    expires_at: str | None


class KafkaTopic(TypedDict):
    """A topic of the tenant, and what may be done with it: read, write."""

    topic: str
    dataset: str
    status: Literal["provisioning", "active", "refused"]
    detail: str | None
    may: list[str]


class KafkaConnection(TypedDict):
    """What every Kafka client of the tenant needs to know of the broker."""

    bootstrap_servers: str
    security_protocol: str
    sasl_mechanism: str
    group_prefix: str
    topics: list[KafkaTopic]


class KafkaClients(TypedDict):
    """Ready to use: a program for confluent-kafka, a command line of kcat, properties for Java."""

    python: str
    kcat: str
    java: str


class KafkaCredential(TypedDict):
    """A login to the broker, without its password: nobody can see that again."""

    id: str
    username: str
    name: str
    state: Literal["provisioning", "active", "ending", "revoked", "expired", "lost"]
    created_at: str
    created_by: str
    expires_at: str | None
    active_at: str | None
    revoked_at: str | None
    replaced_by: str | None


class WholeKafkaCredential(KafkaCredential):
    """A login with all that a client needs but the password."""

    connection: KafkaConnection
    clients: KafkaClients


class MadeKafkaCredential(WholeKafkaCredential):
    """A new login with its password, which is shown this once."""

    password: str


class ChannelMatchers(TypedDict, total=False):
    """What an alert has to be for a channel; every list that is not empty has to hold its value."""

    severities: list[Literal["info", "warning", "critical"]]
    rule_ids: list[str]
    exchanges: list[str]
    products: list[str]
    labels: dict[str, list[str]]


class ChannelSettings(TypedDict, total=False):
    """How a channel gathers alerts into messages, and which; times are written as 10s, 1m, 4h."""

    matchers: ChannelMatchers
    group_by: list[str]
    group_wait: str
    group_interval: str
    repeat_interval: str
    send_resolved: bool


class ChannelChanges(ChannelSettings, total=False):
    """What to change of a channel; `target` is of the same kind, and whole."""

    name: str
    target: dict[str, Any]
    enabled: bool


class Channel(TypedDict):
    """Where alerts go, without its secret; `state` disabled: by the notifier, see `disabled_reason`."""

    id: str
    name: str
    target: dict[str, Any]
    matchers: ChannelMatchers
    group_by: list[str]
    group_wait: str
    group_interval: str
    repeat_interval: str
    send_resolved: bool
    state: Literal["active", "paused", "disabled"]
    disabled_reason: str | None
    failing_since: str | None
    created_by: str
    created_at: str


class MadeChannel(Channel):
    """A new channel; the secret signs a webhook's messages, and is shown this once."""

    secret: str | None


class Attempt(TypedDict):
    """An attempt to deliver a message."""

    message_id: str
    type: str
    number: int
    at: str
    seconds: float
    outcome: Literal["delivered", "failed"]
    status: int | None
    error: str | None
    response: str | None


class Message(TypedDict):
    """A message to a channel, and what became of it."""

    id: str
    type: str
    state: Literal["waiting", "delivered", "failed", "superseded", "muted"]
    detail: str | None
    attempts: int
    created_at: str
    next_at: str | None
    settled_at: str | None
    body: dict[str, Any]


class Matcher(TypedDict):
    """What has to hold for an alert; =~ and !~ compare with a glob."""

    name: str
    op: Literal["=", "!=", "=~", "!~"]
    value: str


class Weekly(TypedDict):
    """When a maintenance window comes back: on days such as "mon", from "22:30" for so many minutes."""

    days: list[str]
    from_time: str
    minutes: int
    time_zone: str


class Silence(TypedDict):
    """Which alerts nobody is told of, and until when; with `weekly` a maintenance window."""

    silence_id: str
    state: Literal["active", "pending", "expired"]
    matchers: list[Matcher]
    starts_at: str
    ends_at: str | None
    weekly: Weekly | None
    comment: str
    created_at: str
    created_by: str
    expired_at: str | None
    expired_by: str | None


class DeadLetter(TypedDict):
    """A record that was refused."""

    id: str
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    key: str | None
    size: int | None
    first_seen: str
    state: Literal["open", "replayed", "discarded"]
    replay_of: str | None
    replays: int
    settled_at: str | None
    settled_by: str | None
    settled_reason: str | None


class Actor(TypedDict):
    """Whose key it was."""

    id: str | None
    role: str | None


class Denial(TypedDict):
    """Why access was denied, and how often since the row before that tells of the same."""

    reason: str
    permission: str | None
    times: int


class AuditEntry(TypedDict):
    """A row of the audit."""

    seq: int
    at: str
    action: str
    actor: Actor | None
    target: str
    request_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    denial: Denial | None
    hash: str


class AuditVerdict(TypedDict):
    """What was found in a chain, or a part of it."""

    intact: bool
    first: int
    last: int
    head: int
    hash: str
    broken_at: int | None
    reason: str | None
    next_cursor: str | None


class Ticket(TypedDict):
    """What opens one live stream of events, once."""

    ticket: str
    expires_at: str
