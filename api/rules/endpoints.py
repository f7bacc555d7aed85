"""/api/v1/rules: POST and GET, one rule's GET, PUT and DELETE, its pause, its versions, and trials of rules."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.auth import CanReadRules, CanWriteRules
from api.dependencies import rules, trials
from api.errors import FieldError, invalid_body
from api.models import Moment, Shown, end_given
from api.openapi import problems
from api.rules.history import Version
from api.rules.repository import RuleRow
from api.rules.service import Rules
from api.rules.tags import match_of, tag_of
from api.rules.trials import Trials, Wanted
from pulsestream.core.clock import to_micros
from streams.engine.rules import EVERY_PRODUCT, RuleDefinition, checked_products

router = APIRouter(tags=["rules"], prefix="/api/v1/rules")
RulesService = Annotated[Rules, Depends(rules)]
MAX_PAGE = 200
_EXAMPLE = {
    "name": "btc-below-15000",
    "product": "BTC-USD",
    "exchange": "coinbase",
    "condition": {"type": "price", "below": 15000, "clear": 15100},
    "for": "60s",
    "severity": "warning",
    "labels": {"desk": "spot"},
}
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="ETag of the version that the change was made from, or *", examples=['"1"']),
]
_TAGGED: dict[int | str, dict[str, Any]] = {
    status: {"headers": {"ETag": {"description": "the version, for If-Match", "schema": {"type": "string"}}}}
    for status in (200, 201)
}


class ShownRule(Shown):
    """The newest version of a rule."""

    rule_id: str = Field(examples=["019c1f6e-8f2a-7c31-9d55-0c1f6e8f2a7c"])
    version: int = Field(description="counts up with every change", examples=[1])
    name: str = Field(examples=["btc-below-15000"])
    enabled: bool = Field(description="false: paused")
    definition: dict[str, Any] = Field(description="the rule with its defaults", examples=[_EXAMPLE])
    created_at: Moment = Field(description="of this version")
    created_by: str = Field(description="id of the key that made this version")
    effective_at: Moment | None = Field(
        description="from when on ticks are judged by this version; null until the streams can know it"
    )


class ShownRules(Shown):
    """The tenant's rules."""

    rules: list[ShownRule]


class ShownDifference(Shown):
    """One place where a version differs from the one before."""

    pointer: str = Field(description="JSON pointer into the definition", examples=["/condition/below"])
    before: Any = Field(description="null: nothing stood there", examples=[15000.0])
    after: Any = Field(description="null: nothing stands there", examples=[14000.0])


class ShownVersion(Shown):
    """A version of a rule: what it did, and who made it."""

    version: int = Field(examples=[2])
    change: str = Field(description="created, changed, paused, resumed or deleted", examples=["changed"])
    differences: list[ShownDifference] = Field(description="from the version before")
    definition: dict[str, Any] = Field(examples=[_EXAMPLE])
    created_at: Moment
    created_by: str = Field(description="id of the key that made this version")
    effective_at: Moment | None = Field(description="from when on ticks are judged by it; null: not known yet")
    ended_at: Moment | None = Field(description="when the next version took its place; null: it is the newest")


class ShownVersions(Shown):
    """A page of versions, newest first."""

    versions: list[ShownVersion]
    next_before: int | None = Field(description="`before` for the next page; null after the first version")


