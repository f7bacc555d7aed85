"""The whole of PulseStream on one machine, as `pulsestream up` runs it: real broker, real database, every service.

`Stack` starts and stops it and can be driven by a program; `up` shows it on a terminal and keeps it until Ctrl-C.
Order: broker and database, schema and platform topics, local exchange, services; stopping goes the other way.
"""

import functools
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Final

import psutil
import psycopg
from pydantic import SecretStr

from api.relay_database import connect
from api.tenants.invitations import make
from producers.source import SIMULATOR
from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs
from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEED_SHARDS
from pulsestream.local import demo, feed, probe, process
from pulsestream.local.access import ADMIN
from pulsestream.local.attach import EXCHANGE
from pulsestream.local.database import STOP_TIMEOUT as DATABASE_STOP
from pulsestream.local.database import EmbeddedDatabase
from pulsestream.local.errors import PortBusyError, StartError
from pulsestream.local.home import Home
from pulsestream.local.kafka import STOP_TIMEOUT as KAFKA_STOP
from pulsestream.local.kafka import EmbeddedKafka
from pulsestream.local.roles import SERVICES, as_role, child_environment, kafka_user
from pulsestream.local.screen import Screen
from pulsestream.local.supervisor import ChildSpec, Event, Supervisor
from schemas.migrate import migrate

FIRST_TICK_TIMEOUT: Final = 60.0
"""Seconds that `up` waits for the first stored tick before it says that none has come."""
_NOTED: Final = (
    "kafka_bootstrap", "kafka_security", "kafka_username", "kafka_password", "kafka_ca_file", "database_url",
    "partitions", "feed_shards", "partition_budget", "api_host", "api_port", "stream_app", "sink_group", "notify_group",
    *EXCHANGE,
)  # fmt: skip
"""What another command needs to know to see this stack as it is."""
_INVITATION: Final = timedelta(hours=1)
_LOOK: Final = 0.2
_AUTO: Final = "auto"


