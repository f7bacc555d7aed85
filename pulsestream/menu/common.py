"""What commands of several kinds share: options, and where the API and the database are.

Rooms are imported when a command runs, so that `--help` is quick.
"""

import inspect
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pulsestream.core import log
from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from pulsestream.client import Client

ApiKey = Annotated[str, typer.Option(envvar="PULSESTREAM_API_KEY", help="the tenant's API key")]
AsJson = Annotated[bool, typer.Option("--json", help="as the API gives it")]
EachAsJson = Annotated[bool, typer.Option("--json", help="one a line, as the API gives it")]
Begin = Annotated[str | None, typer.Option("--from", help="2026-01-31T12:00:00Z, or a date: its midnight UTC")]
End = Annotated[str | None, typer.Option("--to", help="likewise; the time itself is left out")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=0, help="at most so many; 0: all")]
Until = Annotated[str | None, typer.Option(help="when it ends, such as 2027-01-31T12:00:00Z")]
Days = Annotated[float | None, typer.Option(min=0.001, max=36500, help="or in how many days")]
SHOWN: Final = 100
"""Lines that a list shows unless it is asked for more."""


def list_examples(app: typer.Typer) -> None:
    """Let the help of every command show each of its examples in a line of its own, to be copied."""
    for command in app.registered_commands:
        command.help = _listed(command.help or inspect.getdoc(command.callback) or "")
    for menu in app.registered_groups:
        if menu.typer_instance is not None:
            list_examples(menu.typer_instance)


def _listed(text: str) -> str:
    """Return a text that ends with `Examples: one; two` with a line for each; click leaves these lines alone."""
    said, _, examples = text.partition("Example: ") if "Example: " in text else text.partition("Examples:")
    if not examples:
        return text
    return "\n".join([f"{said}\b", "Examples:", *(f"  {' '.join(one.split())}" for one in re.split(r";\s", examples))])


def group(help_: str) -> typer.Typer:
    """Return a group of commands."""
    return typer.Typer(help=help_, no_args_is_help=True, rich_markup_mode=None)


def opened(key: str) -> "Client":
    """Return a client of the API for the tenant of a key."""
    from pulsestream.commands.api_client import connect

    return connect(api_client(), key)


def api_client() -> Settings:
    """Return settings that say where the API is: those given, else those of the stack that runs here."""
    from pulsestream.local.attach import attach

    settings = load_settings()
    log.configure("client", "warning", "console")
    with suppress(UsageError):  # no stack runs here
        return attach(settings)
    return settings


def database_url() -> str:
    """Return the database's address: the setting's, or that of the stack that runs here."""
    from pulsestream.local.attach import attach

    settings = load_settings()
    with suppress(UsageError):  # no stack runs here
        settings = settings if settings.database_url.get_secret_value() else attach(settings)
    url = settings.database_url.get_secret_value()
    if not url:
        raise UsageError(
            f"db:TENANT is read from a database, and none is named: set PULSESTREAM_DATABASE_URL, or start the "
            f"stack that lives in {settings.home.absolute()} with `make up`"
        )
    return url
