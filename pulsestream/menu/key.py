"""`pulsestream key`."""

import sys
from typing import Annotated, Literal

import typer

from pulsestream.menu.common import ApiKey, AsJson, Days, EachAsJson, Until, group, opened

app = group("API keys of a tenant.")
KeyId = Annotated[str, typer.Argument(help="id of a key, as `pulsestream key list` shows it")]


@app.command("create")
def key_create(
    name: Annotated[str, typer.Argument(help="what it is for")],
    role: Annotated[Literal["owner", "admin", "viewer"], typer.Option(help="not above that of --key")],
    key: ApiKey,
    until: Until = None,
    days: Days = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make an API key; its text is printed once.

    Examples: pulsestream key create "desk 1" --role viewer --days 30;
    pulsestream key create deployment --role admin --until 2027-01-31T12:00:00Z
    """
    from pulsestream.commands.key import create, end_of
    from pulsestream.core.clock import wall_clock

    ends = end_of(until, days, wall_clock)
    with opened(key) as api:
        create(api, name, role, ends, as_json=as_json, out=sys.stdout)


@app.command("list")
def key_list(
    key: ApiKey,
    state: Annotated[Literal["active", "expired", "revoked", "any"], typer.Option()] = "active",
    *,
    as_json: EachAsJson = False,
) -> None:
    """List a tenant's API keys, by default those that work, with their last use.

    Examples: pulsestream key list; pulsestream key list --state any --json
    """
    from pulsestream.commands.key import listed

    with opened(key) as api:
        listed(api, state, as_json=as_json, out=sys.stdout)


@app.command("rotate")
def key_rotate(
    key_id: KeyId,
    key: ApiKey,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="seconds that it works on beside the new one; default: a day")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a new API key in the place of another; its text is printed once.

    Examples: pulsestream key rotate 03kV8sLq2ZxYb; pulsestream key rotate 03kV8sLq2ZxYb --overlap 0
    """
    from pulsestream.commands.key import rotate

    with opened(key) as api:
        rotate(api, key_id, overlap, as_json=as_json, out=sys.stdout)


@app.command("revoke")
def key_revoke(key_id: KeyId, key: ApiKey) -> None:
    """Revoke an API key for good: it is refused everywhere within seconds.

    Example: pulsestream key revoke 03kV8sLq2ZxYb
    """
    from pulsestream.commands.key import revoke

    with opened(key) as api:
        typer.echo(revoke(api, key_id))


@app.command("check")
def key_check() -> None:
    """Say whether the text on the standard input is an API key by its shape and checksum.

    Asks nobody and shows no secret. Exit code 2 if it is none.

    Example: pulsestream key check < demo.key
    """
    from pulsestream.commands.key import check

    typer.echo(check(sys.stdin.read))
