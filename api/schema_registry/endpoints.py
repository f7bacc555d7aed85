"""GET /registry/…: the part of Confluent's Schema Registry API that deserialisers, serialisers and browsers use.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, Field

from api.auth import Caller, Permission, key_header
from api.errors import Problem, unauthorized
from api.limits.entrance import Entrance
from api.openapi import schema_like
from api.schema_registry import errors
from api.schema_registry.errors import RegistryError
from api.schema_registry.subjects import Subject, schema, subject, subjects
from schemas.registry import Released

MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_EVERY_PAIR: Final = "FULL_TRANSITIVE"
_SUBJECT: Final = "ps.acme.ticks.v1-value"
_TEXT: Final = '{"type":"record","name":"Tick",…}'
_VERSION: Final = {"subject": _SUBJECT, "id": 101, "version": 2, "schema": _TEXT}
_BARE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {
            MEDIA_TYPE: {
                "schema": {"type": "object", "description": "an Avro schema"},
                "example": {"type": "record", "name": "Tick", "fields": [{"name": "price", "type": "double"}]},
            }
        }
    }
}


class Failure(BaseModel):
    """An error as Confluent's clients read it."""

    error_code: int = Field(description="the HTTP status, and two digits more", examples=[40401])
    message: str = Field(examples=[f"Subject '{_SUBJECT}' not found."])


class Asked(BaseModel):
    """A schema to look up; members that Confluent's API has besides are accepted and ignored."""

    schema_text: str = Field(
        alias="schema",
        max_length=50_000,
        description="the schema's own JSON, as text",
        examples=['{"type": "record", "name": "Tick", "fields": [{"name": "price", "type": "double"}]}'],
    )
    schema_type: str = Field("AVRO", alias="schemaType", description="AVRO is the only type here")


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that may answer with these errors."""
    meanings = {
        400: "The body cannot be read",
        401: "No API key, or one that is not valid",
        403: "The key may not do this",
        404: "It does not exist, or belongs to another tenant",
        422: "The schema or the version cannot be one, or the registry would have to change",
        429: "A limit is reached, or too many bad keys came from this address: ask again after Retry-After",
        503: "Not possible now: ask again",
    }
    return {each: {"description": meanings[each], "content": {MEDIA_TYPE: {"schema": _FAILURE}}} for each in statuses}


def shows(example: Any) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that answers like this example: with all of its members, of their kinds."""
    return {200: {"content": {MEDIA_TYPE: {"schema": schema_like(example), "example": example}}}}


_FAILURE: Final = Failure.model_json_schema()
_basic: Final = HTTPBasic(
    scheme_name="RegistryLogin", description="user: the key's id; password: the key itself", auto_error=False
)


class RegistryLogin:
    """Who is calling: by HTTP's Basic authentication, which is all that registry clients know, or by X-API-Key."""

    permission: Final = Permission.DATA_READ

    async def __call__(
        self,
        request: Request,
        basic: Annotated[HTTPBasicCredentials | None, Depends(_basic)],
        header: Annotated[str | None, Security(key_header)],
    ) -> Caller:
        """Return the caller; raises RegistryError 401, 403, 429, 503."""
        entrance: Entrance = request.app.state.services.entrance
        key = basic.password if basic else header
        try:
            caller = await entrance.caller(key, request.scope)
            if basic and basic.username != caller.key_id:
                raise unauthorized("The user has to be the id of the key that is the password.")
            caller.require(self.permission)
        except Problem as problem:
            raise errors.of_problem(problem) from problem
        return caller


CanReadSchemas = Annotated[Caller, Depends(RegistryLogin())]
PREFIX: Final = "/registry"
router = APIRouter(
    tags=["schema registry"], prefix=PREFIX, default_response_class=Response, responses=failures(401, 403, 429, 503)
)


@router.get("/schemas/types", responses=shows(["AVRO"]))
async def types(_: CanReadSchemas) -> Response:
    """List the types of schemas: AVRO."""
    return _answer(["AVRO"])


@router.get("/schemas/ids/{schema_id}", responses=failures(404) | shows({"schema": _TEXT}))
async def schema_by_id(schema_id: str, _: CanReadSchemas) -> Response:
    """Show the schema that records with this id were written with."""
    return _answer({"schema": _text(schema(schema_id))})


