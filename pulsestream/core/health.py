"""The operations port of a process: /livez, /readyz and /metrics over plain HTTP, in one daemon thread.

A process is live while it answers, and ready while every named check says nothing. A check is a function that
returns None, or one sentence on what is missing; it runs for each request and must return at once. A detail is a check
that is shown but makes nothing unready: one tenant's trouble must never take the process out of service for all.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import generate_latest

from pulsestream.core.errors import UsageError
from pulsestream.core.metrics import REGISTRY

Check = Callable[[], str | None]
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = "application/json"


class Readiness:
    """Named checks that say together whether a process is ready, and details. Safe to use from several threads."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._details: dict[str, Check] = {}

    def add(self, name: str, check: Check) -> None:
        """Add a check, or replace the one of the same name."""
        self._checks[name] = check

    def add_detail(self, name: str, check: Check) -> None:
        """Add a check that is shown only, or replace the one of the same name."""
        self._details[name] = check

    def problems(self) -> dict[str, str]:
        """Return what is missing, by the check's name; empty when ready."""
        return _said(self._checks)

    def details(self) -> dict[str, str]:
        """Return what is not well but leaves the process ready, by the check's name."""
        return _said(self._details)


class OpsServer:
    """Serves the operations port from `start` to `stop`."""

    def __init__(self, port: int, readiness: Readiness, host: str = "127.0.0.1") -> None:
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(readiness))
        except OSError as error:
            raise UsageError(f"port {port} for health checks cannot be opened: {error.strerror}") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="ops", daemon=True)

    @property
    def port(self) -> int:
        """The port in use (chosen by the system for port 0)."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def operations(port: int, readiness: Readiness) -> Iterator[None]:
    """Serve the operations port within the block; with port 0 there is none. Raises UsageError for a busy port."""
    if port == 0:
        yield
        return
    server = OpsServer(port, readiness)
    server.start()
    try:
        yield
    finally:
        server.stop()


def answer(path: str, readiness: Readiness) -> tuple[int, str, bytes]:
    """Return status, content type and body for a path of the operations port."""
    if path == "/livez":
        return 200, _JSON, b'{"status":"live"}'
    if path == "/readyz":
        problems = readiness.problems()
        status = "not ready" if problems else "ready"
        body = {"status": status, "problems": problems, "details": readiness.details()}
        return 503 if problems else 200, _JSON, json.dumps(body).encode()
    if path == "/metrics":
        return 200, _TEXT, generate_latest(REGISTRY)
    return 404, _JSON, b'{"status":"unknown path: use /livez, /readyz or /metrics"}'


def _said(checks: dict[str, Check]) -> dict[str, str]:
    said = {name: check() for name, check in list(checks.items())}
    return {name: problem for name, problem in said.items() if problem is not None}


def _handler(readiness: Readiness) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            status, content_type, body = answer(self.path, readiness)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep health checks out of the log."""

    return Handler
