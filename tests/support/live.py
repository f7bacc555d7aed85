"""Clients of the live view, and records on a tenant's topics for them to see."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self, Union

import httpx
import msgspec
from confluent_kafka import Producer
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from api.live.messages import SAID
from pulsestream.core.clock import MICROS_PER_SECOND, wall_clock
from pulsestream.core.kafka import producer_config
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Alert, AsOf, Record, Stat, Tick, tick_id
from tests.support.e2e import Installation, Tenant

_said = msgspec.json.Decoder(Union[SAID])  # noqa: UP007 - of a tuple of types
BOUND = 60.0
"""Seconds within which whatever is waited for has to come."""


def read(text: str | bytes) -> dict[str, Any]:
    """Return a message of the server's; one that is not as its type says, and so not as /asyncapi.json says, raises."""
    _said.decode(text)
    message: dict[str, Any] = json.loads(text)
    return message


class LiveClient:
    """One connection: everything that came is in `messages`; after the server's close, `code` and `reason` are set."""

    def __init__(self, port: int, first: str | bytes | None = None, **asked: Any) -> None:
        self.messages: list[dict[str, Any]] = []
        self.code: int | None = None
        self.reason = ""
        self._stack = ExitStack()
        url = f"ws://127.0.0.1:{port}/api/v1/live"
        opened = connect(url, max_size=None, proxy=None, open_timeout=BOUND, close_timeout=1)
        self._socket: ClientConnection = self._stack.enter_context(opened)
        self._socket.send(json.dumps({"type": "subscribe", **asked}) if first is None else first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def say(self, text: str) -> None:
        """Send one more message."""
        self._socket.send(text)

    def read_until(self, done: Callable[[], bool], seconds: float = BOUND) -> None:
        """Read until `done` says so; fails where that takes too long, or the server closes before."""
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"not within {seconds} s; came: {str(self.messages[-5:])[:2000]}"
            assert self.code is None, f"closed with {self.code}: {self.reason}"
            self.read(1.0)

    def read_live(self) -> None:
        """Read until the snapshot is whole."""
        self.read_until(lambda: any(message["type"] == "live" for message in self.messages))

    def read_closed(self) -> tuple[int | None, str]:
        """Read until the server closes; return its code and reason."""
        deadline = time.monotonic() + BOUND
        while self.code is None:
            assert time.monotonic() < deadline, f"not closed; came: {str(self.messages[-5:])[:2000]}"
            self.read(1.0)
        return self.code, self.reason

    def read(self, seconds: float) -> None:
        """Read the next message, if one comes in time."""
        try:
            self.messages.append(read(self._socket.recv(seconds)))
        except TimeoutError:
            return
        except ConnectionClosed as closed:
            self.code = 1006 if closed.rcvd is None else closed.rcvd.code
            self.reason = "" if closed.rcvd is None else closed.rcvd.reason

    def alerts(self) -> list[str]:
        """Return the ids of all alerts that came, in their order, those of the snapshot first."""
        return [row["alert_id"] for row in rows(self.messages, "alerts")]

    def read_token(self) -> str:
        """Return the newest resume token, once there is one."""
        self.read_until(lambda: any(message.get("resume") for message in self.messages))
        return next(message["resume"] for message in reversed(self.messages) if message.get("resume"))


def rows(messages: Sequence[dict[str, Any]], dataset: str) -> list[dict[str, Any]]:
    """Return the rows of a dataset, those of the snapshot included."""
    return [
        row for message in messages if dataset in (message["type"], message.get("dataset")) for row in shown(message)
    ]


def shown(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message's rows, if it has any."""
    found: list[dict[str, Any]] = message.get("rows", [])
    return found


class EventClient:
    """A stream of server-sent events: messages in `messages`, the id of the last one in `last_id`."""

    def __init__(self, http: httpx.Client, headers: Mapping[str, str] = {}, **query: str) -> None:
        self.messages: list[dict[str, Any]] = []
        self.last_id: str | None = None
        self._stack = ExitStack()
        asked = http.stream("GET", "/api/v1/live/events", params=query, headers=dict(headers), timeout=BOUND)
        self.answer = self._stack.enter_context(asked)
        self._lines = self.answer.iter_lines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read_until(self, done: Callable[[], bool]) -> None:
        """Read until `done` says so; fails where the stream ends before."""
        deadline = time.monotonic() + BOUND
        while not done():
            assert time.monotonic() < deadline, f"came: {str(self.messages[-5:])[:2000]}"
            line = next(self._lines, None)
            assert line is not None, f"the stream has ended; came: {str(self.messages[-5:])[:2000]}"
            if line.startswith("id: "):
                self.last_id = line.removeprefix("id: ")
            if line.startswith("data: "):
                self.messages.append(read(line.removeprefix("data: ")))

    def alerts(self) -> list[str]:
        """Return the ids of all alerts that came, in their order, those of the snapshot first."""
        return [row["alert_id"] for row in rows(self.messages, "alerts")]


class Comer:
    """A client in a thread that comes back whenever its connection ends, with the last token that it got."""

    def __init__(self, port: int, key: str, **asked: Any) -> None:
        self.alerts: list[str] = []
        self.joins = 0
        self._port = port
        self._asked = {"key": key, "datasets": ["alerts"], **asked}
        self._token: str | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(BOUND)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                with LiveClient(self._port, **self._asked, resume=self._token) as client:
                    self._follow(client)
            except (OSError, InvalidHandshake, ConnectionClosed):
                time.sleep(0.1)

    def _follow(self, client: LiveClient) -> None:
        self.joins += 1
        while client.code is None and not self._is_over.is_set():
            client.read(0.2)
            for message in client.messages:
                self.alerts += [row["alert_id"] for row in rows([message], "alerts")]
                self._token = message.get("resume") or self._token
            client.messages.clear()


class Market:
    """Writes ticks, statistics and alerts of a tenant to its topics, as producer and streams do."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        self._tenant = tenant
        self._producer = Producer(producer_config(settings, "test-market"))
        self._seq: dict[str, int] = {}
        self._sequence = 0
        self._began = wall_clock()

    def ticks(self, product: str, count: int, exchange: str = "coinbase") -> list[Tick]:
        """Write ticks, each a millisecond after the one before."""
        made = [self._tick(product, exchange) for _ in range(count)]
        self._write("ticks", made)
        return made

    def stat(self, product: str, window: str = "1m") -> Stat:
        """Write a statistic."""
        self._sequence += 1
        at = (self._began // MICROS_PER_SECOND + self._sequence) * MICROS_PER_SECOND
        stat = Stat(
            event_id=f"coinbase:{product}:{window}:{at}:ticks",
            exchange="coinbase",
            product=product,
            window=window,
            at=at,
            basis="ticks",
            count=1,
            as_of=AsOf(topic_id="t", partition=0, offset=self._sequence),
            revision=0,
        )
        self._write("stats", [stat])
        return stat

    def alerts(self, product: str, count: int, rule: str = "rule") -> list[Alert]:
        """Write alerts of one rule and product."""
        made = [self._alert(product, rule) for _ in range(count)]
        self._write("alerts", made)
        return made

    def again(self, alerts: Sequence[Alert]) -> None:
        """Write alerts a second time, as a worker does after a crash."""
        self._write("alerts", alerts)

    def raw(self, dataset: str, value: bytes) -> None:
        """Write any bytes."""
        self._producer.produce(tenant_topic(self._tenant, dataset), value, b"BTC-USD")
        assert self._producer.flush(30) == 0

    @contextmanager
    def alerting(self, products: Sequence[str], every: float) -> Iterator[list[str]]:
        """Write an alert every so many seconds until the block ends; gives the ids written."""
        ids: list[str] = []
        over = threading.Event()

        def write() -> None:
            while not over.wait(every):
                ids.append(self.alerts(products[len(ids) % len(products)], 1)[0].alert_id)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield ids
        finally:
            over.set()
            thread.join()

    def _tick(self, product: str, exchange: str) -> Tick:
        self._sequence += 1
        time_ = self._began + self._sequence * 1_000
        return Tick(
            event_id=tick_id(exchange, product, self._sequence),
            exchange=exchange,
            product=product,
            sequence=self._sequence,
            price=100.0 + self._sequence,
            exchange_time=time_,
            received_time=time_,
        )

    def _alert(self, product: str, rule: str) -> Alert:
        seq = self._seq[f"{rule}:{product}"] = self._seq.get(f"{rule}:{product}", 0) + 1
        return Alert(
            alert_id=f"{rule}:{product}:{seq}",
            seq=seq,
            rule_id=rule,
            rule_name=rule,
            rule_version=1,
            exchange="coinbase",
            product=product,
            state="firing" if seq % 2 else "resolved",
            at=self._began + seq * 1_000,
            reason="price below 15000",
            severity="info",
            labels={"desk": "spot"},
            last_prices=[],
        )

    def _write(self, dataset: str, records: Sequence[Record]) -> None:
        topic = tenant_topic(self._tenant, dataset)
        for record in records:
            key = record.product.encode() if isinstance(record, Tick | Stat | Alert) else None
            self._producer.produce(topic, codec(type(record)).encode(record), key)
            self._producer.poll(0)
        assert self._producer.flush(30) == 0


def tenant_with_topics(running: Installation, name: str, products: Sequence[str]) -> tuple[Tenant, Market]:
    """Return a new tenant that is subscribed to products of coinbase, and what writes to its topics."""
    tenant = running.register(name)
    tenant.subscribe("coinbase", products)
    running.wait_for_topics(tenant)
    return tenant, Market(running.admin, tenant.slug)
