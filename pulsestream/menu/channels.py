"""`pulsestream channels`."""

import sys
from typing import Annotated, Literal

import typer

from pulsestream.menu.common import SHOWN, ApiKey, AsJson, EachAsJson, Limit, group, opened

app = group("Channels that alerts go to: webhooks, e-mail, chat.")
Named = Annotated[
    str, typer.Argument(metavar="CHANNEL", help="name or id of a channel, as `pulsestream channels list` shows it")
]
Webhook = Annotated[str | None, typer.Option(help="address that gets a signed POST: https://example.com/alerts")]
Mail = Annotated[list[str] | None, typer.Option("--email", help="address that gets e-mail; can be repeated")]
TargetFile = Annotated[
    str | None, typer.Option("--target", help="any target, chats too, as JSON in a file, or - for the standard input")
]
Severities = Annotated[list[str] | None, typer.Option("--severity", help="only alerts of these; can be repeated")]
Products = Annotated[list[str] | None, typer.Option("--product", help="only alerts of these; can be repeated")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="only alerts with desk=spot; can be repeated")]


@app.command("create")
def channels_create(
    name: Annotated[str, typer.Argument(help="as people call it")],
    key: ApiKey,
    webhook: Webhook = None,
    email: Mail = None,
    target: TargetFile = None,
    severity: Severities = None,
    product: Products = None,
    label: Labels = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a channel; a webhook's signing secret is printed once.

    What a chat's target is, and what else can be set of a channel: docs/notifications.md.

    Examples: pulsestream channels create desk --webhook https://example.com/alerts --severity critical;
    pulsestream channels create night --email desk@example.com --label desk=spot;
    pulsestream channels create chat --target - < slack.json
    """
    from pulsestream.commands.channels import create, settings_of, target_of
    from pulsestream.core.errors import UsageError

    wanted = target_of(webhook, email or (), target, sys.stdin.read)
    if wanted is None:
        raise UsageError("a channel sends somewhere: give --webhook URL, --email ADDRESS or --target FILE")
    settings = settings_of(severity or (), product or (), label or ())
    with opened(key) as api:
        typer.echo(create(api, name, wanted, settings, as_json=as_json))


@app.command("list")
def channels_list(key: ApiKey, *, as_json: EachAsJson = False) -> None:
    """List the tenant's channels, with what is wrong with them.

    Example: pulsestream channels list
    """
    from pulsestream.commands.channels import listed

    with opened(key) as api:
        listed(api, as_json=as_json, out=sys.stdout)


@app.command("show")
def channels_show(channel: Named, key: ApiKey) -> None:
    """Show a channel as JSON.

    Example: pulsestream channels show desk
    """
    from pulsestream.commands.channels import show

    with opened(key) as api:
        typer.echo(show(api, channel))


@app.command("change")
def channels_change(
    channel: Named,
    key: ApiKey,
    name: Annotated[str | None, typer.Option(help="another name")] = None,
    webhook: Webhook = None,
    email: Mail = None,
    target: TargetFile = None,
    severity: Severities = None,
    product: Products = None,
    label: Labels = None,
) -> None:
    """Change a channel: what is given takes the place of what was.

    Examples: pulsestream channels change desk --webhook https://example.com/alerts/2;
    pulsestream channels change desk --severity critical --severity warning
    """
    from pulsestream.commands.channels import change, settings_of, target_of

    wanted = target_of(webhook, email or (), target, sys.stdin.read)
    settings = settings_of(severity or (), product or (), label or ())
    with opened(key) as api:
        typer.echo(change(api, channel, name, wanted, settings))


@app.command("pause")
def channels_pause(channel: Named, key: ApiKey) -> None:
    """Pause a channel: nothing is sent there, and nothing is kept for later.

    Example: pulsestream channels pause desk
    """
    from pulsestream.commands.channels import enable

    with opened(key) as api:
        typer.echo(enable(api, channel, enabled=False))


@app.command("resume")
def channels_resume(channel: Named, key: ApiKey) -> None:
    """Have a channel that is paused, or was disabled after days of failures, work again.

    Example: pulsestream channels resume desk
    """
    from pulsestream.commands.channels import enable

    with opened(key) as api:
        typer.echo(enable(api, channel, enabled=True))


@app.command("delete")
def channels_delete(channel: Named, key: ApiKey) -> None:
    """Delete a channel, with its messages and their log.

    Example: pulsestream channels delete desk
    """
    from pulsestream.commands.channels import delete

    with opened(key) as api:
        typer.echo(delete(api, channel))


@app.command("test")
def channels_test(channel: Named, key: ApiKey) -> None:
    """Send a test message, once; also to a channel that is paused.

    Example: pulsestream channels test desk
    """
    from pulsestream.commands.channels import test

    with opened(key) as api:
        typer.echo(test(api, channel))


@app.command("attempts")
def channels_attempts(
    channel: Named,
    key: ApiKey,
    message: Annotated[str | None, typer.Option(help="only of this message")] = None,
    outcome: Annotated[Literal["delivered", "failed"] | None, typer.Option()] = None,
    limit: Limit = SHOWN,
    *,
    as_json: EachAsJson = False,
) -> None:
    """List attempts to deliver a channel's messages, the newest first: what was answered, and what went wrong.

    Examples: pulsestream channels attempts desk --outcome failed; pulsestream channels attempts desk --message msg_…
    """
    from pulsestream.commands.channels import attempts

    with opened(key) as api:
        attempts(api, channel, limit, as_json=as_json, out=sys.stdout, message_id=message, outcome=outcome)


@app.command("messages")
def channels_messages(
    channel: Named,
    key: ApiKey,
    state: Annotated[
        Literal["waiting", "delivered", "failed", "superseded", "muted"] | None, typer.Option(help="only these")
    ] = None,
    limit: Limit = SHOWN,
    *,
    as_json: EachAsJson = False,
) -> None:
    """List a channel's messages, the newest first, and what became of them.

    Examples: pulsestream channels messages desk --state failed; pulsestream channels messages desk --json
    """
    from pulsestream.commands.channels import messages

    with opened(key) as api:
        messages(api, channel, state, limit, as_json=as_json, out=sys.stdout)


@app.command("resend")
def channels_resend(
    channel: Named,
    key: ApiKey,
    message: Annotated[str | None, typer.Option(help="id of a message, whatever became of it")] = None,
    failed_since: Annotated[str | None, typer.Option(help="all that failed since 2026-01-31T12:00:00Z")] = None,
) -> None:
    """Send one message again, or all that failed since a time: the same bytes under the same ids.

    Examples: pulsestream channels resend desk --message msg_…;
    pulsestream channels resend desk --failed-since 2026-01-31T12:00:00Z
    """
    from pulsestream.commands.channels import resend

    with opened(key) as api:
        typer.echo(resend(api, channel, message, failed_since))
