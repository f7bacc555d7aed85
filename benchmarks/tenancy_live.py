"""The live view under load: 1,000 ticks a second to 500 clients, and 2,000 clients of one process.

Ticks are written to the tenants' topics as a producer writes them; a tick's latency is from the broker's append (whole
milliseconds, cut, so up to one too long) to the moment at which a client has read the message that holds it. Clients
are processes of their own (`benchmarks/peers/live_clients.py`), each connection gets every tick of its tenant. The API
has the first processor to itself; clients, broker and writer share the last one.
"""

import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np
import psutil
from confluent_kafka import KafkaError, Message, Producer

from benchmarks.choice import Figures
from benchmarks.ingest_stand import FREE, START, Server, Stand, bare_stand, register, served_api
from benchmarks.peers import live_clients
from benchmarks.peers.live_clients import Job
from benchmarks.peers.race import SpoiltError
from benchmarks.streams_stand import offered
from benchmarks.table import show
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin, producer_config
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Tick, tick_id

EXCHANGE: Final = "coinbase"
PRODUCTS: Final = tuple(f"L{number:02}-USD" for number in range(100))
PROCESSES: Final = 2
"""That share the clients."""
SETTLE: Final = 2.0
"""Seconds after the last tick in which it has to reach the clients."""
WARM: Final = 20
"""Clients that come and go before memory is looked at."""
_PAUSE: Final = 0.002
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Scene:
    """What a turn is: clients, tenants that share them, ticks a second to each client, and seconds."""

    clients: int
    tenants: int
    rate: int
    warm_up: float
    seconds: float
    by_events: bool = False


