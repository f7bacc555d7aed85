"""What the notifier's tests share: receivers that misbehave on purpose, alerts to send, and what was received."""

import email
import email.policy
import ipaddress
import itertools
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from pulsestream.local.process import free_port
from schemas.records import Alert
from tests.support.e2e import Tenant
from tests.support.sinking import alert, encoded, send

LOCAL = "127.0.0.0/8, ::1/128"
CHANNELS = "/api/v1/channels"
QUICK = {"group_wait": "0s", "group_interval": "1s"}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["data"]
        return found

    @property
    def alerts(self) -> list[tuple[str, str]]:
        """(rule, status) of each alert in it."""
        return [(alert["rule_id"], alert["status"]) for alert in self.data["alerts"]]


@dataclass
class Receiver:
    """A server on a loopback port; the first part of a path says how it behaves: /ok/…, /500/…, /slow/…"""

    port: int
    received: list[Received] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    """Paths that answer 503 though they begin with /ok."""
    closing: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def at(self, path: str) -> list[Received]:
        return [each for each in list(self.received) if each.path == path]

    def wait(self, path: str, count: int = 1, timeout: float = 30.0) -> list[Received]:
        """Return what came to a path once that many requests have."""
        wait_until(lambda: len(self.at(path)) >= count, timeout, f"{count} requests at {path}")
        return self.at(path)


def wait_until(condition: Callable[[], object], timeout: float = 30.0, what: str = "") -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s: {what or condition}"
        time.sleep(0.03)


@contextmanager
def receiver() -> Iterator[Receiver]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    found = Receiver(server.server_address[1])
    server.RequestHandlerClass = _handler(found)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that hang up are expected
    thread = threading.Thread(target=server.serve_forever, name="receiver", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def _handler(found: Receiver) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - one short method for each misbehaviour
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            fields = {name.lower(): value for name, value in self.headers.items()}
            found.received.append(Received(self.path, fields, body, time.monotonic()))
            how = self.path.split("/")[1]
            getattr(self, f"_{'503' if self.path in found.failing else how}")()

        def _ok(self) -> None:
            self._answer(200, b"thanks")

        def _telegram(self) -> None:
            self._answer(200, b'{"ok":true,"result":{}}')

        def _500(self) -> None:
            self._answer(500, b"<h1>no\0</h1>")

        def _503(self) -> None:
            self._answer(503, b"busy")

        def _410(self) -> None:
            self._answer(410, b"gone")

        def _429(self) -> None:
            self._answer(429, b"slow down", ("Retry-After", "1"))

        def _redirect(self) -> None:
            self._answer(302, b"", ("Location", found.url("/ok/behind-a-redirect")))

        def _slow(self) -> None:
            found.closing.wait(20)
            with suppress(OSError):
                self._answer(200, b"late")

        def _never(self) -> None:
            found.closing.wait(60)

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        def _huge(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(1_000_000):  # 64 GB, if anybody read it
                    self.wfile.write(b"x" * 65536)

        def _drip(self) -> None:
            with suppress(OSError):
                for octet in itertools.chain(b"HTTP/1.1 200 OK\r\nX-A: ", itertools.repeat(120)):
                    self.wfile.write(bytes([octet]))
                    if found.closing.wait(0.1):
                        return

        def _garbage(self) -> None:
            with suppress(OSError):
                self.wfile.write(b"\xff\xfe not http at all\r\n\r\n")
                self.close_connection = True

        def _answer(self, status: int, body: bytes, *fields: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in fields:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


@dataclass
class Mailbox:
    """A mail server on a loopback port, with a certificate in `ca_file`, and what it took."""

    port: int
    ca_file: Path
    took: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    refusing: str = ""

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's own name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if "nobody" in address:
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - likewise
        if self.refusing:
            return self.refusing
        message = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.took.append((list(envelope.rcpt_tos), message))
        return "250 taken"


@contextmanager
def mail_server(folder: Path, *, starttls: bool = True, **options: Any) -> Iterator[Mailbox]:
    certificate = folder / "certificate.pem"
    write_certificate(certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    found = Mailbox(free_port(), certificate)
    secured = {"tls_context": tls, "require_starttls": True} if starttls else {}
    controller = Controller(found, hostname="127.0.0.1", port=found.port, **secured, **options)
    controller.start()
    try:
        yield found
    finally:
        controller.stop()


def write_certificate(path: Path) -> None:
    """Write a key and a certificate that it signed itself, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))


def make_alert_topic(admin: Settings, tenant: str) -> None:
    Admin(admin).create([tenant_topic_spec(admin, tenant, "alerts")])


def firing(rule: str, product: str = "BTC-USD", age: float = 0.0, **fields: object) -> Alert:
    """Return a transition that is new; `age` seconds old."""
    number = next(_numbers)
    at = wall_clock() - int(age * 1_000_000)
    state = str(fields.get("state", "firing"))
    named = {"alert_id": f"{rule}:1:coinbase:{product}:{state}:{at}:{number}", "seq": number, "rule_id": rule}
    return alert(number, **(named | {"rule_name": rule, "product": product, "at": at} | fields))


def over(rule: str, product: str = "BTC-USD", **fields: object) -> Alert:
    """Return the end of an alert."""
    return firing(rule, product, state="resolved", reason="price above 2 again", **fields)


def send_alerts(admin: Settings, tenant: str, *alerts: Alert) -> None:
    send(admin, tenant_topic(tenant, "alerts"), encoded(alerts))


def webhook(tenant: Tenant, url: str, **more: Any) -> dict[str, Any]:
    """Make a channel and return it with its secret."""
    body = {"name": f"hook-{next(_numbers)}", "target": {"kind": "webhook", "url": url}} | QUICK | more
    made: dict[str, Any] = tenant.call("POST", CHANNELS, json=body)
    return made


def channel(tenant: Tenant, target: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make a channel of any kind."""
    body = {"name": f"channel-{next(_numbers)}", "target": target} | QUICK | more
    made: dict[str, Any] = tenant.call("POST", CHANNELS, json=body)
    return made


def attempts(tenant: Tenant, channel: str, **query: Any) -> list[dict[str, Any]]:
    """Return the log of a channel, the newest first."""
    found: list[dict[str, Any]] = tenant.call("GET", f"{CHANNELS}/{channel}/attempts", params=query)["attempts"]
    return found