class RuleTrial(RuleDefinition):
    """A rule, and the stored records to try it on; `enabled` says nothing here."""

    from_: str | None = Field(
        None,
        alias="from",
        max_length=64,
        description="first event time, included; default: 24 h before `to`",
        examples=["2026-01-30T12:00:00Z"],
    )
    to: str | None = Field(
        None, max_length=64, description="last, not included; default: now", examples=["2026-01-31T12:00:00Z"]
    )
    products: Annotated[list[str] | None, BeforeValidator(checked_products)] = Field(
        None, description="only these of the products that the rule watches", examples=[["BTC-USD"]]
    )

    def wanted(self) -> Wanted:
        """Return what is to be tried; raises Problem 422."""
        begin, end = end_given("/from", self.from_), end_given("/to", self.to)
        narrowed = self if self.products is None else self.model_copy(update={"product": self._narrowed(self.products)})
        rule = narrowed.model_dump_json(exclude={"from_", "to", "products", "enabled"}, exclude_none=True)
        return Wanted(rule, None if begin is None else to_micros(begin), None if end is None else to_micros(end))

    def _narrowed(self, products: list[str]) -> list[str]:
        watched = [self.product] if isinstance(self.product, str) else self.product
        faults = [
            FieldError(f"/products/{index}", f"{product!r} is not among the products that the rule watches")
            for index, product in enumerate(products)
            if EVERY_PRODUCT not in watched and product not in watched
        ]
        if faults:
            raise invalid_body(faults)
        return products


class ShownTransition(Shown):
    """A transition, as `pulsestream backtest --json` tells it."""

    rule: str = Field(examples=["btc-below-15000"])
    product: str = Field(examples=["BTC-USD"])
    state: str = Field(description="pending, firing, resolved, or inactive: a pending one cancelled")
    at: str = Field(description="event time", examples=["2026-01-31T11:58:07.000000Z"])
    value: float | None
    reason: str = Field(description="in words")
    exchange: str = Field(examples=["coinbase"])
    threshold: float | None
    window: str | None
    severity: str
    labels: dict[str, str]


class ShownSummary(Shown):
    """What a rule's transitions come to."""

    fired: int = Field(description="how often, all products together")
    would_notify: int = Field(description="how often somebody would have been told; silences are not looked at")
    firing_seconds: float = Field(description="how long it fired, all products together")
    longest_seconds: float
    firing_at_end: int = Field(description="for how many products it fires still when the records end")


class ShownRecords(Shown):
    """The records that a rule was tried on."""

    count: int
    first: str | None = Field(description="event time; null: there was no record")
    last: str | None
    left_out: dict[str, int] = Field(
        description="of records that the platform drops: duplicate, late, late_for_alerts", examples=[{}]
    )


class ShownTrial(Shown):
    """What a rule would have done."""

    from_: str = Field(alias="from", description="first event time, included")
    to: str = Field(description="last, not included")
    transitions: list[ShownTransition] = Field(description="in order of time, the first 1,000")
    count: int = Field(description="of all transitions")
    truncated: bool = Field(description="whether there are more than are told")
    summary: ShownSummary
    records: ShownRecords


class VersionsParameters(BaseModel):
    """Which versions to list. Unknown parameters are refused, so that a misspelt one is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=MAX_PAGE)
    before: int | None = Field(None, ge=1, lt=2**63, description="only versions below this one")


@router.post(
    "",
    status_code=201,
    response_model=ShownRule,
    responses=problems(400, 401, 403, 409, 422, 503) | {201: _TAGGED[201]},
)
async def create_rule(
    body: Annotated[RuleDefinition, Body(examples=[_EXAMPLE])],
    caller: CanWriteRules,
    service: RulesService,
    response: Response,
) -> RuleRow:
    """Make a rule. It applies to ticks that reach Kafka from `effective_at` on, within seconds."""
    return _tagged(response, await service.create(caller, body))


@router.post("/test", response_model=ShownTrial, responses=problems(400, 401, 403, 422, 503))
async def test_rule(
    body: Annotated[RuleTrial, Body(examples=[_EXAMPLE | {"from": "2026-01-30T12:00:00Z"}])],
    caller: CanWriteRules,
    service: Annotated[Trials, Depends(trials)],
) -> Response:
    """Try a rule on stored ticks and trades before it is saved: what the live evaluator makes of them. Saves nothing.

    503 where too many are tried at this moment, or this one takes too long: `Retry-After`.
    """
    return Response(await service.run(caller.tenant, body.wanted()), media_type="application/json")


@router.get("", response_model=ShownRules, responses=problems(400, 401, 403, 503))
async def list_rules(caller: CanReadRules, service: RulesService) -> dict[str, list[RuleRow]]:
    """List the tenant's rules, oldest first."""
    return {"rules": await service.list(caller.tenant)}


