"""POST, GET and DELETE /api/v1/rules."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from pydantic import Field

from api.auth import CanReadRules, CanWriteRules
from api.dependencies import rules
from api.models import Moment, Shown
from api.openapi import problems
from api.rules.repository import RuleRow
from api.rules.service import Rules
from streams.engine.rules import RuleDefinition

router = APIRouter(tags=["rules"], prefix="/api/v1/rules")
RulesService = Annotated[Rules, Depends(rules)]
_EXAMPLE = {
    "name": "btc-below-15000",
    "product": "BTC-USD",
    "exchange": "coinbase",
    "condition": {"type": "price", "below": 15000, "clear": 15100},
    "for": "60s",
    "severity": "warning",
    "labels": {"desk": "spot"},
}


class ShownRule(Shown):
    """The newest version of a rule."""

    rule_id: str = Field(examples=["019c1f6e-8f2a-7c31-9d55-0c1f6e8f2a7c"])
    version: int = Field(description="counts up with every change", examples=[1])
    name: str = Field(examples=["btc-below-15000"])
    enabled: bool
    definition: dict[str, Any] = Field(description="the rule with its defaults", examples=[_EXAMPLE])
    created_at: Moment = Field(description="of this version")
    created_by: str = Field(description="id of the key that made this version")
    effective_at: Moment | None = Field(
        description="from when on ticks are judged by this version; null until the streams can know it"
    )


class ShownRules(Shown):
    """The tenant's rules."""

    rules: list[ShownRule]


@router.post("", status_code=201, response_model=ShownRule, responses=problems(400, 401, 403, 409, 422, 503))
async def create_rule(
    body: Annotated[RuleDefinition, Body(examples=[_EXAMPLE])], caller: CanWriteRules, service: RulesService
) -> RuleRow:
    """Make a rule. It applies to ticks that reach Kafka from `effective_at` on, within seconds."""
    return await service.create(caller, body)


@router.get("", response_model=ShownRules, responses=problems(400, 401, 403, 503))
async def list_rules(caller: CanReadRules, service: RulesService) -> dict[str, list[RuleRow]]:
    """List the tenant's rules, oldest first."""
    return {"rules": await service.list(caller.tenant)}


@router.get("/{rule_id}", response_model=ShownRule, responses=problems(400, 401, 403, 404, 503))
async def get_rule(rule_id: str, caller: CanReadRules, service: RulesService) -> RuleRow:
    """Show a rule."""
    return await service.get(caller.tenant, rule_id)


@router.delete("/{rule_id}", status_code=204, responses=problems(400, 401, 403, 404, 503))
async def delete_rule(rule_id: str, caller: CanWriteRules, service: RulesService) -> None:
    """Delete a rule. Alerts that it has open are resolved with reason `rule_changed`."""
    await service.delete(caller, rule_id)
