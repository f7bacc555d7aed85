"""The services of this process, as FastAPI dependencies."""

from dataclasses import dataclass

from fastapi import Request

from api.access_log import AccessLog
from api.alerts.service import Alerts
from api.audit.denials import Denials
from api.audit.service import Audit
from api.auth import Authenticator
from api.channels.service import Channels
from api.database import Database
from api.dead_letters.service import DeadLetters
from api.feeds.service import Feeds
from api.freshness.service import Freshness
from api.health import Health
from api.ingestion.service import Ingestion
from api.kafka_credentials.service import KafkaCredentials
from api.keys_admin.service import Keys
from api.limits.entrance import Entrance
from api.limits.standing import Standings
from api.limits.usage_store import UsageStore
from api.live.hub import Hub
from api.live.tickets import Tickets
from api.rules.service import Rules
from api.rules.trials import Trials
from api.search.export import Exports
from api.search.series import Series
from api.search.service import Search
from api.silences.service import Silences
from api.subscriptions.service import Subscriptions
from api.tenants.service import Tenants


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that routes delegate to; made once a process."""

    database: Database
    authenticator: Authenticator
    entrance: Entrance
    health: Health
    tenants: Tenants
    standings: Standings
    usage: UsageStore
    keys: Keys
    kafka_credentials: KafkaCredentials
    subscriptions: Subscriptions
    rules: Rules
    alerts: Alerts
    silences: Silences
    search: Search
    series: Series
    exports: Exports
    feeds: Feeds
    ingestion: Ingestion
    dead_letters: DeadLetters
    freshness: Freshness
    audit: Audit
    live: Hub
    access_log: AccessLog
    denials: Denials
    tickets: Tickets
    channels: Channels
    trials: Trials


def services(request: Request) -> Services:
    """Return the services of the application that serves `request`."""
    found: Services = request.app.state.services
    return found


def tenants(request: Request) -> Tenants:
    """Return the tenants' service."""
    return services(request).tenants


def standings(request: Request) -> Standings:
    """Return the service that says how tenants stand."""
    return services(request).standings


def usage(request: Request) -> UsageStore:
    """Return what knows the tenants' usage."""
    return services(request).usage


def keys(request: Request) -> Keys:
    """Return the service of API keys."""
    return services(request).keys


def kafka_credentials(request: Request) -> KafkaCredentials:
    """Return the service of Kafka credentials."""
    return services(request).kafka_credentials


def subscriptions(request: Request) -> Subscriptions:
    """Return the subscriptions' service."""
    return services(request).subscriptions


def rules(request: Request) -> Rules:
    """Return the rules' service."""
    return services(request).rules


def trials(request: Request) -> Trials:
    """Return what tries rules."""
    return services(request).trials


def channels(request: Request) -> Channels:
    """Return the channels' service."""
    return services(request).channels


def silences(request: Request) -> Silences:
    """Return the silences' service."""
    return services(request).silences


def alerts(request: Request) -> Alerts:
    """Return the alerts' service."""
    return services(request).alerts


def search(request: Request) -> Search:
    """Return the search."""
    return services(request).search


def series(request: Request) -> Series:
    """Return the series of bars."""
    return services(request).series


def exports(request: Request) -> Exports:
    """Return the exports under way."""
    return services(request).exports


def feeds(request: Request) -> Feeds:
    """Return the feeds' service."""
    return services(request).feeds


def dead_letters(request: Request) -> DeadLetters:
    """Return the dead letters' service."""
    return services(request).dead_letters


def freshness(request: Request) -> Freshness:
    """Return the service of lag and freshness."""
    return services(request).freshness


def audit(request: Request) -> Audit:
    """Return the audit."""
    return services(request).audit
