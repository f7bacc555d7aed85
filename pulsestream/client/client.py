"""The API's routes as methods."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, cast
from urllib.parse import quote

from pulsestream.client.batches import MAX_EVENTS, Event, all_rejected, batches, with_id
from pulsestream.client.errors import ApiError
from pulsestream.client.rows import (
    AlertRow,
    BarRow,
    CurrentAlert,
    EventRow,
    Order,
    Registered,
    Rule,
    RuleTrial,
    RuleVersion,
    Sent,
    StatRow,
    Subscription,
    TickRow,
    TradeRow,
)
from pulsestream.client.transport import TRIES, Query, Transport

TIMEOUT: Final = 60.0
"""Seconds that an answer may take: a page of a replay waits for the broker."""
PAGE: Final = 1000

Json = dict[str, Any]


class Client:
    """The API of one installation, for the tenant of one key.

    Methods raise ApiError for a refusal, and UnavailableError when no answer comes however often it is tried.
    Filters and times are those of the routes (`from_` is `from`): see /docs of the installation.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = TIMEOUT, tries: int = TRIES) -> None:
        self.transport = Transport(url, key, timeout=timeout, tries=tries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.transport.close()

    # ---- tenant and subscriptions ----

    def register(self, tenant: str, name: str = "", *, token: str | None = None) -> Registered:
        """Make a tenant, with an invitation where the installation asks for one; its key is in this answer only."""
        body = {"tenant": tenant, "name": name, "token": token}
        made = self.transport.request("POST", "/api/v1/auth/register/tenant", body=body, repeatable=False)
        return cast(Registered, made)

    def subscriptions(self) -> list[Subscription]:
        """Return the products that the tenant gets."""
        return cast(list[Subscription], self.transport.request("GET", "/api/v1/subscriptions")["subscriptions"])

    def set_subscriptions(
        self, products: Iterable[tuple[str, str]], datasets: Sequence[Literal["ticks", "trades"]] = ("ticks", "trades")
    ) -> list[Subscription]:
        """Get exactly these products, (exchange, product) each, from now on."""
        wanted = [
            {"exchange": exchange, "product": product, "datasets": list(datasets)} for exchange, product in products
        ]
        answer = self.transport.request("PUT", "/api/v1/subscriptions", body={"subscriptions": wanted})
        return cast(list[Subscription], answer["subscriptions"])

    # ---- events ----

    def send(self, event: Event) -> Sent:
        """Send an event and return when it is in Kafka; one without an id gets one, so that a retry has no effect."""
        answer = self.transport.request("POST", "/api/v1/ingestion/events", body=with_id(event))
        return cast(Sent, answer)

    def send_all(self, events: Iterable[Event], *, batch: int = MAX_EVENTS) -> Iterator[Sent]:
        """Send events in batches as they come, and yield what became of each, in their order.

        A rejected one does not stop the others. Read to the end: what is not read may not have been sent.
        """
        if not 1 <= batch <= MAX_EVENTS:
            raise ValueError(f"batch is {batch}: a request takes 1 to {MAX_EVENTS} events")
        for some in batches(events, batch):
            yield from self._send_batch(some)

    def _send_batch(self, batch: list[Event]) -> list[Sent]:
        try:
            answer = self.transport.request("POST", "/api/v1/ingestion/events/batch", body={"events": batch})
        except ApiError as error:
            rejected = all_rejected(batch, error.document)
            if rejected is None:
                raise
            return rejected
        return cast(list[Sent], answer["results"])

    # ---- search ----

    def ticks(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[TickRow]:
        """Yield stored ticks."""
        return cast(Iterator[TickRow], self._rows("/api/v1/ticks", order, page, filters))

    def trades(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[TradeRow]:
        """Yield stored trades."""
        return cast(Iterator[TradeRow], self._rows("/api/v1/trades", order, page, filters))

    def events(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[EventRow]:
        """Yield stored events; `contains` is JSON text that their data contains."""
        rows = self._rows("/api/v1/ingestion/events/search", order, page, {**filters, "dataset": "events"})
        return cast(Iterator[EventRow], rows)

    def stats(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[StatRow]:
        """Yield rolling statistics."""
        return cast(Iterator[StatRow], self._rows("/api/v1/stats", order, page, filters))

    def bars(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[BarRow]:
        """Yield bars as they are stored."""
        return cast(Iterator[BarRow], self._rows("/api/v1/bars", order, page, filters))

    def alerts(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[AlertRow]:
        """Yield transitions of alerts."""
        return cast(Iterator[AlertRow], self._rows("/api/v1/alerts", order, page, filters))

    def _rows(self, path: str, order: Order, page: int, filters: Query) -> Iterator[Json]:
        return self._walk(path, "rows", {**_query(filters), "order": order, "limit": page})

    def _walk(self, path: str, member: str, query: Query) -> Iterator[Json]:
        """Yield the rows of all pages; a walk ends where there are no more of them, a tail's, too."""
        cursor = None
        while True:
            answer = self.transport.request("GET", path, query={**query, "cursor": cursor})
            yield from answer[member]
            if answer["next_cursor"] in (None, cursor) or not answer[member]:
                return
            cursor = answer["next_cursor"]

    def export(self, dataset: str, *, format: Literal["ndjson", "csv"] = "ndjson", **filters: Any) -> Iterator[str]:  # noqa: A002 - the parameter's name in the API
        """Yield the lines of an export: rows as JSON, or a header and rows as CSV."""
        return self.transport.lines(
            "/api/v1/ingestion/events/search", {**_query(filters), "dataset": dataset, "format": format}
        )

    # ---- rules ----

    def rules(self) -> list[Rule]:
        """Return the tenant's rules, oldest first."""
        return cast(list[Rule], self.transport.request("GET", "/api/v1/rules")["rules"])

    def rule(self, rule_id: str) -> Rule:
        """Return a rule."""
        return cast(Rule, self.transport.request("GET", f"/api/v1/rules/{_segment(rule_id)}"))

    def create_rule(self, definition: Mapping[str, Any]) -> Rule:
        """Make a rule. When no answer comes it may have been made: look at `rules` before trying again."""
        return cast(Rule, self.transport.request("POST", "/api/v1/rules", body=definition, repeatable=False))

    def try_rule(
        self,
        definition: Mapping[str, Any],
        *,
        from_: str | None = None,
        to: str | None = None,
        products: Sequence[str] | None = None,
    ) -> RuleTrial:
        """Return what a rule would have done over stored records, by default of the last 24 h; nothing is saved.

        `products`: only these of those that it watches.
        """
        asked = {"from": from_, "to": to, "products": None if products is None else list(products)}
        body = {**definition, **{name: value for name, value in asked.items() if value is not None}}
        return cast(RuleTrial, self.transport.request("POST", "/api/v1/rules/test", body=body))

    def replace_rule(self, rule_id: str, definition: Mapping[str, Any], *, version: int | None) -> Rule:
        """Put another definition in a rule's place.

        `version` is the one that the change was made from: where there is a newer one, `ApiError.code` is
        "precondition-failed". None: whichever there is.
        """
        made_from = "*" if version is None else f'"{version}"'
        path = f"/api/v1/rules/{_segment(rule_id)}"
        return cast(Rule, self.transport.request("PUT", path, body=definition, headers={"If-Match": made_from}))

    def pause_rule(self, rule_id: str) -> Rule:
        """Let a rule evaluate nothing until it is resumed."""
        return cast(Rule, self.transport.request("POST", f"/api/v1/rules/{_segment(rule_id)}/pause"))

    def resume_rule(self, rule_id: str) -> Rule:
        """Let a paused rule go on."""
        return cast(Rule, self.transport.request("POST", f"/api/v1/rules/{_segment(rule_id)}/resume"))

    def rule_versions(self, rule_id: str) -> Iterator[RuleVersion]:
        """Yield the versions of a rule, of a deleted one, too, the newest first."""
        before = None
        while True:
            path = f"/api/v1/rules/{_segment(rule_id)}/versions"
            answer = self.transport.request("GET", path, query={"before": before})
            yield from answer["versions"]
            before = answer["next_before"]
            if before is None:
                return

    def delete_rule(self, rule_id: str) -> None:
        """Delete a rule. A second deletion is refused: `ApiError.code` is "not-found"."""
        self.transport.request("DELETE", f"/api/v1/rules/{_segment(rule_id)}")

    # ---- alerts as they stand ----

    def current_alerts(self, *, page: int = 100, **filters: Any) -> Iterator[CurrentAlert]:
        """Yield how each rule stands for each product, by default what is pending or firing."""
        rows = self._walk("/api/v1/alerts/current", "alerts", {**_query(filters), "limit": page})
        return cast(Iterator[CurrentAlert], rows)

    def acknowledge(self, alert_id: str, comment: str | None = None) -> CurrentAlert:
        """Take note of an alert; of one that has gone on, `ApiError.code` is "alert-moved-on"."""
        return self._mark("acknowledge", {"alert_id": alert_id, "comment": comment})

    def unacknowledge(self, alert_id: str) -> CurrentAlert:
        """Take an acknowledgement back."""
        return self._mark("unacknowledge", {"alert_id": alert_id})

    def snooze(self, alert_id: str, until: str, comment: str | None = None) -> CurrentAlert:
        """Tell nobody of an alert's rule and product until a time (RFC 3339)."""
        return self._mark("snooze", {"alert_id": alert_id, "until": until, "comment": comment})

    def unsnooze(self, alert_id: str) -> CurrentAlert:
        """End a snooze."""
        return self._mark("unsnooze", {"alert_id": alert_id})

    def _mark(self, how: str, body: Mapping[str, Any]) -> CurrentAlert:
        return cast(CurrentAlert, self.transport.request("POST", f"/api/v1/alerts/{how}", body=body))

    # ---- feeds, lag and dead letters ----

    def feeds(self, *, hours: int = 24, **filters: Any) -> Json:
        """Return how the tenant's products are fed, and how complete each hour is."""
        return cast(Json, self.transport.request("GET", "/api/v1/feeds", query={**filters, "hours": hours}))

    def status(self) -> Json:
        """Return how many records wait to be stored, and how old the newest rows are."""
        return cast(Json, self.transport.request("GET", "/api/v1/ingestion/status"))

    def dead_letters(
        self, *, order: Literal["asc", "desc"] = "desc", page: int = PAGE, **filters: Any
    ) -> Iterator[Json]:
        """Yield dead letters, by default the open ones."""
        query = {**_query(filters), "order": order, "limit": page}
        return self._walk("/api/v1/dead-letters", "dead_letters", query)

    def dead_letter(self, letter_id: str) -> Json:
        """Return a dead letter with its record."""
        return cast(Json, self.transport.request("GET", f"/api/v1/dead-letters/{_segment(letter_id)}"))

    def settle(self, how: Literal["replay", "discard"], body: Mapping[str, Any]) -> Json:
        """Replay or discard dead letters, one page of them; both are safe to repeat."""
        return cast(Json, self.transport.request("POST", f"/api/v1/dead-letters/{how}", body=body))

    # ---- audit ----

    def audit(self, *, page: int = PAGE, **filters: Any) -> Iterator[Json]:
        """Yield what was changed and refused, newest first."""
        return self._walk("/api/v1/audit", "entries", {**_query(filters), "limit": page})

    def verify_audit(self) -> Json:
        """Return what verifying the tenant's audit found, from the first row to the head, or to a bad one."""
        cursor = None
        while True:
            verdict = self.transport.request("GET", "/api/v1/audit/verify", query={"cursor": cursor})
            cursor = verdict["next_cursor"]
            if cursor is None:
                return cast(Json, {**verdict, "first": 1})


def _query(filters: Query) -> Json:
    """Return filters under the names of the API: `from` is no name in Python."""
    return {name.removesuffix("_"): value for name, value in filters.items()}


def _segment(text: str) -> str:
    return quote(text, safe="")
