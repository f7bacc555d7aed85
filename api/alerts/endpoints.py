"""/api/v1/alerts/current, and marks on alerts: acknowledge, snooze, and both taken back."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi import Body as Given
from pydantic import BaseModel, ConfigDict, Field

from api import errors
from api.alerts.repository import CurrentAlert, Wanted
from api.alerts.service import EVERY, OPEN, Alerts
from api.auth import CanReadData, CanWriteAlerts
from api.dependencies import alerts
from api.models import Body, Moment, Shown
from api.openapi import problems
from pulsestream.core.clock import parse_rfc3339, to_datetime

router = APIRouter(tags=["alerts"], prefix="/api/v1/alerts")
Service = Annotated[Alerts, Depends(alerts)]
MAX_PAGE = 500
_RULE = "019c1f6e-8f2a-7c31-9d55-0c1f6e8f2a7c"
_ID = f"{_RULE}:1:coinbase:BTC-USD:firing:1769860800000000"
_STATES = {"open": OPEN, "pending": ("pending",), "firing": ("firing",), "any": EVERY}


class CurrentParameters(BaseModel):
    """Which alerts. Unknown parameters are refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Literal["open", "pending", "firing", "any"] = Field("open", description="open: pending or firing")
    rule_id: str | None = Field(None, max_length=64, description="of this rule", examples=[_RULE])
    exchange: str | None = Field(None, max_length=64, examples=["coinbase"])
    product: str | None = Field(None, max_length=64, examples=["BTC-USD"])
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the page before")

    def wanted(self) -> Wanted:
        """Return which alerts are meant."""
        return Wanted(_STATES[self.state], self.rule_id, self.exchange, self.product)


class NamedAlert(Body):
    """An alert."""

    alert_id: str = Field(min_length=1, max_length=300, examples=[_ID])


class AcknowledgeBody(NamedAlert):
    """An alert that somebody takes note of."""

    comment: str | None = Field(None, max_length=500, description="for those who look at it", examples=["on it"])


class SnoozeBody(AcknowledgeBody):
    """An alert that nobody wants to hear of for some time."""

    until: str = Field(max_length=64, description="RFC 3339, at most 30 days ahead", examples=["2026-01-31T12:00:00Z"])


class ShownAcknowledgement(Shown):
    """Who took note of an alert."""

    at: Moment
    by: str = Field(description="id of the key")
    comment: str | None


class ShownSnooze(ShownAcknowledgement):
    """Who does not want to hear of a rule for one product, and until when."""

    until: Moment


class ShownCurrent(Shown):
    """How a rule stands for one product."""

    alert_id: str = Field(description="of the newest alert", examples=[_ID])
    rule_id: str = Field(examples=[_RULE])
    rule_name: str = Field(examples=["btc-below-15000"])
    rule_version: int
    exchange: str = Field(description="* where the rule compares exchanges", examples=["coinbase"])
    product: str = Field(examples=["BTC-USD"])
    state: str = Field(description="pending, firing, resolved or inactive", examples=["firing"])
    at: Moment = Field(description="event time since which it is so")
    value: float | None
    threshold: float | None
    reason: str = Field(examples=["price 14990 is below 15000, for 1m"])
    severity: str = Field(examples=["warning"])
    labels: dict[str, str]
    window: str | None
    muted: str | None = Field(
        description="why nobody is told of it now: acknowledged, snoozed until …, silence <id>; null: they are",
        examples=[None],
    )
    acknowledged: ShownAcknowledgement | None
    snoozed: ShownSnooze | None = Field(description="of the rule for this product, also after its time")


class ShownAlerts(Shown):
    """A page of alerts as they stand, in the order of rule, exchange and product."""

    alerts: list[ShownCurrent]
    next_cursor: str | None = Field(description="for the next page; null after the last one", examples=[None])


_MARKED = problems(400, 401, 403, 404, 413, 415, 422, 503)


@router.get("/current", response_model=ShownAlerts, responses=problems(400, 401, 403, 503))
async def current_alerts(
    parameters: Annotated[CurrentParameters, Query()], caller: CanReadData, service: Service
) -> dict[str, Any]:
    """List how each rule stands for each product, as far as it is stored: by default what is pending or firing."""
    page = await service.current(caller.tenant, parameters.wanted(), parameters.limit, parameters.cursor)
    return {"alerts": [shown(alert) for alert in page.alerts], "next_cursor": page.next_cursor}


@router.post("/acknowledge", response_model=ShownCurrent, responses=_MARKED | problems(409))
async def acknowledge_alert(
    body: Annotated[AcknowledgeBody, Given()], caller: CanWriteAlerts, service: Service
) -> dict[str, Any]:
    """Take note of an alert that is pending or firing: nobody is told of it again until it ends.

    The end is told, and what fires next, too. Safe to repeat.
    """
    return shown(await service.acknowledge(caller, body.alert_id, body.comment))


@router.post("/unacknowledge", response_model=ShownCurrent, responses=_MARKED)
async def unacknowledge_alert(
    body: Annotated[NamedAlert, Given()], caller: CanWriteAlerts, service: Service
) -> dict[str, Any]:
    """Take an acknowledgement back. Safe to repeat."""
    return shown(await service.unacknowledge(caller, body.alert_id))


@router.post("/snooze", response_model=ShownCurrent, responses=_MARKED)
async def snooze_alert(
    body: Annotated[SnoozeBody, Given()], caller: CanWriteAlerts, service: Service
) -> dict[str, Any]:
    """Tell nobody of a rule for one product until a time, whatever becomes of it. Safe to repeat."""
    return shown(await service.snooze(caller, body.alert_id, _until(body.until), body.comment))


@router.post("/unsnooze", response_model=ShownCurrent, responses=_MARKED)
async def unsnooze_alert(
    body: Annotated[NamedAlert, Given()], caller: CanWriteAlerts, service: Service
) -> dict[str, Any]:
    """End a snooze. Safe to repeat."""
    return shown(await service.unsnooze(caller, body.alert_id))


def shown(alert: CurrentAlert) -> dict[str, Any]:
    """Return an alert as it is shown; an acknowledgement of an earlier firing is not."""
    mark = alert.mark
    fields = {name: getattr(alert, name, None) for name in ShownCurrent.model_fields}
    if mark.covers(alert.rule_version, alert.seq):
        fields["acknowledged"] = {
            "at": mark.acknowledged_at,
            "by": mark.acknowledged_by,
            "comment": mark.acknowledged_comment,
        }
    if mark.snoozed_until is not None:
        fields["snoozed"] = {
            "at": mark.snoozed_at,
            "by": mark.snoozed_by,
            "comment": mark.snoozed_comment,
            "until": mark.snoozed_until,
        }
    return fields


def _until(text: str) -> datetime:
    try:
        return to_datetime(parse_rfc3339(text))
    except (ValueError, OverflowError) as error:
        fault = f"{text[:60]!r} is not a time: write it as 2026-01-31T12:00:00Z"
        raise errors.invalid_body([errors.FieldError("/until", fault)]) from error