class Stack:
    """A stack in `settings.home`, with the feed, exchange and API port of `settings` (port 0: a free one).

    After `start`, `settings` are those of its administrator: broker, database superuser, API port.
    """

    def __init__(self, settings: Settings, tell: Callable[[Event], None] = lambda _: None) -> None:
        self.home = Home(settings.home)
        self.settings = settings.model_copy(update={"home": self.home.folder})
        self._feed: feed.Feed | None = None
        self.kafka = (
            None if settings.kafka_bootstrap else EmbeddedKafka(self.home.folder / "kafka", log=self.home.log("kafka"))
        )
        has_database = bool(settings.database_url.get_secret_value())
        self.database = (
            None if has_database else EmbeddedDatabase(self.home.folder / "database", log=self.home.log("database"))
        )
        self._supervisor = Supervisor(tell)
        self._pepper = SecretStr("")
        self._ops_ports: dict[str, int] = {}
        self._local_exchange: dict[str, object] = {}
        """What the producer is told of a local exchange."""

    @property
    def api_url(self) -> str:
        """The API's address."""
        return f"http://{self.settings.api_host}:{self.settings.api_port}"

    @property
    def chosen(self) -> feed.Feed:
        """The feed in use; raises StartError before it is chosen."""
        if self._feed is None:
            raise StartError("the feed is chosen by start")
        return self._feed

    def has_timescale(self) -> bool:
        """Return whether the database has the timescaledb extension."""
        with psycopg.connect(self.settings.database_url.get_secret_value()) as connection:
            return connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").rowcount == 1

    def check(self) -> None:
        """Take the folder and check what can be checked before anything starts; raises UsageError."""
        if self.settings.feed != _AUTO:
            self._feed = feed.choose(self.settings, probe.reachable)
        self.home.lock()
        self._choose_port()

    def start(self) -> None:
        """Start everything and return when it is ready; raises UsageError or OutageError. `stop` it in any case."""
        if not self.home.is_ours:
            self.check()
        self._pepper = SecretStr(self.settings.key_pepper.get_secret_value() or self.home.pepper())
        with ThreadPoolExecutor(max_workers=1) as aside:
            choosing = aside.submit(lambda: self._feed or feed.choose(self.settings, probe.reachable))
            self._supervisor.start(self._foundation())
            self._lay_out()
            self._feed = choosing.result()
        exchange = self._exchange(self._feed)
        self._leave_note()
        self._supervisor.start([*exchange, *(self._service(name) for name in SERVICES)])

    def stop(self) -> None:
        """Stop everything, in reverse order, and free the folder."""
        self._supervisor.stop()
        self.home.unlock()

    def interrupt(self) -> None:
        """Make a running `start` give up; `stop` is still to be called. Safe in a signal handler."""
        self._supervisor.interrupt()

    @property
    def failure(self) -> BaseException | None:
        """What ended the supervision, if anything did."""
        return self._supervisor.failure

    def pids(self) -> dict[str, int]:
        """Return the process ids of the parts that run, by name: kafka, database, exchange and the services."""
        return self._supervisor.pids()

    def kill(self, name: str) -> None:
        """End a part with SIGKILL, as a crash would; it is started again."""
        self._supervisor.kill(name)

    def wait_ready(self, *names: str, timeout: float = 60.0) -> None:
        """Return when these parts are ready (again); raises StartError after `timeout` seconds."""
        self._supervisor.wait_ready(names, timeout)

    def invitation(self) -> str | None:
        """Return an invitation for one tenant where registration asks for one, else None."""
        if self.settings.registration != "token":
            return None
        with connect(self.settings, "pulsestream-up") as connection:
            return make(connection, "free", _INVITATION, 1, "tenant demo of the local stack").text

    def service_settings(self, name: str, **overrides: object) -> Settings:
        """Return the settings that a service is given: producer, relay, stream, sink or api."""
        return self.settings.model_copy(update=self._given(name) | overrides)

    def _choose_port(self) -> None:
        port = self.settings.api_port or process.free_port()
        if not process.port_is_free(port, self.settings.api_host):
            raise PortBusyError(
                f"port {port} on {self.settings.api_host} is taken by another program: choose another one for the "
                f"API, such as PULSESTREAM_API_PORT={port + 1}"
            )
        self.settings = self.settings.model_copy(update={"api_port": port})

    def _foundation(self) -> list[ChildSpec]:
        parts = []
        if self.database is not None:
            parts.append(_database_spec(self.database))
        if self.kafka is not None:
            parts.append(_kafka_spec(self.kafka))
        return parts

    def _lay_out(self) -> None:
        """Bring database and broker to this version's layout."""
        update: dict[str, object] = {}
        if self.kafka is not None:
            password = SecretStr(self.kafka.password(ADMIN))
            update |= {"kafka_bootstrap": self.kafka.bootstrap, "kafka_username": ADMIN, "kafka_password": password}
        if self.database is not None:
            update["database_url"] = SecretStr(self.database.url())
        self.settings = self.settings.model_copy(update=update)
        migrate(self.settings.database_url.get_secret_value())
        admin = Admin(self.settings)
        admin.create(platform_topic_specs(self.settings))
        admin.grow(FEED_SHARDS, self.settings.feed_shards)
        if self.kafka is not None:
            self.kafka.ensure_access()

    def _leave_note(self) -> None:
        """Leave what other commands need."""
        fed = self.settings.model_copy(update={"exchange": self.chosen.exchange} | self._local_exchange)
        self.home.write_note({name: _plain(getattr(fed, name)) for name in _NOTED})

    def _exchange(self, chosen: feed.Feed) -> list[ChildSpec]:
        if not chosen.arguments:
            return []
        port = process.free_port()
        self._local_exchange = {
            "venue": "" if chosen.exchange == SIMULATOR else self.settings.venue,
            "exchange_url": f"ws://127.0.0.1:{port}",
            "exchange_rest_url": f"http://127.0.0.1:{port}",
        }
        return [
            ChildSpec(
                name="exchange",
                command=lambda: feed.command(chosen, port),
                log=self.home.log("exchange"),
                env=child_environment(self.settings.model_copy(update=self._without_rights())),
                problem=lambda: probe.tcp_problem("127.0.0.1", port),
            )
        ]

    def _service(self, name: str) -> ChildSpec:
        settings = self.service_settings(name)
        port = settings.api_port if name == "api" else settings.ops_port
        host = settings.api_host if name == "api" else "127.0.0.1"
        return ChildSpec(
            name=name,
            command=lambda: [sys.executable, "-m", "pulsestream.cli", name],
            log=self.home.log(name),
            env=child_environment(settings),
            problem=functools.partial(probe.http_problem, f"http://{host}:{port}/readyz"),
        )

    def _given(self, name: str) -> dict[str, object]:
        """Return what sets a service apart: its user, its role, its ports, and the pepper for the API alone."""
        given = (
            self._without_rights()
            | self._local_exchange
            | {
                "exchange": self.chosen.exchange,
                "ops_port": 0 if name == "api" else self._ops_ports.setdefault(name, process.free_port()),
            }
        )
        if self.kafka is None:
            given |= {name: getattr(self.settings, name) for name in ("kafka_username", "kafka_password")}
        else:
            user = kafka_user(name)
            given |= {"kafka_username": user, "kafka_password": SecretStr(self.kafka.password(user))}
        if name == "api":
            given |= {"key_pepper": self._pepper, "key_pepper_previous": self.settings.key_pepper_previous}
        role = SERVICES[name]
        return given | ({"database_url": SecretStr(self._database_url(role))} if role else {})

    def _without_rights(self) -> dict[str, object]:
        secrets = ("kafka_password", "database_url", "key_pepper", "key_pepper_previous")
        return {"kafka_username": "", **dict.fromkeys(secrets, SecretStr(""))}

    def _database_url(self, role: str) -> str:
        if self.database is not None:
            return self.database.url(role)
        return as_role(self.settings.database_url.get_secret_value(), role)