WHOLE: Final = {
    "live": Scene(500, 1, 1_000, 5.0, 20.0),
    "events": Scene(500, 1, 1_000, 5.0, 20.0, by_events=True),
    "many": Scene(2_000, 4, 10, 5.0, 20.0),
}
"""Of 2,000 clients each gets 10 ticks a second: 20,000 messages a second in all, as many as 500 get in the others."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What clients read: for each message its time (seconds), number and client; ticks of a number by `counts`."""

    times: np.ndarray
    messages: np.ndarray
    clients: np.ndarray
    sequences: np.ndarray
    counts: np.ndarray

    @staticmethod
    def load(path: Path) -> "Readings":
        """Return what a process of clients has written."""
        with np.load(path) as file:
            return Readings(*(file[name] for name in ("times", "messages", "clients", "sequences", "counts")))


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn measured: latencies (ms) of every tick of every client, how many of how many came, CPU in processors.

    `bytes_per_client`: what the API's memory grew by, a client.
    """

    latencies: np.ndarray
    received: int
    expected: int
    cpu: Mapping[str, float]
    bytes_per_client: float

    def percentile(self, share: float) -> float:
        """Return a percentile of the latency."""
        return float(np.percentile(self.latencies, share))

    @property
    def share(self) -> float:
        """Part of the ticks that reached the clients one by one; slow clients get the newest of a product only."""
        return self.received / self.expected


def latencies(readings: Readings, appended: np.ndarray) -> np.ndarray:
    """Return seconds from append to receipt, of every tick in every message of those that `appended` has a time for.

    `appended` is by sequence; 0 stands for a tick that does not count.
    """
    messages, sequences = _ticks(readings)
    at = appended[sequences]
    found: np.ndarray = (readings.times[messages] - at)[at > 0]
    return found


def received(readings: Readings, appended: np.ndarray) -> int:
    """Return how many different ticks that count the clients have received, all of theirs together."""
    messages, sequences = _ticks(readings)
    each = readings.clients[messages].astype(np.int64) * len(appended) + sequences
    return len(np.unique(each[appended[sequences] > 0]))


def _ticks(readings: Readings) -> tuple[np.ndarray, np.ndarray]:
    """Return of each tick in each message the message's place, and the tick's sequence."""
    begins = np.concatenate(([0], np.cumsum(readings.counts)))[:-1]
    sizes = readings.counts[readings.messages]
    places = np.repeat(begins[readings.messages] - np.concatenate(([0], np.cumsum(sizes)[:-1])), sizes)
    sequences = readings.sequences[places + np.arange(int(sizes.sum()))]
    return np.repeat(np.arange(len(sizes)), sizes), sequences


def run(parts: Collection[str], rounds: int | None, *, quick: bool, scale: float) -> Figures:
    """Measure if it is among the parts, print a table, and return the figures."""
    if "live" not in parts:
        return {}
    scenes = {name: _sized(scene, quick=quick, scale=scale) for name, scene in WHOLE.items()}
    with bare_stand(
        limits=f"{FREE}, free.live=100000", registrations_per_address=1000, registrations_per_hour=1000
    ) as made:
        turns: dict[str, list[Turn]] = {name: [] for name in scenes}
        for number in range(1 if quick else rounds or 3):
            for name, scene in scenes.items():
                try:
                    turns[name].append(_turn(made, f"{name}-{number}", scene))
                except SpoiltError as error:
                    print(f"a turn of {name} that does not count: {error}", flush=True)
    _show(turns, scenes)
    return _figures(turns)


def _sized(scene: Scene, *, quick: bool, scale: float) -> Scene:
    if quick:
        return replace(scene, clients=scene.clients // 10, warm_up=1.0, seconds=3.0)
    return replace(scene, warm_up=scene.warm_up * scale, seconds=scene.seconds * scale)


def _turn(made: Stand, name: str, scene: Scene) -> Turn:
    with served_api(made) as api:
        tenants = [f"bench-{name}-{number}" for number in range(scene.tenants)]
        keys = [register(api.port, tenant) for tenant in tenants]
        settings = made.broker.settings()
        wanted = [tenant_topic_spec(settings, each, dataset) for each in tenants for dataset in ("ticks", "own-ticks")]
        Admin(settings).create(wanted)
        with _crowd(made, Job(api.port, keys, WARM, "warm", scene.by_events)):
            pass
        before = _resident(api)
        writer = Writer(made, tenants)
        with _crowd(made, Job(api.port, keys, scene.clients, name, scene.by_events)) as crowd:
            writer.write(scene.rate, scene.warm_up)
            first, spent = writer.count, _spent(made, api, crowd.pids)
            began = time.monotonic()
            writer.write(scene.rate, scene.seconds)
            seconds = time.monotonic() - began
            cpu = {who: (now - spent[who]) / seconds for who, now in _spent(made, api, crowd.pids).items()}
            grown = (_resident(api) - before) / scene.clients
            time.sleep(SETTLE)
        appended = writer.appended(first)
    read = [Readings.load(path) for path in crowd.files]
    found = np.concatenate([latencies(each, appended) for each in read]) * 1e3
    came = sum(received(each, appended) for each in read)
    return Turn(found, came, int(np.count_nonzero(appended)) * scene.clients, cpu, grown)


class Writer:
    """Writes ticks to the topics of tenants, each to all of them, and keeps when the broker appended the first copy."""

    def __init__(self, made: Stand, tenants: Sequence[str]) -> None:
        self._topics = [tenant_topic(tenant, "ticks") for tenant in tenants]
        self._producer = Producer(producer_config(made.broker.settings(), "bench-live") | {"log_level": 2})
        self._appended: dict[int, float] = {}
        self._failures: list[str] = []
        self.count = 0

    def write(self, rate: int, seconds: float) -> None:
        """Write ticks evenly; returns when all are acknowledged. Raises SpoiltError when one was not taken."""
        first, began = self.count, time.monotonic()
        while self.count - first < rate * seconds:
            due = min(int((time.monotonic() - began) * rate), int(rate * seconds))
            while self.count - first < due:
                self._write_one()
            self._producer.poll(0)
            time.sleep(_PAUSE)
        if self._producer.flush(START) or self._failures:
            raise SpoiltError(f"the broker did not take every tick: {self._failures[:1]}")

    def appended(self, first: int) -> np.ndarray:
        """Return by sequence when ticks were appended, in seconds; 0 for those before `first`."""
        return np.array([self._appended[each] if each >= first else 0.0 for each in range(self.count)])

    def _write_one(self) -> None:
        number = self.count
        product = PRODUCTS[number % len(PRODUCTS)]
        value, key = codec(Tick).encode(_tick(number, product)), product.encode()
        self._offer(self._topics[0], key, value, number)
        for topic in self._topics[1:]:
            while not offered(self._producer, topic, key, value):
                self._producer.poll(0.01)
        self.count += 1

    def _offer(self, topic: str, key: bytes, value: bytes, number: int) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failures.append(error.str())
            self._appended[number] = message.timestamp()[1] / 1e3

        self._producer.produce(topic, value, key, on_delivery=delivered)


def _tick(number: int, product: str) -> Tick:
    now = wall_clock()
    price = 64_250.5 + number % 1_000 / 100
    return Tick(
        event_id=tick_id(EXCHANGE, product, number),
        exchange=EXCHANGE,
        product=product,
        sequence=number,
        trade_id=881_613_000 + number,
        side="buy" if number % 3 else "sell",
        price=price,
        size=0.25,
        best_bid=price - 0.01,
        best_bid_size=12.5,
        best_ask=price + 0.01,
        best_ask_size=0.4,
        open_24h=price - 1.25,
        high_24h=price + 3.5,
        low_24h=price - 4.5,
        volume_24h=94_381.25,
        volume_30d=2_295_579.5,
        exchange_time=now,
        received_time=now,
    )


@dataclass(frozen=True, slots=True)
class Crowd:
    """Clients that are connected and have their snapshots; `files` hold what they read, once they have ended."""

    pids: Sequence[int]
    files: Sequence[Path]


@contextmanager
def _crowd(made: Stand, whole: Job) -> Iterator[Crowd]:
    """Run clients in several processes; raises SpoiltError where one of them fails."""
    with ExitStack() as stack:
        jobs = [
            replace_job(whole, whole.clients // PROCESSES, made.folder / f"{whole.out}-{number}.npz")
            for number in range(PROCESSES)
        ]
        running = [stack.enter_context(_clients(job)) for job in jobs]
        for each in running:
            if each.stdout is None or each.stdout.readline() != b"ready\n":
                raise SpoiltError(f"the clients were not served: {_last_words(each)}")
        yield Crowd([each.pid for each in running], [Path(job.out) for job in jobs])
        for each in running:
            if each.stdin is not None:
                each.stdin.close()
        for each in running:
            if each.wait(START):
                raise SpoiltError(f"the clients ended with {_last_words(each)}")


def replace_job(job: Job, clients: int, out: Path) -> Job:
    """Return a part of a job."""
    return msgspec.structs.replace(job, clients=clients, out=str(out))


@contextmanager
def _clients(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", live_clients.__name__, msgspec.json.encode(job).decode()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


def _last_words(running: subprocess.Popen[bytes]) -> str:
    said = b"" if running.stderr is None else running.stderr.read()
    return (said.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]


def _resident(api: Server) -> float:
    return float(psutil.Process(api.pid).memory_info().rss)


def _spent(made: Stand, api: Server, clients: Sequence[int]) -> dict[str, float]:
    """Return CPU seconds so far."""
    pids = {"API": [api.pid], "clients": clients, "broker": [made.broker.pid or 0]}
    return {who: sum(_cpu(pid) for pid in each) for who, each in pids.items()}


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _show(turns: Mapping[str, Sequence[Turn]], scenes: Mapping[str, Scene]) -> None:
    rows = []
    for name, each in turns.items():
        if not each:
            continue
        scene, p99 = scenes[name], [turn.percentile(99) for turn in each]
        cpu = [f"{median(turn.cpu[who] for turn in each):.2f}" for who in ("API", "clients", "broker")]
        p50 = median(turn.percentile(50) for turn in each)
        least = min(turn.share for turn in each)
        kib = median(turn.bytes_per_client for turn in each) / _KIB
        kind = "SSE" if scene.by_events else "WS"
        rows.append(
            (
                f"{scene.clients:,} {kind}, {scene.rate:,}/s",
                f"{p50:.1f}",
                f"{median(p99):.1f}",
                f"{100 * least:.2f}",
                *cpu,
                f"{kib:.1f}",
            )
        )
    columns = ("clients, ticks", "p50", "p99", "came, %", "API", "clients", "broker", "KiB each")
    show("append to receipt, ms; API, clients, broker in processors", columns, rows)


def _figures(turns: Mapping[str, Sequence[Turn]]) -> Figures:
    figures: Figures = {}
    for name, each in turns.items():
        prefix = "live" if name == "live" else f"live_{name}"
        if not each:
            figures[f"{prefix}_p99_ms"] = None
            figures[f"{prefix}_reason"] = "no turn counts: see above"
            continue
        figures[f"{prefix}_p99_ms"] = median(turn.percentile(99) for turn in each)
        p99 = [turn.percentile(99) for turn in each]
        figures |= {f"{prefix}_p99_least_ms": min(p99), f"{prefix}_p99_most_ms": max(p99)}
        figures[f"{prefix}_p50_ms"] = median(turn.percentile(50) for turn in each)
        figures[f"{prefix}_received"] = min(turn.share for turn in each)
        for who in ("API", "clients"):
            figures[f"{prefix}_{who.lower()}_processors"] = median(turn.cpu[who] for turn in each)
    if turns["many"]:
        figures["live_bytes_per_client"] = median(turn.bytes_per_client for turn in turns["many"])
    return figures
