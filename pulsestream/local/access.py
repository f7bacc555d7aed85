"""Which Kafka users there are and what each may do: one SCRAM user for each service, with prefix ACLs.

`ps.` covers every topic of the installation. Reading without a consumer group still names one (see
`pulsestream.core.kafka.CompactedReader`), which begins with the service's own name.
"""

from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, but not in its __all__
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from pulsestream.core.kafka import ADMIN_TIMEOUT, BrokerError, client_config, reason
from pulsestream.core.settings import Settings

ADMIN: Final = "admin"
SERVICES: Final = ("ps-producer", "ps-stream", "ps-sink", "ps-notifier", "ps-api", "ps-relay")
USERS: Final = (ADMIN, *SERVICES)

Grant = tuple[str, ResourceType, str, AclOperation]
_TOPIC: Final = ResourceType.TOPIC
_GROUP: Final = ResourceType.GROUP
_TRANSACTION: Final = ResourceType.TRANSACTIONAL_ID
_CLUSTER: Final = ResourceType.BROKER
_EVERY_TOPIC: Final = "ps."
_CLUSTER_NAME: Final = "kafka-cluster"
_OF_THE_RELAY: Final = (
    AclOperation.CREATE,
    AclOperation.DESCRIBE,
    AclOperation.ALTER,
    AclOperation.DESCRIBE_CONFIGS,
    AclOperation.ALTER_CONFIGS,
)
"""Over the cluster: it makes topics, and users of tenants with their rights (ALTER) and quotas (ALTER_CONFIGS)."""
_ITERATIONS: Final = 4096
"""Of SCRAM's hash: Kafka's own default; guessing is hopeless because passwords are generated."""


def grants(settings: Settings) -> list[Grant]:
    """Return what the services may do, as (user, kind of resource, prefix, operation)."""
    read, write, describe = AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE
    topics = {
        "ps-producer": (write, describe),
        "ps-stream": (read, write, describe),
        "ps-sink": (read, write, describe),
        "ps-notifier": (read, describe),
        "ps-api": (read, write, describe),
        "ps-relay": (AclOperation.ALL,),
    }
    wanted = [
        (user, _TOPIC, _EVERY_TOPIC, operation) for user, operations in topics.items() for operation in operations
    ]
    wanted.append(("ps-producer", _TOPIC, "ps._platform.", read))
    groups = [(user, user) for user in SERVICES]
    groups += [
        ("ps-stream", settings.stream_app),
        ("ps-sink", settings.sink_group),
        ("ps-notifier", settings.notify_group),
    ]
    wanted += [(user, _GROUP, prefix, read) for user, prefix in dict.fromkeys(groups)]
    wanted += [("ps-relay", _GROUP, "t.", operation) for operation in (describe, AclOperation.DELETE)]
    transactions = [("ps-stream", "ps-stream"), ("ps-stream", settings.stream_app)]
    wanted += [
        (user, _TRANSACTION, prefix, operation) for user, prefix in transactions for operation in (write, describe)
    ]
    cluster = [
        (user, AclOperation.IDEMPOTENT_WRITE) for user in SERVICES if write in topics[user] or user == "ps-relay"
    ]
    cluster += [("ps-relay", operation) for operation in _OF_THE_RELAY]
    return wanted + [(user, _CLUSTER, _CLUSTER_NAME, operation) for user, operation in cluster]


def ensure_users(admin_settings: Settings, passwords: Mapping[str, str]) -> None:
    """Let each of these users log in with its password from now on. Raises BrokerError."""
    client = AdminClient(client_config(admin_settings, "ps-admin") | {"log_level": 0})
    hashing = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, _ITERATIONS)
    wanted: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(user, hashing, password.encode()) for user, password in passwords.items()
    ]
    for user, future in client.alter_user_scram_credentials(wanted, request_timeout=ADMIN_TIMEOUT).items():
        try:
            future.result()
        except KafkaException as error:
            raise BrokerError(f"the user {user} cannot be given its password: {reason(error)}") from error


def ensure_acls(admin_settings: Settings) -> None:
    """Give the services their rights; one that exists already stays as it is. Raises BrokerError."""
    client = AdminClient(client_config(admin_settings, "ps-admin") | {"log_level": 0})
    bindings = [_binding(grant) for grant in grants(admin_settings)]
    for binding, future in client.create_acls(bindings, request_timeout=ADMIN_TIMEOUT).items():
        try:
            future.result()
        except KafkaException as error:
            raise BrokerError(f"the access rule {binding} cannot be created: {reason(error)}") from error


def _binding(grant: Grant) -> AclBinding:
    user, kind, name, operation = grant
    pattern = ResourcePatternType.LITERAL if kind is _CLUSTER else ResourcePatternType.PREFIXED
    return AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
