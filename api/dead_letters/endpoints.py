"""GET /api/v1/dead-letters, and replaying and discarding them."""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query
from fastapi import Body as Given
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.auth import CanReadData, CanWriteDeadLetters
from api.dead_letters.filters import Filter
from api.dead_letters.outcomes import Done
from api.dead_letters.repository import LetterRow
from api.dead_letters.service import AT_ONCE, Choice, DeadLetters
from api.dead_letters.shown import as_text
from api.dependencies import dead_letters
from api.models import Body, Moment, Shown, moment_given
from api.openapi import problems

router = APIRouter(tags=["dead letters"], prefix="/api/v1/dead-letters")
Service = Annotated[DeadLetters, Depends(dead_letters)]
MAX_PAGE = 1000
_ID = "6f1d2c3b4a5968778695a4b3c2d1e0f0"
_REASON = Field(None, max_length=64, description="code of the refusal", examples=["unknown_schema"])
_TOPIC = Field(None, max_length=249, description="where it was read: a topic or its dataset", examples=["events"])
_KEY = Field(None, max_length=256, description="the record's key: the product", examples=["BTC-USD"])
_FROM = Field(
    None, alias="from", max_length=64, description="first refused, included", examples=["2026-01-31T12:00:00Z"]
)
_TO = Field(None, max_length=64, description="likewise, not included", examples=["2026-01-31T13:00:00Z"])


