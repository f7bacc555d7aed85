"""What browsers are told: headers after OWASP's REST Security Cheat Sheet, and which other origins may ask (CORS)."""

import re
from typing import Final

from starlette.middleware.cors import CORSMiddleware

from api.asgi import AsgiApp
from pulsestream.core.errors import SettingsError

Fields = tuple[tuple[bytes, bytes], ...]
PRIVATE: Final[Fields] = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
"""Of every answer: it is one tenant's, and what its type says."""
_CDN: Final = "https://cdn.jsdelivr.net"
_NO_PAGE: Final = b"default-src 'none'; frame-ancestors 'none'"
_DOCS: Final = (
    f"default-src 'none'; connect-src 'self'; script-src {_CDN} 'unsafe-inline'; style-src {_CDN} 'unsafe-inline'; "
    f"img-src data: https://fastapi.tiangolo.com; frame-ancestors 'none'"
).encode()
_PAGES: Final = frozenset({"/docs", "/redoc"})
"""FastAPI's pages, which load their programs from a network of others."""
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ASKED: Final = (
    "X-API-Key", "Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key", "If-Match", "Last-Event-ID",
    "X-Request-ID", "traceparent",
)  # fmt: skip
_ANSWERED: Final = ("ETag", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID")
_REMEMBERED: Final = 600
"""Seconds for which a browser need not ask again whether it may."""


def fields(path: str) -> Fields:
    """Return the header fields of an answer of this path."""
    policy = _DOCS if path in _PAGES else _NO_PAGE
    framed = ((b"content-security-policy", policy), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"))
    return PRIVATE + framed


def origins(setting: str) -> tuple[str, ...]:
    """Return the origins that a setting names, comma-separated, or "*" for any; raises SettingsError."""
    named = tuple(filter(None, (part.strip() for part in setting.split(","))))
    if "*" in named and len(named) > 1:
        raise SettingsError("PULSESTREAM_CORS_ORIGINS names * and others: leave one of both out")
    for origin in named:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"PULSESTREAM_CORS_ORIGINS: {origin!r} is no origin: write scheme, host and port as a browser does, "
                "https://app.example.com, without a path"
            )
    return named


def shared(app: AsgiApp, allowed: tuple[str, ...]) -> AsgiApp:
    """Return the application that lets pages of these origins ask, with a key and never with cookies."""
    if not allowed:
        return app
    return CORSMiddleware(
        app,
        allow_origins=allowed,
        allow_methods=_METHODS,
        allow_headers=_ASKED,
        expose_headers=_ANSWERED,
        max_age=_REMEMBERED,
    )
