"""/api/v1/kafka-credentials: POST and GET, one credential's GET and DELETE, and its rotation."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi import Body as Given
from pydantic import BaseModel, ConfigDict, Field, field_validator

from api.auth import Caller, CanReadKafkaCredentials, CanWriteKafkaCredentials
from api.dependencies import kafka_credentials
from api.kafka_credentials.clients import HIDDEN, MECHANISM, Topic, clients
from api.kafka_credentials.login import group_prefix, user_name
from api.kafka_credentials.repository import CredentialRow
from api.kafka_credentials.service import MAX_OVERLAP, KafkaCredentials, Made
from api.models import Body, Moment, Shown, end_given
from api.openapi import problems

MAX_PAGE = 1000
DAY = 24 * 3600
_ID = "3f9a2c41d07b"
_USER = f"t.acme.{_ID}"
_END = "2027-01-31T12:00:00Z"

router = APIRouter(tags=["kafka credentials"], prefix="/api/v1/kafka-credentials")
Service = Annotated[KafkaCredentials, Depends(kafka_credentials)]


class ListParameters(BaseModel):
    """Which credentials to list. Unknown parameters are refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ended: bool = Field(default=False, description="those that ended, too")
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the page before")


class CreateCredential(Body):
    """A credential to make."""

    name: str = Field(min_length=1, max_length=100, description="what it is for", examples=["desk 1"])
    expires_at: str | None = Field(
        None, max_length=64, description="RFC 3339, with a zone; null: it does not end", examples=[_END]
    )

    @field_validator("name")
    @classmethod
    def _shows(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("holds a character that does not show: use a name that people can read")
        return name


class RotateCredential(Body):
    """How to rotate a credential."""

    overlap_seconds: int = Field(
        DAY, ge=0, le=MAX_OVERLAP, description="how long it works on beside its successor; 0: it ends at once"
    )


class ShownTopic(Shown):
    """A topic of the tenant, and what may be done with it."""

    topic: str = Field(examples=["ps.acme.events.v1"])
    dataset: str = Field(examples=["events"])
    status: str = Field(description="provisioning, active or refused", examples=["active"])
    detail: str | None = Field(description="why it is refused", examples=[None])
    may: list[str] = Field(description="read, write", examples=[["read", "write"]])


class ShownConnection(Shown):
    """What every client of the tenant needs to know of the broker."""

    bootstrap_servers: str = Field(examples=["kafka.example.com:9093"])
    security_protocol: str = Field(examples=["SASL_SSL"])
    sasl_mechanism: str = Field(examples=[MECHANISM])
    group_prefix: str = Field(description="what consumer groups' names begin with", examples=["t.acme."])
    topics: list[ShownTopic]


class ShownClients(Shown):
    """Ready to use: a program, a command line and a file of properties that read two topics."""

    python: str = Field(description="for confluent-kafka", examples=["from confluent_kafka import Consumer…"])
    kcat: str = Field(examples=["kcat -X 'bootstrap.servers=kafka.example.com:9093'…"])
    java: str = Field(description="properties of a consumer", examples=["bootstrap.servers=kafka.example.com:9093…"])


class ShownCredential(Shown):
    """A credential, without its password: nobody can see that again."""

    id: str = Field(examples=[_ID])
    username: str = Field(description="the broker's user", examples=[_USER])
    name: str = Field(examples=["desk 1"])
    state: str = Field(description="provisioning, active, ending, revoked, expired or lost", examples=["active"])
    created_at: Moment
    created_by: str = Field(description="id of the key that made it", examples=["03kV8sLq2ZxYb"])
    expires_at: Moment | None = Field(description="null: it does not end", examples=[None])
    active_at: Moment | None = Field(description="since when the broker takes it; null: not yet", examples=[None])
    revoked_at: Moment | None = Field(examples=[None])
    replaced_by: str | None = Field(description="id of what a rotation put in its place", examples=[None])


class ShownWhole(ShownCredential):
    """A credential with all that a client needs but the password."""

    connection: ShownConnection
    clients: ShownClients


class MadeCredential(ShownWhole):
    """A new credential with its password."""

    password: str = Field(description="shown this once: store it", examples=["<43 characters>"])


class ShownCredentials(Shown):
    """A page of credentials."""

    credentials: list[ShownCredential]
    connection: ShownConnection
    next_cursor: str | None = Field(description="for the next page; null after the last one", examples=[None])


@router.post(
    "", status_code=201, response_model=MadeCredential, responses=problems(400, 401, 403, 409, 413, 415, 422, 503)
)
async def create_credential(
    body: Annotated[CreateCredential, Given(examples=[{"name": "desk 1"}])],
    caller: CanWriteKafkaCredentials,
    service: Service,
) -> dict[str, Any]:
    """Make a login to the broker. Its password is in this answer only; the broker takes it within seconds (`active`).

    If the answer was lost, revoke the credential by its id and make another.
    """
    return _made(await service.create(caller, body.name, end_given("/expires_at", body.expires_at)), caller, service)


@router.get("", response_model=ShownCredentials, responses=problems(400, 401, 403, 503))
async def list_credentials(
    parameters: Annotated[ListParameters, Query()], caller: CanReadKafkaCredentials, service: Service
) -> dict[str, Any]:
    """List the tenant's logins to the broker, the newest first, and what they can reach."""
    page = await service.list(caller.tenant, parameters.limit, parameters.cursor, with_ended=parameters.ended)
    return {
        "credentials": [_shown(one, caller, service) for one in page.credentials],
        "connection": _connection(page.topics, caller, service),
        "next_cursor": page.next_cursor,
    }


@router.get("/{credential_id}", response_model=ShownWhole, responses=problems(400, 401, 403, 404, 503))
async def get_credential(credential_id: str, caller: CanReadKafkaCredentials, service: Service) -> dict[str, Any]:
    """Show a login to the broker, with all that a client needs but the password."""
    row, topics = await service.get(caller.tenant, credential_id)
    return _whole(row, topics, caller, service, HIDDEN)


@router.delete("/{credential_id}", status_code=204, responses=problems(400, 401, 403, 404, 503))
async def revoke_credential(credential_id: str, caller: CanWriteKafkaCredentials, service: Service) -> None:
    """Revoke a login for good: within seconds the broker refuses it, also to clients that are connected."""
    await service.revoke(caller, credential_id)


@router.post(
    "/{credential_id}/rotate",
    status_code=201,
    response_model=MadeCredential,
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
async def rotate_credential(
    credential_id: str,
    body: Annotated[RotateCredential, Given(examples=[{"overlap_seconds": DAY}])],
    caller: CanWriteKafkaCredentials,
    service: Service,
) -> dict[str, Any]:
    """Make a login of the same name and end in the place of this one, which works on for a while beside it."""
    return _made(await service.rotate(caller, credential_id, body.overlap_seconds), caller, service)


def _shown(row: CredentialRow, caller: Caller, service: KafkaCredentials) -> dict[str, Any]:
    return asdict(row) | {"state": row.state(service.now()), "username": user_name(caller.tenant, row.id)}


def _connection(topics: Sequence[Topic], caller: Caller, service: KafkaCredentials) -> dict[str, Any]:
    prefix = group_prefix(caller.tenant)
    return asdict(service.address) | {"sasl_mechanism": MECHANISM, "group_prefix": prefix, "topics": topics}


def _whole(
    row: CredentialRow, topics: Sequence[Topic], caller: Caller, service: KafkaCredentials, password: str
) -> dict[str, Any]:
    ready = clients(service.address, caller.tenant, user_name(caller.tenant, row.id), password)
    more = {"connection": _connection(topics, caller, service), "clients": ready}
    return _shown(row, caller, service) | more


def _made(made: Made, caller: Caller, service: KafkaCredentials) -> dict[str, Any]:
    return _whole(made.credential, made.topics, caller, service, made.password) | {"password": made.password}
