"""Settings for a command that talks to a running stack: those of the environment, or the local stack's."""

from typing import Final

from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings
from pulsestream.local.home import Home

EXCHANGE: Final = ("exchange", "venue", "exchange_url", "exchange_rest_url")
"""Settings that belong together: addresses and language of one exchange are not those of another."""


def attach(settings: Settings) -> Settings:
    """Return `settings`, completed from the local stack that runs in their home when they name no broker.

    Settings that say something of the exchange keep all that they say or do not say of it.
    Raises UsageError when no stack runs there.
    """
    if settings.kafka_bootstrap:
        return settings
    note = Home(settings.home).read_note()
    if note is None:
        raise UsageError(
            f"no stack runs from {settings.home.absolute()}: start it with `make up`, or name a broker in "
            "PULSESTREAM_KAFKA_BOOTSTRAP"
        )
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    if given.keys() & set(EXCHANGE):
        note = {name: value for name, value in note.items() if name not in EXCHANGE}
    return Settings.model_validate(given | note)
