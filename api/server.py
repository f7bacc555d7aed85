"""`pulsestream api`: the HTTP service on uvicorn, from its settings to a clean stop."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Final

import uvicorn
import uvloop

from api import keys
from api.access_log import AccessLog
from api.alerts.service import Alerts
from api.app import create_app
from api.audit.denials import Denials
from api.audit.service import Audit
from api.auth import Authenticator, database_lookup
from api.browsers import origins, shared
from api.channels.service import Channels
from api.cursor import CursorSeal
from api.database import Database
from api.dead_letters.service import DeadLetters
from api.dependencies import Services
from api.feeds.service import Feeds
from api.freshness.broker import Broker
from api.freshness.service import Freshness
from api.health import Health
from api.http_protocol import BoundedHttpProtocol
from api.ids import uuid7
from api.ingestion.publisher import Fatal, Publisher
from api.ingestion.service import Ingestion
from api.kafka_credentials.clients import Address
from api.kafka_credentials.service import KafkaCredentials
from api.key_use import KeyUse
from api.keys_admin.service import Keys
from api.limits.addresses import check_networks
from api.limits.entrance import Entrance
from api.limits.limiter import Limiter
from api.limits.quotas import Quotas
from api.limits.registrations import Registrations
from api.limits.standing import Standings
from api.limits.tiers import tiers
from api.limits.usage import Usage
from api.limits.usage_store import UsageStore
from api.live.hub import Hub
from api.live.messages import MAX_MESSAGE, Close, CloseError
from api.live.tickets import Tickets
from api.live.websocket import PING_EVERY, PONG_WITHIN, BoundedWebSocketProtocol
from api.retention.plan import periods
from api.rules.service import Rules
from api.rules.trials import Trials
from api.search.export import Exports
from api.search.series import Series
from api.search.service import Search
from api.silences.service import Silences
from api.subscriptions.known import KnownProducts
from api.subscriptions.service import Subscriptions
from api.tenants.service import Tenants
from api.topics import EventsTopicGate
from pulsestream.core.clock import Clock, to_datetime, wall_clock
from pulsestream.core.collector import calm_collector
from pulsestream.core.errors import UsageError
from pulsestream.core.health import operations
from pulsestream.core.kafka import BrokerError
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings
from pulsestream.core.targets import parse_networks

BACKLOG: Final = 2048
GRACE: Final = 10
"""Seconds that requests under way may take at a stop."""
YOUNG: Final = 50_000
"""Objects made until the youngest are looked through: those under way hold thousands that are no garbage."""
_log = logger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises UsageError for a busy port or a wrong setting, OutageError otherwise."""
    peppers = keys.peppers(settings)
    check_networks(settings.trusted_proxies)
    tiers(settings.limits)
    parse_networks(settings.notify_private, "PULSESTREAM_NOTIFY_PRIVATE")
    origins(settings.cors_origins)
    with _listening(settings) as listener, _quiet_signals():
        uvloop.run(_serve(settings, peppers, listener))


