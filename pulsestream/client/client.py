"""The API of an installation: data as methods, and what a tenant has as an object each."""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

from pulsestream.client.account import Audit, KafkaCredentials, Keys, Subscriptions, Tenant
from pulsestream.client.alerting import Alerts, Channels, Rules, Silences
from pulsestream.client.batches import MAX_EVENTS, Event, all_rejected, batches, with_id
from pulsestream.client.dead_letters import DeadLetters
from pulsestream.client.errors import ApiError
from pulsestream.client.live import follow
from pulsestream.client.objects import Ticket
from pulsestream.client.rows import BarRow, EventRow, Order, Sent, StatRow, TickRow, TradeRow
from pulsestream.client.transport import TRIES, Query, Transport, parameters, route

TIMEOUT: Final = 60.0
"""Seconds that an answer may take: a page of a replay waits for the broker."""
PAGE: Final = 1000

Json = dict[str, Any]


class Client:
    """The API of one installation, for the tenant of one key.

    Methods raise ApiError for a refusal, and UnavailableError when no answer comes however often it is tried.
    Filters and times are those of the routes (`from_` is `from`): see /docs of the installation.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = TIMEOUT, tries: int = TRIES) -> None:
        self._tries = tries
        self._transport = transport = Transport(url, key, timeout=timeout, tries=tries)
        self.tenant: Final = Tenant(transport)
        self.keys: Final = Keys(transport)
        self.kafka_credentials: Final = KafkaCredentials(transport)
        self.subscriptions: Final = Subscriptions(transport)
        self.rules: Final = Rules(transport)
        self.alerts: Final = Alerts(transport)
        self.channels: Final = Channels(transport)
        self.silences: Final = Silences(transport)
        self.dead_letters: Final = DeadLetters(transport)
        self.audit: Final = Audit(transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    # ---- events ----

    def send(self, event: Event) -> Sent:
        """Send an event and return when it is in Kafka; one without an id gets one, so that a retry has no effect."""
        return cast(Sent, self._transport.request("POST", route("ingestion", "events"), body=with_id(event)))

    def send_all(self, events: Iterable[Event], *, batch: int = MAX_EVENTS) -> Iterator[Sent]:
        """Send events in batches as they come, and yield what became of each, in their order.

        A rejected one does not stop the others. Read to the end: what is not read may not have been sent.
        """
        if not 1 <= batch <= MAX_EVENTS:
            raise ValueError(f"batch is {batch}: a request takes 1 to {MAX_EVENTS} events")
        for some in batches(events, batch):
            yield from self._send_batch(some)

    def _send_batch(self, batch: list[Event]) -> list[Sent]:
        try:
            answer = self._transport.request("POST", route("ingestion", "events", "batch"), body={"events": batch})
        except ApiError as error:
            rejected = all_rejected(batch, error.document)
            if rejected is None:
                raise
            return rejected
        return cast(list[Sent], answer["results"])

    # ---- search ----

    def ticks(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[TickRow]:
        """Yield stored ticks."""
        return cast(Iterator[TickRow], self._rows(route("ticks"), order, page, filters))

    def trades(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[TradeRow]:
        """Yield stored trades."""
        return cast(Iterator[TradeRow], self._rows(route("trades"), order, page, filters))

    def events(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[EventRow]:
        """Yield stored events; `contains` is JSON text that their data contains."""
        rows = self._rows(route("ingestion", "events", "search"), order, page, {**filters, "dataset": "events"})
        return cast(Iterator[EventRow], rows)

    def stats(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[StatRow]:
        """Yield rolling statistics."""
        return cast(Iterator[StatRow], self._rows(route("stats"), order, page, filters))

    def bars(self, *, order: Order = "desc", page: int = PAGE, **filters: Any) -> Iterator[BarRow]:
        """Yield bars as they are stored."""
        return cast(Iterator[BarRow], self._rows(route("bars"), order, page, filters))

    def _rows(self, path: str, order: Order, page: int, filters: Query) -> Iterator[Json]:
        return self._transport.walk(path, "rows", {**parameters(filters), "order": order, "limit": page})

    def export(self, dataset: str, *, format: Literal["ndjson", "csv"] = "ndjson", **filters: Any) -> Iterator[str]:  # noqa: A002 - the parameter's name in the API
        """Yield the lines of an export: rows as JSON, or a header and rows as CSV."""
        query = {**parameters(filters), "dataset": dataset, "format": format}
        return self._transport.lines(route("ingestion", "events", "search"), query)

    # ---- feeds, lag and the live view ----

    def feeds(self, *, hours: int = 24, **filters: Any) -> Json:
        """Return how the tenant's products are fed, and how complete each hour is."""
        return cast(Json, self._transport.request("GET", route("feeds"), query={**filters, "hours": hours}))

    def status(self) -> Json:
        """Return how many records wait to be stored, and how old the newest rows are."""
        return cast(Json, self._transport.request("GET", route("ingestion", "status")))

    def follow(
        self,
        datasets: Sequence[Literal["ticks", "stats", "alerts"]] = ("ticks", "stats", "alerts"),
        *,
        products: Sequence[str] = (),
        exchanges: Sequence[str] = (),
        windows: Sequence[str] = (),
        resume: str | None = None,
    ) -> Iterator[Json]:
        """Yield what happens as it happens, as docs/live.md tells it: how things are, and then what comes.

        It has no end: it connects again when a connection ends, and no alert is left out or comes twice. `products`,
        `exchanges`, `windows`: only these. `resume`: the newest token that came in an earlier run.
        """
        named = {"datasets": datasets, "products": products, "exchanges": exchanges, "windows": windows}
        query = {name: ",".join(values) for name, values in named.items() if values}
        return follow(self._transport, {**query, "resume": resume}, self._tries)

    def ticket(self) -> Ticket:
        """Make a ticket that opens one live stream within 30 s, for a page that shall not have the key."""
        return cast(Ticket, self._transport.request("POST", route("live", "tickets")))