def up(settings: Settings) -> None:
    """Run the stack on this terminal until SIGINT, SIGTERM or SIGHUP; raises UsageError or OutageError."""
    began = psutil.Process().create_time()  # what the person waits for includes the interpreter's own start
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it says each request, and the screen is for people
    screen = Screen(sys.stdout)
    stack = Stack(settings, screen.event)
    stack.check()
    screen.begins(stack.home.folder, stack.kafka is not None)
    if stack.kafka is not None:
        stack.kafka.fetch()  # may download for a while: before the signals are taken over, so that Ctrl-C ends it
    stopping = threading.Event()
    _on_signals(stopping, stack)
    try:
        stack.start()
        _first_steps(stack, screen, began, stopping)
        while not stopping.wait(_LOOK) and stack.failure is None:
            """Nothing to do: the supervisor's own thread does it."""
        screen.stops()
    except StartError:
        if not stopping.is_set():
            raise
    finally:
        stack.stop()
    if stack.failure is not None:
        raise stack.failure


def _on_signals(stopping: threading.Event, stack: Stack) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()
        stack.interrupt()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _first_steps(stack: Stack, screen: Screen, began: float, stopping: threading.Event) -> None:
    """Make or find the demo tenant, wait for its first tick, and say what to do next."""
    screen.fed(stack.chosen.said, has_timescale=stack.has_timescale())
    try:
        fed = stack.chosen
        key, new = demo.ensure_demo(stack.api_url, stack.home.demo_key, fed.exchange, fed.products, stack.invitation)
        if new:
            screen.key(demo.TENANT, key, stack.home.demo_key)
        # A recording's ticks are as old as it is; of all others only those count that came after the start.
        since = "" if stack.chosen.is_replay else _rfc3339(began)
        found = demo.wait_for_tick(stack.api_url, key, since, FIRST_TICK_TIMEOUT, stopping.is_set)
    except demo.DemoError as error:
        if not stopping.is_set():
            screen.warns(str(error))
        return
    if found:
        screen.first_tick(time.time() - began)
    elif not stopping.is_set():
        logs = stack.home.folder / "logs"
        screen.warns(f"no tick was stored within {FIRST_TICK_TIMEOUT:.0f} s: `pulsestream doctor` and {logs} say more")
    if not stopping.is_set():
        screen.next_steps(stack.api_url, stack.home, demo.SEARCH)


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _database_spec(database: EmbeddedDatabase) -> ChildSpec:
    return ChildSpec(
        name="database",
        prepare=database.prepare,
        command=database.command,
        user=database.user,
        log=database.log,
        problem=lambda: None if database.answers() else "it takes no connection yet",
        stop_timeout=DATABASE_STOP,
        stop_signal=signal.SIGINT,
        death_signal=signal.SIGQUIT,
    )


def _kafka_spec(kafka: EmbeddedKafka) -> ChildSpec:
    return ChildSpec(
        name="kafka",
        prepare=kafka.prepare,
        command=kafka.command,
        after_spawn=kafka.after_spawn,
        after_exit=kafka.after_exit,
        log=kafka.log,
        problem=lambda: None if kafka.answers() else "it answers no request yet",
        stop_timeout=KAFKA_STOP,
    )


def _plain(value: object) -> str | int | None:
    """Return a setting as JSON holds it, secrets included: the note is private."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value if isinstance(value, int | None) else str(value)
