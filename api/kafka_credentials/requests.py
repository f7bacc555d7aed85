"""Requests of Kafka's protocol that confluent-kafka does not have, sent by aiokafka's client.

SCRAM users by their salted password (KIP-554: AlterUserScramCredentials, key 51; librdkafka wants the password itself),
their list (DescribeUserScramCredentials, 50; librdkafka aborts the process where that is refused), and client quotas
(KIP-546: DescribeClientQuotas 48, AlterClientQuotas 49; librdkafka has none). Layouts as in Kafka's message
definitions, version 0 of each.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Float64,
    Int8,
    Int16,
    Int32,
    Schema,
    String,
    TaggedFields,
)

from api.kafka_credentials.login import Salted
from api.kafka_credentials.rights import QUOTA_NAMES, Quota
from pulsestream.core.kafka import ADMIN_TIMEOUT, BrokerError, tls
from pulsestream.core.settings import Settings

_SCRAM_SHA_256: Final = 1
_NO_SUCH_USER: Final = 91
_ANY_NAME: Final = 2
_USER: Final = "user"
_TAGS: Final = ("tags", TaggedFields)
_ENTITY: Final = ("entity", Array(("type", String()), ("name", String())))


class _ScramAnswer(Response):
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_ms", Int32),
        ("results", CompactArray(("user", CompactString()), ("code", Int16), ("message", CompactString()), _TAGS)),
        _TAGS,
    )


class _ScramStruct(RequestStruct):
    API_KEY = 51
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ScramAnswer
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", CompactString()), ("mechanism", Int8), _TAGS)),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString()),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _AlterScram(Request[_ScramStruct]):
    API_KEY = 51

    def __init__(self, deletions: Collection[str], upsertions: Mapping[str, Salted]) -> None:
        self._deletions: list[tuple[Any, ...]] = [(user, _SCRAM_SHA_256, {}) for user in deletions]
        self._upsertions: list[tuple[Any, ...]] = [
            (user, _SCRAM_SHA_256, kept.iterations, kept.salt, kept.salted_password, {})
            for user, kept in upsertions.items()
        ]

    def build(self, request_struct_class: type[_ScramStruct]) -> _ScramStruct:
        return request_struct_class(self._deletions, self._upsertions, {})


class _UsersAnswer(Response):
    API_KEY = 50
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_ms", Int32),
        ("code", Int16),
        ("message", CompactString()),
        (
            "results",
            CompactArray(
                ("user", CompactString()),
                ("code", Int16),
                ("message", CompactString()),
                ("infos", CompactArray(("mechanism", Int8), ("iterations", Int32), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _UsersStruct(RequestStruct):
    API_KEY = 50
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _UsersAnswer
    SCHEMA = Schema(("users", CompactArray(("name", CompactString()), _TAGS)), _TAGS)


class _DescribeUsers(Request[_UsersStruct]):
    API_KEY = 50

    def build(self, request_struct_class: type[_UsersStruct]) -> _UsersStruct:
        return request_struct_class([], {})  # all; null would be, too, but a refusal of that has no answer


class _QuotasAnswer(Response):
    API_KEY = 48
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_ms", Int32),
        ("code", Int16),
        ("message", String()),
        ("entries", Array(_ENTITY, ("values", Array(("key", String()), ("value", Float64))))),
    )


class _QuotasStruct(RequestStruct):
    API_KEY = 48
    API_VERSION = 0
    RESPONSE_TYPE = _QuotasAnswer
    SCHEMA = Schema(("components", Array(("type", String()), ("match", Int8), ("name", String()))), ("strict", Boolean))


class _DescribeQuotas(Request[_QuotasStruct]):
    API_KEY = 48

    def build(self, request_struct_class: type[_QuotasStruct]) -> _QuotasStruct:
        return request_struct_class([(_USER, _ANY_NAME, None)], True)


class _AlterQuotasAnswer(Response):
    API_KEY = 49
    API_VERSION = 0
    SCHEMA = Schema(("throttle_ms", Int32), ("entries", Array(("code", Int16), ("message", String()), _ENTITY)))


class _AlterQuotasStruct(RequestStruct):
    API_KEY = 49
    API_VERSION = 0
    RESPONSE_TYPE = _AlterQuotasAnswer
    SCHEMA = Schema(
        ("entries", Array(_ENTITY, ("ops", Array(("key", String()), ("value", Float64), ("remove", Boolean))))),
        ("validate_only", Boolean),
    )


class _AlterQuotas(Request[_AlterQuotasStruct]):
    API_KEY = 49

    def __init__(self, quotas: Mapping[str, Quota]) -> None:
        self._entries = [
            ([(_USER, user)], [(name, quota.get(name, 0.0), name not in quota) for name in QUOTA_NAMES])
            for user, quota in quotas.items()
        ]

    def build(self, request_struct_class: type[_AlterQuotasStruct]) -> _AlterQuotasStruct:
        return request_struct_class(self._entries, False)


def put_users(settings: Settings, users: Mapping[str, Salted]) -> None:
    """Let users log in with the passwords that these were made of; raises BrokerError."""
    _alter_users(settings, (), users)


def drop_users(settings: Settings, users: Collection[str]) -> None:
    """Let users log in no more; one that does not exist is passed over. Raises BrokerError."""
    _alter_users(settings, users, {})


def scram_users(settings: Settings) -> list[str]:
    """Return the name of every user that logs in by SCRAM; raises BrokerError."""
    (answer,) = _asked(settings, _DescribeUsers())
    if answer.code:
        raise BrokerError(f"the broker's users cannot be read: {answer.message} (error {answer.code})")
    return [user for user, *_ in answer.results]


def set_quotas(settings: Settings, quotas: Mapping[str, Quota]) -> None:
    """Give users these client quotas and no others; raises BrokerError."""
    (answer,) = _asked(settings, _AlterQuotas(quotas)) if quotas else (None,)
    for code, message, entity in answer.entries if answer else ():
        if code:
            raise BrokerError(f"the quotas of {entity[0][1]} cannot be set: {message} (error {code})")


def user_quotas(settings: Settings) -> dict[str, Quota]:
    """Return the client quotas of every user that has some; raises BrokerError."""
    (answer,) = _asked(settings, _DescribeQuotas())
    if answer.code:
        raise BrokerError(f"the quotas of users cannot be read: {answer.message} (error {answer.code})")
    return {entity[0][1]: dict(values) for entity, values in answer.entries}


def _alter_users(settings: Settings, deletions: Collection[str], upsertions: Mapping[str, Salted]) -> None:
    if not deletions and not upsertions:
        return
    (answer,) = _asked(settings, _AlterScram(deletions, upsertions))
    for user, code, message, _ in answer.results:
        if code and not (code == _NO_SUCH_USER and user in deletions):
            raise BrokerError(f"the user {user} cannot be changed: {message} (error {code})")


def _asked(settings: Settings, *requests: Any) -> Sequence[Any]:  # aiokafka has no types
    """Send requests over a connection of their own, from a thread without an event loop, and return the answers."""
    try:
        return asyncio.run(_ask(settings, requests))
    except (KafkaError, TimeoutError, OSError) as error:
        raise BrokerError(f"the broker does not answer about tenants' users: {error!r}") from error


async def _ask(settings: Settings, requests: Sequence[Any]) -> Sequence[Any]:
    client = AIOKafkaClient(
        bootstrap_servers=settings.kafka_bootstrap,
        client_id="ps-relay-users",
        security_protocol=settings.kafka_security,
        ssl_context=tls(settings),
        sasl_mechanism="SCRAM-SHA-256",
        sasl_plain_username=settings.kafka_username,
        sasl_plain_password=settings.kafka_password.get_secret_value(),
        request_timeout_ms=int(ADMIN_TIMEOUT * 1000),
    )
    async with asyncio.timeout(ADMIN_TIMEOUT):
        await client.bootstrap()
        try:
            return [await client.send(client.get_random_node(), request) for request in requests]
        finally:
            await client.close()
