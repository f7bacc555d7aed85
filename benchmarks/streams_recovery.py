"""How long a worker takes over 100,000 keys: state on a real broker, read, sorted, and ready to fold.

The state is that of a worker that folded a few trades of each key and whose clocks then ran on, over three partitions,
as it stands after a compaction: each entry once. Decoding waits until a key is asked for, which the second figure says.
"""

import secrets
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from benchmarks.choice import Figures
from benchmarks.table import show
from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs
from pulsestream.core.settings import Settings
from pulsestream.core.topics import state_topic
from pulsestream.local.kafka import EmbeddedKafka
from streams.checkpoint import StatePartition
from streams.engine import fold as engine
from streams.engine import snapshot
from streams.engine.fold import KeyState
from streams.engine.inputs import Row
from streams.entries import sort
from streams.intake import key_of
from streams.pipeline import Shard

KEYS: Final = 100_000
QUICK_KEYS: Final = 10_000
ROUNDS: Final = 5
TRADES: Final = 3
_BEGIN: Final = 1_700_000_000_000_000
_SECOND: Final = 1_000_000
_AT_ONCE: Final = 5_000
_TOUCHED: Final = 1_000
PARTS: Final = ("recovery",)


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds until all keys can be folded; bytes of state; microseconds to decode a key when it is asked for."""

    seconds: float
    size: int
    first_touch: float


def run(broker: EmbeddedKafka, parts: Collection[str], rounds: int | None, *, quick: bool) -> Figures:
    """Measure if it is among the parts, print a table, and return the figures."""
    if not set(PARTS) & set(parts):
        return {}
    keys = QUICK_KEYS if quick else KEYS
    app = f"pulsestream-{secrets.token_hex(4)}"
    settings = broker.settings().model_copy(update={"stream_app": app})
    admin = Admin(settings)
    admin.create([spec for spec in platform_topic_specs(settings) if spec.name == state_topic(app)])
    try:
        size = _write(settings, keys)
        measured = [_recover(settings, size) for _ in range(rounds or (1 if quick else ROUNDS))]
    finally:
        admin.delete([state_topic(app)])
    seconds, touch = median(one.seconds for one in measured), median(one.first_touch for one in measured)
    spread = f"{min(one.seconds for one in measured):.2f} to {max(one.seconds for one in measured):.2f}"
    show("Taking state over", ("keys", "MB of state", "seconds", "from .. to", "us to decode one"), [
        (f"{keys:,}", f"{size / 1e6:.0f}", f"{seconds:.2f}", spread, f"{touch:.0f}")
    ])  # fmt: skip
    return {"recovery_100k_s": seconds * KEYS / keys}


def _write(settings: Settings, keys: int) -> int:
    """Fill the state partitions; return how many bytes that took."""
    size = 0
    for partition in range(settings.partitions):
        store = StatePartition(settings, partition)
        store.take_over()
        template = _folded(partition)
        waiting: dict[str, bytes | None] = {}
        for number in range(partition, keys, settings.partitions):
            waiting |= _entries(number, template)
            if len(waiting) >= _AT_ONCE:
                size += sum(len(name) + len(value or b"") for name, value in waiting.items())
                store.commit(waiting)
                waiting = {}
        store.commit(waiting)
        store.close()
    return size


def _entries(number: int, template: KeyState) -> dict[str, bytes | None]:
    state = replace(template, product=f"P{number:06}-USD")
    due = engine.next_deadline(state, ()) or snapshot.NOTHING_DUE
    return snapshot.entries(key_of("bench", "trades", "coinbase", state.product), None, state, due)


def _folded(partition: int) -> KeyState:
    """Return a key's state with a few trades, whose second panes the clock has closed."""
    times = range(_BEGIN, _BEGIN + TRADES * _SECOND, _SECOND)
    rows = [Row(n, at, at, 100 + n / 4, 1.5, True, n + 1, None, None, at) for n, at in enumerate(times)]
    state = engine.new_state("coinbase", "", "trades", topic_id="topic", partition=partition)
    state = engine.fold(state, rows, ()).state
    return engine.advance(state, state.watermark + 5 * _SECOND, ()).state


def _recover(settings: Settings, size: int) -> Recovery:
    began = time.perf_counter()
    with ThreadPoolExecutor(settings.partitions) as pool:
        stores = [StatePartition(settings, partition) for partition in range(settings.partitions)]
        restored = list(pool.map(lambda store: sort(store.take_over()), stores))
    shards = [
        Shard(entries, lambda exchange, product: f"{exchange}:{len(product)}", lambda _: 0) for entries in restored
    ]
    seconds = time.perf_counter() - began
    touched = [key for shard in shards for key in list(shard.states)[:_TOUCHED]]
    began = time.perf_counter()
    for shard in shards:
        for key in list(shard.states)[:_TOUCHED]:
            shard.states.get(key)
    first_touch = (time.perf_counter() - began) / len(touched) * 1e6
    for store in stores:
        store.close()
    return Recovery(seconds, size, first_touch)