@router.get("/{rule_id}", response_model=ShownRule, responses=problems(400, 401, 403, 404, 503) | {200: _TAGGED[200]})
async def get_rule(rule_id: str, caller: CanReadRules, service: RulesService, response: Response) -> RuleRow:
    """Show a rule."""
    return _tagged(response, await service.get(caller.tenant, rule_id))


@router.get("/{rule_id}/versions", response_model=ShownVersions, responses=problems(400, 401, 403, 404, 503))
async def list_rule_versions(
    rule_id: str, parameters: Annotated[VersionsParameters, Query()], caller: CanReadRules, service: RulesService
) -> dict[str, Any]:
    """List a rule's versions, newest first: what each changed, who made it, when it held; of a deleted rule, too."""
    page = await service.versions(caller.tenant, rule_id, parameters.limit, parameters.before)
    return {"versions": [_shown(version) for version in page.versions], "next_before": page.next_before}


@router.put(
    "/{rule_id}",
    response_model=ShownRule,
    responses=problems(400, 401, 403, 404, 409, 412, 422, 428, 503) | {200: _TAGGED[200]},
)
async def replace_rule(
    rule_id: str,
    body: Annotated[RuleDefinition, Body(examples=[_EXAMPLE])],
    *,
    caller: CanWriteRules,
    service: RulesService,
    response: Response,
    if_match: IfMatch = None,
) -> RuleRow:
    """Put another definition in a rule's place, as its next version. The whole of it: what is left out has its default.

    Alerts that the version before has open are resolved with reason `rule_changed`. `If-Match` says from which version
    the change was made, so that nobody's change is overwritten unseen. Safe to repeat.
    """
    return _tagged(response, await service.replace(caller, rule_id, body, match_of(if_match)))


@router.post(
    "/{rule_id}/pause",
    response_model=ShownRule,
    responses=problems(400, 401, 403, 404, 412, 503) | {200: _TAGGED[200]},
)
async def pause_rule(
    rule_id: str, caller: CanWriteRules, service: RulesService, response: Response, if_match: IfMatch = None
) -> RuleRow:
    """Pause a rule: it evaluates nothing until it is resumed, and what it has open is resolved (`rule_changed`).

    Safe to repeat: a rule that is paused stays as it is.
    """
    paused = await service.set_enabled(caller, rule_id, match_of(if_match), enabled=False)
    return _tagged(response, paused)


@router.post(
    "/{rule_id}/resume",
    response_model=ShownRule,
    responses=problems(400, 401, 403, 404, 412, 503) | {200: _TAGGED[200]},
)
async def resume_rule(
    rule_id: str, caller: CanWriteRules, service: RulesService, response: Response, if_match: IfMatch = None
) -> RuleRow:
    """Let a paused rule go on, from nothing. Safe to repeat."""
    resumed = await service.set_enabled(caller, rule_id, match_of(if_match), enabled=True)
    return _tagged(response, resumed)


@router.delete("/{rule_id}", status_code=204, responses=problems(400, 401, 403, 404, 412, 503))
async def delete_rule(rule_id: str, caller: CanWriteRules, service: RulesService, if_match: IfMatch = None) -> None:
    """Delete a rule. Alerts that it has open are resolved with reason `rule_changed`."""
    await service.delete(caller, rule_id, match_of(if_match))


def _tagged(response: Response, rule: RuleRow) -> RuleRow:
    response.headers["ETag"] = tag_of(rule.version)
    return rule


def _shown(version: Version) -> dict[str, Any]:
    return asdict(version.row) | {"change": version.change, "differences": version.differences}