class ListParameters(BaseModel):
    """Which dead letters to list. Unknown parameters are refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Literal["open", "replayed", "discarded", "any"] = "open"
    reason: str | None = _REASON
    topic: str | None = _TOPIC
    key: str | None = _KEY
    from_: str | None = _FROM
    to: str | None = _TO
    order: Literal["desc", "asc"] = Field("desc", description="by the first refusal: newest or oldest first")
    limit: int = Field(AT_ONCE, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the page before")


class Where(Body):
    """What open dead letters have in common; without members: all of them."""

    reason: str | None = _REASON
    topic: str | None = _TOPIC
    key: str | None = _KEY
    from_: str | None = _FROM
    to: str | None = _TO


class _Chosen(Body):
    ids: list[str] | None = Field(None, min_length=1, max_length=AT_ONCE, description="either these", examples=[[_ID]])
    where: Where | None = Field(None, description="or the open ones of a kind, the oldest first", examples=[None])
    limit: int = Field(AT_ONCE, ge=1, le=AT_ONCE, description="with `where`: how many at most")
    cursor: str | None = Field(
        None, max_length=2048, description="with `where`: next_cursor of the answer before", examples=[None]
    )

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.ids is None) == (self.where is None):
            raise ValueError("name dead letters by `ids`, or describe them in `where`: one of both")
        return self

    def choice(self) -> Choice:
        """Return which letters are meant; raises Problem 400 for a time that is none."""
        return Choice(
            self.ids or (), None if self.where is None else _filter(self.where, "open"), self.limit, self.cursor
        )


class ReplayBody(_Chosen):
    """Which dead letters to send again."""

    dry_run: bool = Field(False, description="send nothing, and say what would become of each now")
    force: bool = Field(False, description="send those too that would be refused now")


class DiscardBody(_Chosen):
    """Which dead letters to discard, and why."""

    reason: str = Field(min_length=1, max_length=500, description="kept with the letter", examples=["test data"])


class ShownLetter(Shown):
    """A dead letter, without what its record holds."""

    id: str = Field(examples=[_ID])
    reason: str = Field(description="code of the refusal", examples=["invalid_price"])
    message: str = Field(description="in words", examples=["price is nan: prices are finite and positive"])
    topic: str = Field(description="where the record was read", examples=["ps.acme.events.v1"])
    partition: int
    offset: int
    key: str | None = Field(description="as text; null where there is none, or it is no text")
    size: int | None = Field(description="bytes of the record's value; null: it had none")
    first_seen: Moment = Field(description="when it was refused first")
    state: str = Field(description="open, replayed or discarded", examples=["open"])
    replay_of: str | None = Field(description="the dead letter whose replay this record was")
    replays: int = Field(description="how many replays of the record came before this refusal")
    settled_at: Moment | None = Field(description="when it was replayed or discarded")
    settled_by: str | None = Field(description="id of the key that did")
    settled_reason: str | None = Field(description="why it was discarded")


class ShownLetters(Shown):
    """A page of dead letters."""

    dead_letters: list[ShownLetter]
    next_cursor: str | None = Field(description="for the next page; null after the last letter", examples=[None])


class ShownBytes(Shown):
    """Bytes, and what they say where they are UTF-8."""

    base64: str
    text: str | None


class ShownHeader(Shown):
    """A header of the record."""

    name: str
    value: ShownBytes | None


class ShownRecord(Shown):
    """The record decoded, or why it cannot be."""

    fields: dict[str, Any] | None
    error: str | None


class WholeLetter(ShownLetter):
    """A dead letter with its record, byte for byte and decoded as far as it can be."""

    record_key: ShownBytes | None
    headers: list[ShownHeader] = Field(description="in order")
    value: ShownBytes | None = Field(description="null: the record had none, or it is omitted")
    omitted: int = Field(description="bytes left out here, because they were too many for a letter", examples=[0])
    record: ShownRecord
    refused_replays: list[str] = Field(description="ids of the letters that replays of this one ended as")


class ShownOutcome(Shown):
    """What became of a dead letter."""

    id: str = Field(examples=[_ID])
    outcome: str = Field(
        description="replayed; would_succeed (a dry run); would_be_refused, too_many_replays, failed, unknown, busy: "
        "it stays open; discarded; already_replayed; already_discarded",
        examples=["replayed"],
    )
    reason: str | None = Field(description="code, where the record would be refused")
    message: str | None = Field(description="in words, where it was not replayed")


class ShownOutcomes(Shown):
    """What became of the dead letters of a request."""

    dry_run: bool
    counts: dict[str, int] = Field(description="by outcome", examples=[{"replayed": 1}])
    results: list[ShownOutcome]
    next_cursor: str | None = Field(description="for the next ones; null: these were the last", examples=[None])


@router.get("", response_model=ShownLetters, responses=problems(400, 401, 403, 503))
async def list_dead_letters(
    parameters: Annotated[ListParameters, Query()], caller: CanReadData, service: Service
) -> dict[str, Any]:
    """List dead letters: records that were not stored, each with the reason. By default the open ones, newest first."""
    wanted = _filter(parameters, None if parameters.state == "any" else parameters.state)
    page = await service.search(
        caller.tenant, wanted, parameters.limit, parameters.cursor, ascending=parameters.order == "asc"
    )
    return {"dead_letters": [_shown(row) for row in page.letters], "next_cursor": page.next_cursor}


@router.get("/{letter_id}", response_model=WholeLetter, responses=problems(400, 401, 403, 404, 503))
async def get_dead_letter(letter_id: str, caller: CanReadData, service: Service) -> dict[str, Any]:
    """Show a dead letter with its record: the original bytes, and decoded as far as they can be."""
    found = await service.get(caller.tenant, letter_id)
    return _shown(found.pop("letter")) | {"record_key": found.pop("key")} | found


@router.post("/replay", response_model=ShownOutcomes, responses=problems(400, 401, 403, 404, 413, 415, 422, 503))
async def replay_dead_letters(
    body: Annotated[ReplayBody, Given(examples=[{"where": {"reason": "unknown_schema"}, "dry_run": True}])],
    caller: CanWriteDeadLetters,
    service: Service,
) -> Done:
    """Send records again to their topics, as they were, with a link to the letter; what would be refused stays open.

    Safe to repeat: a record has one effect, however often its letter was sent. 503 means unknown: send it again.
    """
    return await service.replay(caller, body.choice(), dry_run=body.dry_run, force=body.force)


@router.post("/discard", response_model=ShownOutcomes, responses=problems(400, 401, 403, 404, 413, 415, 422, 503))
async def discard_dead_letters(
    body: Annotated[DiscardBody, Given(examples=[{"where": {"reason": "undecodable"}, "reason": "test data"}])],
    caller: CanWriteDeadLetters,
    service: Service,
) -> Done:
    """Settle dead letters without sending their records again. They can still be listed and shown."""
    return await service.discard(caller, body.choice(), body.reason)


def _filter(wanted: ListParameters | Where, state: str | None) -> Filter:
    return Filter(
        state,
        wanted.reason,
        wanted.topic,
        wanted.key,
        moment_given("from", wanted.from_),
        moment_given("to", wanted.to),
    )


def _shown(row: LetterRow) -> dict[str, Any]:
    named = {name: getattr(row, name) for name in ShownLetter.model_fields}
    return named | {"key": as_text(row.key)}