@asynccontextmanager
async def open_services(
    settings: Settings, peppers: keys.Peppers, clock: Clock, on_fatal: Fatal
) -> AsyncIterator[Services]:
    """Make everything that the routes need, in the running loop, and close it afterwards."""
    limits = tiers(settings.limits)
    allowed = parse_networks(settings.notify_private, "PULSESTREAM_NOTIFY_PRIVATE")
    counted = Usage(to_datetime(clock()).date())
    limiter, quotas = Limiter(limits, settings.api_processes, time.monotonic_ns, counted), Quotas(limits)
    database = Database(settings)
    await database.open()
    publisher, broker = Publisher(settings, on_fatal), Broker(settings)
    known = KnownProducts(settings, clock)
    health = Health(database, publisher)
    denials = Denials(database)
    usage, uses = UsageStore(database, counted, uuid7(clock()), clock), KeyUse(database, clock)
    tasks = [
        asyncio.create_task(health.watch()),
        asyncio.create_task(usage.keep(settings.usage_interval)),
        asyncio.create_task(uses.run()),
        asyncio.create_task(denials.write()),
    ]
    authenticator = Authenticator(database_lookup(database), peppers, clock, time.monotonic, uses.note)
    live = Hub(settings, database, authenticator, peppers, tiers=limits, on_fatal=on_fatal)
    access_log = AccessLog(settings.access_log, clock)
    try:
        yield Services(
            database,
            authenticator,
            Entrance(authenticator, limiter, time.monotonic_ns),
            health,
            Tenants(database, peppers, settings.registration, _registrations(settings), _grace(settings)),
            Standings(database, limits, periods(settings)),
            usage,
            Keys(database, quotas, peppers, CursorSeal(peppers), clock=clock, forget=authenticator.forget),
            KafkaCredentials(database, quotas, Address.of(settings), CursorSeal(peppers), clock=clock),
            Subscriptions(database, quotas, known),
            Rules(database, quotas, clock),
            Alerts(database, CursorSeal(peppers), clock),
            Silences(database, clock),
            Search(database, CursorSeal(peppers)),
            Series(database, CursorSeal(peppers), clock),
            Exports(),
            Feeds(database, clock, settings.feed_shards),
            Ingestion(publisher, EventsTopicGate(database, time.monotonic)),
            DeadLetters(database, CursorSeal(peppers), publisher, clock),
            Freshness(database, broker.ends, clock, time.monotonic),
            Audit(database, CursorSeal(peppers)),
            live,
            access_log,
            denials,
            Tickets(database, peppers, clock),
            Channels(database, quotas, CursorSeal(peppers), allowed, clock),
            Trials(settings, clock),
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await usage.store()
        await denials.close()
        await live.close()
        broker.close()
        known.close()
        await publisher.close()
        await database.close()
        access_log.flush()


def _grace(settings: Settings) -> timedelta:
    return timedelta(days=settings.deletion_grace_days)


def _registrations(settings: Settings) -> Registrations | None:
    if tiers(settings.limits) is None:
        return None
    wanted = settings.registrations_per_address, settings.registrations_per_hour
    return Registrations(*wanted, settings.api_processes, time.monotonic_ns)


def server_config(app: Callable[..., Any], trusted_proxies: str = "") -> uvicorn.Config:
    """Return how uvicorn serves `app`; what trusted proxies say of a client's address is believed."""
    return uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        ws=BoundedWebSocketProtocol,
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=PING_EVERY,
        ws_ping_timeout=PONG_WITHIN,
        ws_per_message_deflate=False,  # it would hold hundreds of KiB for each client
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )


class LiveServer(uvicorn.Server):
    """uvicorn's server, which ends live connections first when it stops: they would not end by themselves."""

    def __init__(self, config: uvicorn.Config, live: Hub) -> None:
        super().__init__(config)
        self._live = live

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and wait for those that are there."""
        self._live.end_all(CloseError(Close.RESTART, "this process stops: connect again with the resume token"))
        await super().shutdown(sockets)


async def _serve(settings: Settings, peppers: keys.Peppers, listener: socket.socket) -> None:
    failures: list[BrokerError] = []

    def stop_for(failure: BrokerError) -> None:
        failures.append(failure)
        server.should_exit = True

    async with open_services(settings, peppers, wall_clock, stop_for) as services:
        app = shared(create_app(services, wall_clock), origins(settings.cors_origins))
        server = LiveServer(server_config(app, settings.trusted_proxies), services.live)
        with calm_collector(YOUNG), operations(settings.ops_port, services.health.readiness):
            _log.info("serving", port=listener.getsockname()[1], host=settings.api_host)
            await server.serve(sockets=[listener])
    if failures:
        raise failures[0]


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.api_host, settings.api_port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise UsageError(
                f"{settings.api_host}:{settings.api_port} cannot be opened for the API: {error.strerror}. Stop what "
                "holds it, or choose another with PULSESTREAM_API_PORT"
            ) from error
        yield listener


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """Let uvicorn's own handlers stop the server, and end the process with exit code 0 when it raises them again."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
