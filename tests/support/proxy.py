"""A TCP proxy before a server, whose traffic can be held up or slowed down: the server is there, and says little."""

import socket
import threading
import time
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_PIECE = 65_536


class Proxy:
    """Listens on 127.0.0.1 from `with` to the end of its block and hands on what comes, while it `flows`.

    Each piece waits for `delay` seconds. `url` is a database's URL through it.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.flows = threading.Event()
        self.flows.set()
        self.delay = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._ended = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self.flows.set()
        self._listener.close()
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    @property
    def url(self) -> str:
        login = self._parts.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        return urlunsplit(self._parts._replace(netloc=f"{login}@127.0.0.1:{port}"))

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._parts.hostname or "127.0.0.1", self._parts.port or 5432))
            except OSError:
                continue
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._hand_on, args=(source, target), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                self.flows.wait()
                time.sleep(self.delay)
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
