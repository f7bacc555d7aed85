"""What raises alerts, how they stand, who is told of them, and who is not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack, cast

from pulsestream.client.objects import (
    Attempt,
    Channel,
    ChannelChanges,
    ChannelSettings,
    CurrentAlert,
    MadeChannel,
    Matcher,
    Message,
    Rule,
    RuleTrial,
    RuleVersion,
    Silence,
    Weekly,
)
from pulsestream.client.rows import AlertRow, Order
from pulsestream.client.transport import Transport, parameters, route

PAGE = 100
ROWS = 1000
"""Transitions of a page."""


class Rules:
    """What raises an alert.

    `version` is the one that a change was made from: where there is a newer one, it is refused and `ApiError.code` is
    "precondition-failed". None: whichever there is.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, definition: Mapping[str, Any]) -> Rule:
        """Make a rule. When no answer comes it may have been made: look at `list` before trying again."""
        return cast(Rule, self._transport.request("POST", route("rules"), body=definition, repeatable=False))

    def test(
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
        asked = {"from": from_, "to": to, "products": None if products is None else [*products]}
        body = {**definition, **{name: value for name, value in asked.items() if value is not None}}
        return cast(RuleTrial, self._transport.request("POST", route("rules", "test"), body=body))

    def list(self) -> Sequence[Rule]:
        """Return the tenant's rules, oldest first."""
        return cast(Sequence[Rule], self._transport.request("GET", route("rules"))["rules"])

    def get(self, rule_id: str) -> Rule:
        """Return a rule."""
        return cast(Rule, self._transport.request("GET", route("rules", rule_id)))

    def replace(self, rule_id: str, definition: Mapping[str, Any], *, version: int | None) -> Rule:
        """Put another definition in a rule's place: the whole of it, what is left out has its default."""
        headers = _made_from(version) or {"If-Match": "*"}
        made = self._transport.request("PUT", route("rules", rule_id), body=definition, headers=headers)
        return cast(Rule, made)

    def pause(self, rule_id: str, *, version: int | None = None) -> Rule:
        """Let a rule evaluate nothing until it is resumed."""
        return cast(
            Rule, self._transport.request("POST", route("rules", rule_id, "pause"), headers=_made_from(version))
        )

    def resume(self, rule_id: str, *, version: int | None = None) -> Rule:
        """Let a paused rule go on."""
        return cast(
            Rule, self._transport.request("POST", route("rules", rule_id, "resume"), headers=_made_from(version))
        )

    def versions(self, rule_id: str) -> Iterator[RuleVersion]:
        """Yield the versions of a rule, of a deleted one, too, the newest first."""
        found = self._transport.walk(route("rules", rule_id, "versions"), "versions", {}, by="before")
        return cast(Iterator[RuleVersion], found)

    def delete(self, rule_id: str, *, version: int | None = None) -> None:
        """Delete a rule. A second deletion is refused: `ApiError.code` is "not-found"."""
        self._transport.request("DELETE", route("rules", rule_id), headers=_made_from(version))


class Alerts:
    """How rules stand now and stood before, and who took note of it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def current(self, *, page: int = PAGE, **filters: Any) -> Iterator[CurrentAlert]:
        """Yield how each rule stands for each product, by default what is pending or firing."""
        query = {**parameters(filters), "limit": page}
        return cast(Iterator[CurrentAlert], self._transport.walk(route("alerts", "current"), "alerts", query))

    def history(self, *, order: Order = "desc", page: int = ROWS, **filters: Any) -> Iterator[AlertRow]:
        """Yield transitions of alerts as they are stored."""
        query = {**parameters(filters), "order": order, "limit": page}
        return cast(Iterator[AlertRow], self._transport.walk(route("alerts"), "rows", query))

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
        return cast(CurrentAlert, self._transport.request("POST", route("alerts", how), body=body))


class Channels:
    """Where alerts go."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, target: Mapping[str, Any], **settings: Unpack[ChannelSettings]) -> MadeChannel:
        """Make a channel; a webhook's signing secret is in this answer only.

        A target is such as {"kind": "webhook", "url": "https://example.com/alerts"}.
        """
        body = {"name": name, "target": target, **settings}
        return cast(MadeChannel, self._transport.request("POST", route("channels"), body=body, repeatable=False))

    def list(self) -> Sequence[Channel]:
        """Return the tenant's channels, oldest first."""
        return cast(Sequence[Channel], self._transport.request("GET", route("channels"))["channels"])

    def get(self, channel_id: str) -> Channel:
        """Return a channel."""
        return cast(Channel, self._transport.request("GET", route("channels", channel_id)))

    def change(self, channel_id: str, **changes: Unpack[ChannelChanges]) -> Channel:
        """Change a channel, pause it (`enabled=False`), or have one that was disabled work again."""
        return cast(Channel, self._transport.request("PATCH", route("channels", channel_id), body=changes))

    def delete(self, channel_id: str) -> None:
        """Delete a channel, with its messages and their log."""
        self._transport.request("DELETE", route("channels", channel_id))

    def test(self, channel_id: str) -> str:
        """Send a test message, once, and return its id: `attempts` says what became of it."""
        sent = self._transport.request("POST", route("channels", channel_id, "test"), repeatable=False)
        return cast(str, sent["message_id"])

    def attempts(self, channel_id: str, *, page: int = PAGE, **filters: Any) -> Iterator[Attempt]:
        """Yield attempts to deliver the channel's messages, the newest first: `message_id`, `outcome`."""
        query = {**filters, "limit": page}
        found = self._transport.walk(route("channels", channel_id, "attempts"), "attempts", query)
        return cast(Iterator[Attempt], found)

    def messages(self, channel_id: str, *, page: int = PAGE, state: str | None = None) -> Iterator[Message]:
        """Yield the channel's messages, the newest first."""
        query = {"state": state, "limit": page}
        found = self._transport.walk(route("channels", channel_id, "messages"), "messages", query)
        return cast(Iterator[Message], found)

    def resend(self, channel_id: str, *, message_id: str | None = None, failed_since: str | None = None) -> int:
        """Send one message again, or all that failed since a time (RFC 3339); returns how many."""
        body = {"message_id": message_id, "failed_since": failed_since}
        path = route("channels", channel_id, "resend")
        return cast(int, self._transport.request("POST", path, body=body, repeatable=False)["messages"])


class Silences:
    """Which alerts nobody is told of, and until when."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        matchers: Iterable[Matcher],
        comment: str,
        *,
        ends_at: str | None = None,
        starts_at: str | None = None,
        weekly: Weekly | None = None,
    ) -> Silence:
        """Silence the alerts that all matchers hold for, from a time (or now) until another.

        With `weekly` it is a maintenance window, which comes back every week and needs no end.
        """
        body = {"matchers": [*matchers], "comment": comment, "starts_at": starts_at, "ends_at": ends_at}
        made = self._transport.request("POST", route("silences"), body={**body, "weekly": weekly}, repeatable=False)
        return cast(Silence, made)

    def list(self, state: str = "any", *, page: int = PAGE) -> Iterator[Silence]:
        """Yield silences of a state (active, pending, expired, any), the newest first."""
        found = self._transport.walk(route("silences"), "silences", {"state": state, "limit": page}, by="before")
        return cast(Iterator[Silence], found)

    def get(self, silence_id: str) -> Silence:
        """Return a silence."""
        return cast(Silence, self._transport.request("GET", route("silences", silence_id)))

    def preview(self, matchers: Iterable[Matcher]) -> Sequence[CurrentAlert]:
        """Return which pending and firing alerts these matchers would silence."""
        answer = self._transport.request("POST", route("silences", "preview"), body={"matchers": [*matchers]})
        return cast(Sequence[CurrentAlert], answer["alerts"])

    def end(self, silence_id: str) -> None:
        """End a silence now."""
        self._transport.request("DELETE", route("silences", silence_id))


def _made_from(version: int | None) -> dict[str, str] | None:
    return None if version is None else {"If-Match": f'"{version}"'}
