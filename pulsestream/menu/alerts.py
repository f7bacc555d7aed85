"""`pulsestream alerts`."""

import sys
from typing import Annotated, Literal

import typer

from pulsestream.menu.common import SHOWN, ApiKey, AsJson, EachAsJson, Limit, group, opened

app = group("Alerts as they stand and as they were.")
AlertId = Annotated[str, typer.Argument(metavar="ALERT", help="id, as `pulsestream alerts list` shows it")]
Comment = Annotated[str | None, typer.Option(help="for those who look at it")]
RuleId = Annotated[str | None, typer.Option("--rule", help="id of a rule")]
Exchange = Annotated[str | None, typer.Option(help="such as coinbase")]
Product = Annotated[str | None, typer.Option(help="such as BTC-USD")]


@app.command("list")
def alerts_list(
    key: ApiKey,
    state: Annotated[
        Literal["open", "pending", "firing", "any"], typer.Option(help="open: pending or firing")
    ] = "open",
    rule: RuleId = None,
    exchange: Exchange = None,
    product: Product = None,
    limit: Limit = SHOWN,
    *,
    as_json: EachAsJson = False,
) -> None:
    """List how each rule stands for each product, and why nobody is told of it where that is so.

    Examples: pulsestream alerts list; pulsestream alerts list --state any --product BTC-USD --json
    """
    from pulsestream.commands.alerts import listed

    filters = {"state": state, "rule_id": rule, "exchange": exchange, "product": product}
    with opened(key) as api:
        listed(api, filters, limit, as_json=as_json, out=sys.stdout)


@app.command("history")
def alerts_history(
    key: ApiKey,
    rule: RuleId = None,
    exchange: Exchange = None,
    product: Product = None,
    severity: Annotated[Literal["info", "warning", "critical"] | None, typer.Option(help="only these")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="2026-01-31T12:00:00Z")] = None,
    end: Annotated[str | None, typer.Option("--to", help="likewise; the time itself is left out")] = None,
    limit: Limit = SHOWN,
    *,
    as_json: EachAsJson = False,
) -> None:
    """List transitions of alerts as they are stored, the newest first.

    Examples: pulsestream alerts history --product BTC-USD; pulsestream alerts history --severity critical --json
    """
    from pulsestream.commands.alerts import history

    named = {"rule_id": rule, "exchange": exchange, "product": product, "severity": severity}
    with opened(key) as api:
        history(api, named | {"from": begin, "to": end}, limit, as_json=as_json, out=sys.stdout)


@app.command("acknowledge")
def alerts_acknowledge(alert: AlertId, key: ApiKey, comment: Comment = None, *, as_json: AsJson = False) -> None:
    """Take note of an alert: nobody is told of it again until it ends.

    Example: pulsestream alerts acknowledge 019c1f6e-…:1:coinbase:BTC-USD:firing:1769860800000000 --comment "on it"
    """
    from pulsestream.commands.alerts import told

    with opened(key) as api:
        typer.echo(told(api.alerts.acknowledge(alert, comment), as_json=as_json))


@app.command("unacknowledge")
def alerts_unacknowledge(alert: AlertId, key: ApiKey, *, as_json: AsJson = False) -> None:
    """Take an acknowledgement back.

    Example: pulsestream alerts unacknowledge 019c1f6e-…:1:coinbase:BTC-USD:firing:1769860800000000
    """
    from pulsestream.commands.alerts import told

    with opened(key) as api:
        typer.echo(told(api.alerts.unacknowledge(alert), as_json=as_json))


@app.command("snooze")
def alerts_snooze(
    alert: AlertId,
    key: ApiKey,
    span: Annotated[str | None, typer.Option("--for", help="how long: 30m, 2h, 7d")] = None,
    until: Annotated[str | None, typer.Option(help="or until when, such as 2027-01-31T12:00:00Z")] = None,
    comment: Comment = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Tell nobody of an alert's rule and product until a time, at most 30 days ahead, whatever becomes of it.

    Example: pulsestream alerts snooze 019c1f6e-…:1:coinbase:BTC-USD:firing:1769860800000000 --for 2h
    """
    from pulsestream.commands.alerts import told
    from pulsestream.commands.silences import end_of
    from pulsestream.core.clock import wall_clock
    from pulsestream.core.errors import UsageError

    ends = end_of("--until", until, span, wall_clock)
    if ends is None:
        raise UsageError("a snooze ends: say --for 2h, or --until TIME")
    with opened(key) as api:
        typer.echo(told(api.alerts.snooze(alert, ends, comment), as_json=as_json))


@app.command("unsnooze")
def alerts_unsnooze(alert: AlertId, key: ApiKey, *, as_json: AsJson = False) -> None:
    """End a snooze.

    Example: pulsestream alerts unsnooze 019c1f6e-…:1:coinbase:BTC-USD:firing:1769860800000000
    """
    from pulsestream.commands.alerts import told

    with opened(key) as api:
        typer.echo(told(api.alerts.unsnooze(alert), as_json=as_json))
