"""`pulsestream kafka-credentials`."""

import sys
from typing import Annotated, Literal

import typer

from pulsestream.menu.common import ApiKey, AsJson, Days, EachAsJson, Until, group, opened

app = group("Logins to the broker, for the tenant's own Kafka clients.")
LoginId = Annotated[
    str, typer.Argument(metavar="LOGIN", help="id or user, as `pulsestream kafka-credentials list` shows them")
]
AsClient = Annotated[
    Literal["python", "kcat", "java"] | None,
    typer.Option("--client", help="print a program, a command or properties with it, ready to use, and nothing else"),
]


@app.command("create")
def kafka_create(
    name: Annotated[str, typer.Argument(help="what it is for")],
    key: ApiKey,
    until: Until = None,
    days: Days = None,
    client: AsClient = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a login to the broker; its password is printed once.

    Examples: pulsestream kafka-credentials create "desk 1";
    pulsestream kafka-credentials create "desk 2" --days 30 --client java > client.properties
    """
    from pulsestream.commands.kafka_credentials import create
    from pulsestream.commands.key import end_of
    from pulsestream.core.clock import wall_clock

    ends = end_of(until, days, wall_clock)
    with opened(key) as api:
        create(api, name, ends, client, as_json=as_json, out=sys.stdout)


@app.command("list")
def kafka_list(
    key: ApiKey,
    *,
    ended: Annotated[bool, typer.Option("--ended", help="those that ended, too")] = False,
    as_json: EachAsJson = False,
) -> None:
    """List the tenant's logins, the newest first.

    Example: pulsestream kafka-credentials list --ended
    """
    from pulsestream.commands.kafka_credentials import listed

    with opened(key) as api:
        listed(api, ended=ended, as_json=as_json, out=sys.stdout)


@app.command("show")
def kafka_show(login: LoginId, key: ApiKey, *, as_json: AsJson = False) -> None:
    """Show a login with the broker's address and the tenant's topics, without its password.

    Example: pulsestream kafka-credentials show 3f9a2c41d07b
    """
    from pulsestream.commands.kafka_credentials import show

    with opened(key) as api:
        show(api, login, as_json=as_json, out=sys.stdout)


@app.command("rotate")
def kafka_rotate(
    login: LoginId,
    key: ApiKey,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="seconds that it works on beside the new one; default: a day")
    ] = None,
    client: AsClient = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a new login in the place of another; its password is printed once.

    Example: pulsestream kafka-credentials rotate 3f9a2c41d07b --overlap 3600
    """
    from pulsestream.commands.kafka_credentials import rotate

    with opened(key) as api:
        rotate(api, login, overlap, client, as_json=as_json, out=sys.stdout)


@app.command("revoke")
def kafka_revoke(login: LoginId, key: ApiKey) -> None:
    """Revoke a login for good: within seconds the broker refuses it, also to clients that are connected.

    Example: pulsestream kafka-credentials revoke 3f9a2c41d07b
    """
    from pulsestream.commands.kafka_credentials import revoke

    with opened(key) as api:
        typer.echo(revoke(api, login))
