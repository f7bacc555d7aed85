"""Readiness probes: each returns None, or one sentence on what is missing. They return within a second or two."""

import json
import socket
import ssl
import urllib.error
import urllib.request
from typing import Final
from urllib.parse import urlsplit

TIMEOUT: Final = 2.0
_NO_PROXY: Final = urllib.request.ProxyHandler({})


def http_problem(url: str) -> str | None:
    """Ask a /readyz; anything but 200 is a problem, in the words of the process where it gives any."""
    opener = urllib.request.build_opener(_NO_PROXY)
    try:
        with opener.open(url, timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return _said(error.read()) or f"{url} answers {error.code}"
    except OSError:
        return f"{url} does not answer yet"


def tcp_problem(host: str, port: int) -> str | None:
    """Open and close a connection."""
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT):
            return None
    except OSError:
        return f"port {port} is not open yet"


def reachable(websocket_url: str, timeout: float = 3.0) -> bool:
    """Return whether a connection, with TLS for wss, to a WebSocket's host comes about within `timeout` seconds."""
    parts = urlsplit(websocket_url)
    secure = parts.scheme == "wss"
    try:
        address = (parts.hostname or "", parts.port or (443 if secure else 80))
        with socket.create_connection(address, timeout=timeout) as plain:
            if secure:
                with ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname):
                    return True
            return True
    except OSError:
        return False


def _said(body: bytes) -> str:
    try:
        problems = json.loads(body).get("problems", {})
    except (ValueError, AttributeError):
        return ""
    return "; ".join(f"{name}: {problem}" for name, problem in problems.items())
