"""HTTP to addresses that tenants name: each connection goes to an address that was checked, and all is bounded.

The name is resolved once, every address it has is checked, and the connection is made to one of those: a name that
answers otherwise a moment later (DNS rebinding) changes nothing. TLS still asks for the certificate of the name. No
redirect is followed, no proxy and no .netrc of the environment is used: httpcore knows neither. Plain HTTP is for
networks that an operator allows only.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import httpcore

from pulsestream.core.errors import PulseStreamError
from pulsestream.core.targets import Address, Network, Target, TargetError, is_allowed, is_public, parse_target

CONNECT_TIMEOUT: Final = 5.0
READ_MOST: Final = 16_384
"""Bytes of an answer that are read at most."""
_RESOLVERS: Final = 64
"""Names that are looked up at once: one that no server answers holds a thread for long."""
_TRIED: Final = 3
"""Addresses of a name that are tried one after the other."""

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class OutboundError(PulseStreamError):
    """A request got no answer; the message says why, without anything that is not its sender's business."""


class RefusedTargetError(OutboundError):
    """The target is inside a network that is not for tenants to reach."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: its status, header fields by their lower-case names, and the beginning of its body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Resolver:
    """Looks names up by the system's resolver, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Return every address of a name; raises OSError."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except UnicodeError as error:  # what a name with an empty or overlong label raises
            raise OSError("the name cannot be looked up") from error
        return list(dict.fromkeys(_address(entry[4][0]) for entry in found))

    def close(self) -> None:
        """Look nothing up any more; a look-up under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, for one scheme."""

    def __init__(self, resolve: Resolve, allowed: Iterable[Network], *, plain: bool) -> None:
        self._resolve = resolve
        self._allowed = tuple(allowed)
        self._plain = plain
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one of the name's addresses; raises RefusedTargetError if any is not to be reached."""
        addresses = await self._resolve(host, port)
        self.check(addresses)
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses[:_TRIED]:
            try:
                return await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Raise RefusedTargetError: a socket of this machine is no target."""
        raise RefusedTargetError("a socket of this machine is no target")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._backend.sleep(seconds)

    def check(self, addresses: Iterable[Address]) -> None:
        """Let addresses pass that may all be reached; raises RefusedTargetError."""
        for address in addresses:
            if is_allowed(address, self._allowed):
                continue
            if not is_public(address):
                raise RefusedTargetError(
                    "the address belongs to a private or special network, which is not reached (an operator can allow "
                    "it: PULSESTREAM_NOTIFY_PRIVATE)"
                )
            if self._plain:
                raise RefusedTargetError("http:// is not secret: use https://")


class Client:
    """Sends requests, many at once. Make and use it in one event loop."""

    def __init__(
        self,
        allowed: Iterable[Network],
        seconds: float,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Allow these networks beside the public ones, and `seconds` for a request in all."""
        self._seconds = seconds
        self._resolver = Resolver()
        networks = tuple(allowed)
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=tls,
                max_connections=None,
                max_keepalive_connections=0,
                retries=0,
                network_backend=GuardedBackend(resolve or self._resolver, networks, plain=scheme == "http"),
            )
            for scheme in ("http", "https")
        }

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request and return the answer; raises OutboundError."""
        try:
            target = parse_target(url)
        except TargetError as error:
            raise RefusedTargetError(f"the address {error}") from error
        try:
            async with asyncio.timeout(self._seconds):
                return await self._post(target, headers, body)
        except TimeoutError as error:
            raise OutboundError(f"no answer within {self._seconds:g} s") from error
        except httpcore.TimeoutException as error:
            raise OutboundError(f"no connection within {min(CONNECT_TIMEOUT, self._seconds):g} s") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError) as error:
            raise OutboundError(f"no answer: {_why(error)}") from error

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()
        self._resolver.close()

    async def _post(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        url = httpcore.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        sent = [("Host", _authority(target)), ("Content-Length", str(len(body))), *headers.items()]
        timeouts = {"connect": CONNECT_TIMEOUT, "read": None, "write": None, "pool": None}  # all together are bounded
        async with self._pools[target.scheme].stream(
            "POST", url, headers=sent, content=body, extensions={"timeout": timeouts}
        ) as response:
            fields = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            return Answer(response.status, fields, await _beginning(response))


async def _beginning(response: httpcore.Response) -> bytes:
    """Return the first bytes of a body; what a server goes on sending, or never sends, is not waited for."""
    read = bytearray()
    try:
        async for part in response.aiter_stream():
            read += part
            if len(read) >= READ_MOST:
                break
    except (httpcore.NetworkError, httpcore.ProtocolError):
        pass  # the status has come: what the receiver said counts
    return bytes(read[:READ_MOST])


def _address(text: str | int) -> Address:
    return ipaddress.ip_address(str(text).partition("%")[0])


def _authority(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    default = {"http": 80, "https": 443}[target.scheme]
    return host if target.port == default else f"{host}:{target.port}"


def _why(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return said[:200] or type(error).__name__
