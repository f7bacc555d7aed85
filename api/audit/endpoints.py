"""GET /api/v1/audit, as pages or as an export, and its verification."""

from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.audit.entry import Action
from api.audit.repository import Filter
from api.audit.service import FIELDS, Audit, Verdict
from api.auth import CanReadAudit
from api.dependencies import audit, exports
from api.models import Moment, Shown, moment_given
from api.openapi import problems
from api.search import document
from api.search.export import Export, ExportResponse, Exports

router = APIRouter(tags=["audit"], prefix="/api/v1/audit")
Service = Annotated[Audit, Depends(audit)]
MAX_PAGE: Final = 1000
MAX_VERIFIED: Final = 5000
_encoder: Final = msgspec.json.Encoder()
_HASH: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_TIME: Final = "2026-01-31T12:00:00Z"


class ListParameters(BaseModel):
    """Which rows to list. Unknown parameters are refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action | None = Field(None, description="what was done", examples=["rule.delete"])
    actor: str | None = Field(None, max_length=64, description="id of the key that asked for it")
    target: str | None = Field(None, max_length=256, description="what it was done to", examples=["subscriptions"])
    from_: str | None = Field(None, alias="from", max_length=64, description="time, included", examples=[_TIME])
    to: str | None = Field(None, max_length=64, description="likewise, not included", examples=[_TIME])
    limit: int = Field(100, ge=1, le=MAX_PAGE, description="rows of a page; an export has all")
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the page before")
    format: Literal["json", "ndjson", "csv"] = Field("json", description="ndjson and csv: everything, as a stream")

    def filter(self) -> Filter:
        """Return what is meant; raises Problem 400 for a time that is none."""
        times = moment_given("from", self.from_), moment_given("to", self.to)
        return Filter(None if self.action is None else self.action.value, self.actor, self.target, *times)


class VerifyParameters(BaseModel):
    """How much to verify at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(MAX_PAGE, ge=1, le=MAX_VERIFIED, description="rows to read at most")
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the answer before")


class ShownActor(Shown):
    """Whose key it was; null at a registration."""

    id: str | None = Field(examples=["03kV8sLq2ZxYb"])
    role: str | None = Field(description="the key's role at that time", examples=["owner"])


class ShownDenial(Shown):
    """Why access was denied, and how often since the row before that tells of the same."""

    reason: str = Field(examples=["role"])
    permission: str | None = Field(examples=["rules:write"])
    times: int = Field(examples=[1])


class ShownEntry(Shown):
    """A row of the audit."""

    seq: int = Field(description="counts from 1 without a gap", examples=[17])
    at: Moment
    action: str = Field(examples=["rule.delete"])
    actor: ShownActor | None
    target: str = Field(examples=["rule:019c1f6e-8f2a-7c31-9d55-0c1f6e8f2a7c"])
    request_id: str | None = Field(description="X-Request-ID of the answer", examples=["019c1f6e-8f2a-7c31-17"])
    before: dict[str, Any] | None = Field(description="what of it changed, as it was; null: there was nothing")
    after: dict[str, Any] | None = Field(description="likewise, as it is; null: there is nothing")
    denial: ShownDenial | None = Field(description="with action access.denied")
    hash: str = Field(description="SHA-256 over the hash of the row before and this one's entry", examples=[_HASH])


class ShownEntries(Shown):
    """A page of the audit."""

    entries: list[ShownEntry]
    next_cursor: str | None = Field(description="for the next page; null after the last row", examples=[None])


class ShownVerdict(Shown):
    """What was found in a part of the chain."""

    intact: bool = Field(description="every row that was read is as it was appended, and none is missing")
    first: int = Field(description="the first row that was read", examples=[1])
    last: int = Field(description="the last one that is as it was appended", examples=[42])
    head: int = Field(description="the chain's last row", examples=[42])
    hash: str = Field(description="of row `last`: keep it elsewhere, and compare", examples=[_HASH])
    broken_at: int | None = Field(description="the first row that is not as it was appended", examples=[None])
    reason: str | None = Field(description="how that shows", examples=[None])
    next_cursor: str | None = Field(description="for the rows behind; null after the head", examples=[None])


_ENTRY: Final = dict.fromkeys(FIELDS) | {
    "seq": 17,
    "at": "2026-01-31T12:00:00.000000Z",
    "action": "rule.delete",
    "target": "rule:019c1f6e-8f2a-7c31-9d55-0c1f6e8f2a7c",
    "hash": _HASH,
}
_PAGES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A page, or with `format` the whole as a stream",
        "content": {kind.partition(";")[0]: told for kind, told in document.exports(_ENTRY).items()},
    }
}


@router.get(
    "",
    response_model=ShownEntries,
    responses=_PAGES | problems(400, 401, 403, 503),
)
async def list_audit(
    parameters: Annotated[ListParameters, Query()],
    caller: CanReadAudit,
    service: Service,
    under_way: Annotated[Exports, Depends(exports)],
) -> Response:
    """List what was changed and what was refused, newest first, or export all of it."""
    wanted = parameters.filter()
    if parameters.format != "json":
        pages = service.pages(caller.tenant, wanted)
        return ExportResponse(Export(caller.tenant, parameters.format, FIELDS, pages), under_way)
    page = await service.search(caller.tenant, wanted, parameters.limit, parameters.cursor)
    return Response(_encoder.encode(page), media_type="application/json")


@router.get("/verify", response_model=ShownVerdict, responses=problems(400, 401, 403, 503))
async def verify_audit(
    parameters: Annotated[VerifyParameters, Query()], caller: CanReadAudit, service: Service
) -> Verdict:
    """Check that the rows are those that were appended, from the first one on; follow `next_cursor` to the head."""
    return await service.verify(caller.tenant, parameters.limit, parameters.cursor)
