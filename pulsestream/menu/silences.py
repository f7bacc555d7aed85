"""`pulsestream silences`."""

import json
import sys
from typing import Annotated, Literal

import typer

from pulsestream.menu.common import SHOWN, ApiKey, AsJson, EachAsJson, Limit, group, opened

app = group("Silences and maintenance windows: which alerts nobody is told of.")
SilenceId = Annotated[str, typer.Argument(metavar="SILENCE", help="id, as `pulsestream silences list` shows it")]
Match = Annotated[
    list[str],
    typer.Option(help="product=BTC-USD, severity!=critical, product=~BTC-*, labels.desk=spot; repeated: all must hold"),
]


@app.command("create")
def silences_create(
    key: ApiKey,
    match: Match,
    comment: Annotated[str, typer.Option(help="why")],
    span: Annotated[str | None, typer.Option("--for", help="how long: 30m, 2h, 7d; with --weekly each time")] = None,
    until: Annotated[str | None, typer.Option(help="or when it ends, such as 2027-01-31T12:00:00Z")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="when it begins; default: now")] = None,
    weekly: Annotated[str | None, typer.Option(help="a maintenance window: sat,sun@22:30")] = None,
    zone: Annotated[str, typer.Option(help="by whose clock a window begins, such as Europe/Berlin")] = "UTC",
    *,
    as_json: AsJson = False,
) -> None:
    """Silence the alerts that all matchers hold for, or make a maintenance window that comes back every week.

    =~ and !~ compare with a glob: * any text, ? one character, | alternatives.

    Examples: pulsestream silences create --match product=~BTC-* --for 2h --comment "exchange maintenance";
    pulsestream silences create --match labels.desk=spot --weekly sat,sun@22:30 --for 3h --zone Europe/Berlin
    --comment "no trading"
    """
    from pulsestream.commands.silences import create, end_of, matchers_of, told, weekly_of
    from pulsestream.commands.times import parse_time
    from pulsestream.core.clock import format_rfc3339, wall_clock

    matchers = matchers_of(match)
    week = None if weekly is None else weekly_of(weekly, span, zone)
    ends = end_of("--until", until, None if week else span, wall_clock)
    starts = None if begin is None else format_rfc3339(parse_time("--from", begin))
    with opened(key) as api:
        made = create(api, matchers, comment, starts_at=starts, ends_at=ends, weekly=week)
    typer.echo(json.dumps(made, ensure_ascii=False) if as_json else told(made))


@app.command("preview")
def silences_preview(key: ApiKey, match: Match, *, as_json: EachAsJson = False) -> None:
    """Show which pending and firing alerts a silence would keep from being told; changes nothing.

    Example: pulsestream silences preview --match product=~BTC-*
    """
    from pulsestream.commands.silences import matchers_of, preview

    matchers = matchers_of(match)
    with opened(key) as api:
        preview(api, matchers, as_json=as_json, out=sys.stdout)


@app.command("list")
def silences_list(
    key: ApiKey,
    state: Annotated[
        Literal["active", "pending", "expired", "any"], typer.Option(help="pending: also between two windows")
    ] = "any",
    limit: Limit = SHOWN,
    *,
    as_json: EachAsJson = False,
) -> None:
    """List silences, the newest first; ended ones are kept for 90 days.

    Examples: pulsestream silences list --state active; pulsestream silences list --json
    """
    from pulsestream.commands.silences import listed

    with opened(key) as api:
        listed(api, state, limit, as_json=as_json, out=sys.stdout)


@app.command("show")
def silences_show(silence: SilenceId, key: ApiKey) -> None:
    """Show a silence as JSON.

    Example: pulsestream silences show 019c1f6e-8f2a-7c31-9d55-0c1f6e8f2a7c
    """
    from pulsestream.commands.silences import show

    with opened(key) as api:
        typer.echo(show(api, silence))


@app.command("end")
def silences_end(silence: SilenceId, key: ApiKey) -> None:
    """End a silence, or a maintenance window, now.

    Example: pulsestream silences end 019c1f6e-8f2a-7c31-9d55-0c1f6e8f2a7c
    """
    from pulsestream.commands.silences import end

    with opened(key) as api:
        typer.echo(end(api, silence))
