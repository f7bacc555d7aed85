"""Clients of ingestion that send while a block runs, and write into a ledger what they were told."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Self

import httpx

from tests.support.api import EVENT
from tests.support.ledger import Ledger

SINGLE, BATCH = "/api/v1/ingestion/events", "/api/v1/ingestion/events/batch"
FAULTY: Final = 41
"""Of so many events one has no type."""
GIVES_UP: Final = 0.1
"""Share of the failed attempts after which a client does not try again: what it sent stays unknown."""
KEYS: Final = 5
"""Products of each client, each the key of an order of its own."""
PATIENCE: Final = 120.0
"""Seconds within which something has to be accepted."""


class Clients:
    """One client for each of `sizes`, which sends so many events a request, from `with` to the end of its block.

    A client begins its next request when it was told what became of the one before, or has given it up: so the events
    of a key have an order. When the ledger has `enough` ids, they take their time. After the block: `answers` by
    status, requests `broken` off, `slowest` answer (seconds).
    """

    def __init__(self, port: int, key: str, ledger: Ledger, sizes: Sequence[int], enough: int) -> None:
        self.answers: Counter[int] = Counter()
        self.broken = 0
        self.slowest = 0.0
        self._url = f"http://127.0.0.1:{port}"
        self._key = key
        self._ledger = ledger
        self._sizes = sizes
        self._enough = enough
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(len(sizes))
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(self._send, *numbered) for numbered in enumerate(self._sizes)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        self.assert_well()

    def assert_well(self) -> None:
        """Fail as a client did that has failed."""
        for running in self._running:
            if running.done():
                running.result()

    def _send(self, client: int, size: int) -> None:
        dice = random.Random(client)
        number = 0
        with httpx.Client(base_url=self._url, timeout=90, trust_env=False) as http:
            while not self._stop.is_set():
                self._insist(http, [_event(client, each) for each in range(number, number + size)], dice)
                number += size
                if len(self._ledger.entries) > self._enough:
                    self._stop.wait(0.2)

    def _insist(self, http: httpx.Client, events: list[dict[str, Any]], dice: random.Random) -> None:
        names = [f"{event['source']}:{event['id']}" for event in events]
        for name, event in zip(names, events, strict=True):
            self._ledger.send(name, event["product"])
        end = time.monotonic() + PATIENCE
        while not self._is_settled(names, self._answer(http, events)):
            assert time.monotonic() < end, f"{names[:3]} and so on were not accepted within {PATIENCE:.0f} s"
            self._ledger.blur(names)
            if dice.random() < GIVES_UP:
                return
            time.sleep(0.2)

    def _answer(self, http: httpx.Client, events: list[dict[str, Any]]) -> httpx.Response | None:
        path, body = (SINGLE, events[0]) if len(events) == 1 else (BATCH, {"events": events})
        began = time.monotonic()
        try:
            answer = http.post(path, json=body, headers={"X-API-Key": self._key})
        except httpx.TransportError:
            answer = None
        with self._lock:
            self.slowest = max(self.slowest, time.monotonic() - began)
            if answer is None:
                self.broken += 1
            else:
                self.answers[answer.status_code] += 1
        return answer

    def _is_settled(self, names: Sequence[str], answer: httpx.Response | None) -> bool:
        """Take an answer down, and return whether it says of each event what became of it."""
        if answer is None:
            return False
        match answer.status_code:
            case 202:
                told = ["accepted"] * len(names)
            case 422:
                told = ["rejected"] * len(names)
            case 207 | 503:
                told = [result["status"] for result in answer.json().get("results", [])]
            case _:
                raise AssertionError(f"{answer.status_code} {answer.text}")
        assert answer.status_code != 503 or int(answer.headers["retry-after"]) >= 1
        for name, verdict in zip(names, told, strict=bool(told)):
            if verdict == "accepted":
                self._ledger.accept(name)
            elif verdict == "rejected":
                self._ledger.reject(name)
        return answer.status_code != 503


def _event(client: int, number: int) -> dict[str, Any]:
    made = EVENT | {"id": str(number), "source": f"/desk/{client}", "data": {"n": number}}
    made["product"] = f"C{client}-K{number % KEYS}"
    if number % FAULTY == FAULTY - 1:
        del made["type"]
    return made