@router.get("/schemas/ids/{schema_id}/schema", responses=failures(404) | _BARE)
async def schema_text(schema_id: str, _: CanReadSchemas) -> Response:
    """Show the schema itself, without anything around it."""
    return Response(_text(schema(schema_id)), media_type=MEDIA_TYPE)


@router.get("/schemas/ids/{schema_id}/versions", responses=failures(404) | shows([{"subject": _SUBJECT, "version": 2}]))
async def subjects_of_schema(schema_id: str, caller: CanReadSchemas) -> Response:
    """List which versions of which of your subjects have this schema."""
    found = schema(schema_id)
    having = [each for each in subjects(caller.tenant) if found in each.versions]
    return _answer([{"subject": each.name, "version": each.number(found)} for each in having])


@router.get("/subjects", responses=shows([_SUBJECT]))
async def list_subjects(caller: CanReadSchemas) -> Response:
    """List your subjects: one for the values of each topic that you have or may come to have. Keys are plain text."""
    return _answer([each.name for each in subjects(caller.tenant)])


@router.get("/subjects/{name}/versions", responses=failures(404) | shows([1, 2]))
async def list_versions(name: str, caller: CanReadSchemas) -> Response:
    """List a subject's versions."""
    return _answer(subject(caller.tenant, name).numbers())


@router.get("/subjects/{name}/versions/{version}", responses=failures(404, 422) | shows(_VERSION))
async def show_version(name: str, version: str, caller: CanReadSchemas) -> Response:
    """Show a version of a subject: a number, or `latest`."""
    found = subject(caller.tenant, name)
    return _answer(_shown(found, found.version(version)))


@router.get("/subjects/{name}/versions/{version}/schema", responses=failures(404, 422) | _BARE)
async def show_version_text(name: str, version: str, caller: CanReadSchemas) -> Response:
    """Show a version's schema itself, without anything around it."""
    return Response(_text(subject(caller.tenant, name).version(version)), media_type=MEDIA_TYPE)


@router.post("/subjects/{name}", responses=failures(400, 404, 422) | shows(_VERSION))
async def look_up(name: str, body: Asked, caller: CanReadSchemas) -> Response:
    """Find the version that has this schema."""
    found = subject(caller.tenant, name)
    version = found.equal(body.schema_text)
    if version is None:
        raise errors.no_such_schema(name)
    return _answer(_shown(found, version))


@router.post("/subjects/{name}/versions", responses=failures(400, 404, 422) | shows({"id": 101}))
async def register(name: str, body: Asked, caller: CanReadSchemas) -> Response:
    """Give the id of this schema where the subject has it; any other one is refused, since nothing changes here."""
    version = subject(caller.tenant, name).equal(body.schema_text)
    if version is None:
        raise errors.read_only(name)
    return _answer({"id": version.schema_id})


@router.get("/config", responses=shows({"compatibilityLevel": _EVERY_PAIR}))
async def compatibility(_: CanReadSchemas) -> Response:
    """Tell which pairs of versions read each other's records: all, in both directions."""
    return _answer({"compatibilityLevel": _EVERY_PAIR})


@router.get("/config/{name}", responses=failures(404) | shows({"compatibilityLevel": _EVERY_PAIR}))
async def compatibility_of_subject(name: str, caller: CanReadSchemas) -> Response:
    """Tell the same of a subject."""
    subject(caller.tenant, name)
    return _answer({"compatibilityLevel": _EVERY_PAIR})


@router.get("/mode", responses=shows({"mode": "READONLY"}))
async def mode(_: CanReadSchemas) -> Response:
    """Tell that nothing can be changed here."""
    return _answer({"mode": "READONLY"})


def answer_error(error: RegistryError) -> Response:
    """Return an error as Confluent's clients read it."""
    body = Failure(error_code=error.code, message=error.message)
    return Response(body.model_dump_json(), error.status, dict(error.headers), MEDIA_TYPE)


def _shown(found: Subject, version: Released) -> dict[str, object]:
    number = found.number(version)
    return {"subject": found.name, "id": version.schema_id, "version": number, "schema": _text(version)}


def _text(released: Released) -> str:
    """Return the schema on one line, as clients keep it."""
    return msgspec.json.encode(released.json).decode()


def _answer(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type=MEDIA_TYPE)
