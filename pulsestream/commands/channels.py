"""Channels that alerts go to: made, changed, tried and looked after over the HTTP API."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

from pulsestream.client import Client
from pulsestream.client.objects import Channel, ChannelSettings
from pulsestream.commands.shown import listing, printable
from pulsestream.core.errors import UsageError

_COLUMNS: Final = ("id", "name", "state", "target", "matchers", "failing_since")
_ATTEMPTS: Final = ("at", "message_id", "type", "number", "outcome", "status", "error")
_MESSAGES: Final = ("created_at", "id", "type", "state", "attempts", "next_at", "detail")
_STDIN: Final = "-"


def target_of(
    webhook: str | None, mail: Sequence[str], file: str | None, read: Callable[[], str]
) -> dict[str, Any] | None:
    """Return the target that was asked for, None for none; raises UsageError where there are several.

    A file, or `read` for a hyphen, holds one as JSON: what is secret in it does not stand on a command line.
    """
    if (webhook is not None) + bool(mail) + (file is not None) > 1:
        raise UsageError("a channel has one target: give one of --webhook, --email and --target")
    if webhook is not None:
        return {"kind": "webhook", "url": webhook}
    if mail:
        return {"kind": "email", "to": [*mail]}
    return None if file is None else _target(file, read)


def settings_of(severities: Sequence[str], products: Sequence[str], labels: Sequence[str]) -> ChannelSettings:
    """Return the matchers of the options; none: they stay as they are. Raises UsageError for a label that is none."""
    given: dict[str, Any] = {"severities": [*severities], "products": [*products], "labels": _labels(labels)}
    matchers: Any = {name: values for name, values in given.items() if values}
    return {"matchers": matchers} if matchers else {}


def create(api: Client, name: str, target: Mapping[str, Any], more: ChannelSettings, *, as_json: bool) -> str:
    """Make a channel and return what to show: a webhook's signing secret, once."""
    made = api.channels.create(name, target, **more)
    if as_json:
        return json.dumps(made, ensure_ascii=False)
    told = f"channel {made['name']} made as {made['id']}; try it: pulsestream channels test {made['id']}"
    if made["secret"] is None:
        return printable(told)
    return printable(told) + f"\nIts messages are signed with this secret, shown this once:\n{made['secret']}"


def listed(api: Client, *, as_json: bool, out: TextIO) -> None:
    """Write the tenant's channels, oldest first."""
    channels = api.channels.list()
    listing(channels if as_json else map(_readable, channels), _COLUMNS, as_json=as_json, out=out)


def show(api: Client, named: str) -> str:
    """Return a channel as JSON."""
    return json.dumps(_found(api, named), ensure_ascii=False, indent=2)


def change(api: Client, named: str, name: str | None, target: dict[str, Any] | None, more: ChannelSettings) -> str:
    """Change a channel and return what to show; raises UsageError where nothing is to be changed."""
    given: Any = {"name": name, "target": target}
    changes: Any = {member: value for member, value in given.items() if value is not None} | more
    if not changes:
        raise UsageError("nothing to change was given: --name, a target, or what an alert has to be")
    found = _found(api, named)
    if "matchers" in changes:
        changes["matchers"] = {**found["matchers"], **changes["matchers"]}  # the API takes them as a whole
    changed = api.channels.change(found["id"], **changes)
    return printable(f"channel {changed['name']} is changed: " + json.dumps(changed, ensure_ascii=False))


def enable(api: Client, named: str, *, enabled: bool) -> str:
    """Pause a channel, or have it work again; return what to show."""
    changed = api.channels.change(_found(api, named)["id"], enabled=enabled)
    said = (
        "alerts go there again" if enabled else "nothing is sent there, and what fires meanwhile is not told of later"
    )
    return printable(f"channel {changed['name']} is {changed['state']}: {said}")


def delete(api: Client, named: str) -> str:
    """Delete a channel; return what to show."""
    channel = _found(api, named)
    api.channels.delete(channel["id"])
    return printable(f"channel {channel['name']} deleted, with its messages and their log")


def test(api: Client, named: str) -> str:
    """Send a test message; return what to show."""
    channel = _found(api, named)
    message_id = api.channels.test(channel["id"])
    return f"{message_id} is on its way; what became of it: pulsestream channels attempts {channel['id']}"


def attempts(api: Client, named: str, limit: int, *, as_json: bool, out: TextIO, **filters: Any) -> None:
    """Write attempts to deliver a channel's messages, the newest first."""
    found = api.channels.attempts(_found(api, named)["id"], **filters)
    listing(islice(found, limit or None), _ATTEMPTS, as_json=as_json, out=out)


def messages(api: Client, named: str, state: str | None, limit: int, *, as_json: bool, out: TextIO) -> None:
    """Write a channel's messages, the newest first."""
    found = api.channels.messages(_found(api, named)["id"], state=state)
    listing(islice(found, limit or None), _MESSAGES, as_json=as_json, out=out)


def resend(api: Client, named: str, message_id: str | None, failed_since: str | None) -> str:
    """Have messages sent again; return what to show. Raises UsageError unless exactly one way of choosing is used."""
    if (message_id is None) == (failed_since is None):
        raise UsageError("say which messages: --message ID, or --failed-since TIME; one of these")
    count = api.channels.resend(_found(api, named)["id"], message_id=message_id, failed_since=failed_since)
    return f"{count} message{'' if count == 1 else 's'} on the way again, the same bytes under the same ids"


def _found(api: Client, named: str) -> Channel:
    """Return the channel of an id or a name; raises UsageError, which says what there is."""
    channels = api.channels.list()
    for channel in channels:
        if named in {channel["id"], channel["name"]}:
            return channel
    names = ", ".join(channel["name"] for channel in channels) or "none so far"
    raise UsageError(printable(f"there is no channel of the name or id {named!r}; the tenant has {names}"))


def _readable(channel: Channel) -> dict[str, Any]:
    target = " ".join(",".join(value) if isinstance(value, list) else value for value in channel["target"].values())
    given: dict[str, Any] = {**channel["matchers"]}
    labels = {f"labels.{name}": values for name, values in given.pop("labels", {}).items()}
    matchers = " ".join(f"{name}={','.join(values)}" for name, values in (given | labels).items() if values)
    return {**channel, "target": target, "matchers": matchers or "every alert"}


def _target(file: str, read: Callable[[], str]) -> dict[str, Any]:
    try:
        found = json.loads(read() if file == _STDIN else Path(file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--target {file}: cannot be read: {error}") from error
    except ValueError as error:
        raise UsageError(f'--target {file}: is no JSON such as {{"kind": "slack", "url": "https://…"}}') from error
    if not isinstance(found, dict):
        raise UsageError(f'--target {file}: is no object such as {{"kind": "slack", "url": "https://…"}}')
    return found


def _labels(labels: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for label in labels:
        name, equals, value = label.partition("=")
        if not (name and equals):
            raise UsageError(f"--label {label!r} is not NAME=VALUE, such as desk=spot")
        found.setdefault(name, []).append(value)
    return found
