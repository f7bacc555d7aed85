"""The command line's way to the HTTP API: the client, where the settings say."""

from pulsestream.client import Client
from pulsestream.core.settings import Settings


def connect(settings: Settings, key: str = "") -> Client:
    """Return a client of the API that these settings name, for the tenant of a key."""
    return Client(f"http://{settings.api_host}:{settings.api_port}", key or None)
