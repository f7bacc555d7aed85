"""One client's messages, one after the other, for whichever connection it has."""

import asyncio
from collections.abc import AsyncGenerator

from api.live.client import Client
from api.live.hub import Hub
from api.live.session import Session


async def messages(hub: Hub, client: Client, session: Session, beat: float | None = None) -> AsyncGenerator[str, None]:
    """Give the next message when the one before has been taken; raises why the connection is to end.

    After `beat` seconds without any it gives an empty one.
    """
    loop = asyncio.get_running_loop()
    while True:
        if client.closing is not None:
            raise client.closing
        text = session.take()
        if text is None:
            hub.read_missing(client)
            if await _is_woken(client, beat):
                continue
            text = ""
        client.sending_since = loop.time()
        yield text
        client.sending_since = None


async def _is_woken(client: Client, beat: float | None) -> bool:
    try:
        async with asyncio.timeout(beat):
            await client.wake.wait()
    except TimeoutError:
        return False
    client.wake.clear()
    return True
