"""Serve a peer's application as the API is served: one process, uvloop, httptools, the same settings of uvicorn."""

import socket
from collections.abc import Callable
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from api.server import BACKLOG, server_config


def serve(app: FastAPI, port: int, before: Callable[[], Any] | None = None) -> None:
    """Serve until SIGTERM; `before` is called in the event loop."""

    async def run() -> None:
        if before is not None:
            before()
        with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
            await uvicorn.Server(server_config(app)).serve(sockets=[listener])

    uvloop.run(run())
