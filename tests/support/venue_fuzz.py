"""Hostile input for the exchanges' languages: real frames and pages, ways to break them, and a judge of the outcome.

A judge raises AssertionError when a session or a page parser does what it never may: raise, yield a record that no
validator or schema takes, say more than a log line holds, or grow with what it hears.
"""

import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from producers.frames import read_frames
from producers.venues.protocol import (
    Closing,
    Frame,
    Heartbeat,
    Ignored,
    Malformed,
    ProtocolError,
    Refused,
    Subscriptions,
    load,
)
from schemas.codec import codec
from schemas.records import Bar, Tick, Trade
from schemas.validate import check
from tests.support.venue_frames import PRODUCTS, SPEECHES, Candle, Print

NOW = 1_700_000_000_123_000
RECORDINGS = {"coinbase": "coinbase/2021-04-17.frames", "binance": "binance/2021-10-12-us.frames"}
RECORDED_PRODUCTS = {
    "coinbase": ("SKL-USD", "BAND-GBP"),
    "binance": ("OMG-BUSD", "COMP-USDT", "ZRX-USDT", "CRV-USDT"),
    "kraken": (),
}
MAX_GROWTH = 64 * 1024
"""Bytes that a session may gain by all that an exchange says about a handful of products."""
MAX_SAID = 1_200
_MAX_KIND = 240
_OUTCOMES = (Tick, Trade, Heartbeat, Subscriptions, Refused, Closing, Ignored, Malformed)
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_STRING = re.compile(rb'"[^"]*"')
_NUMBERS = (
    *(b"0", b"-0", b"-1", b"1e999", b"-1e999", b"1e-400", b"0.1", b"9007199254740993", b"9223372036854775807"),
    *(b"9223372036854775808", b"1" * 400, b"1e15", b"1.0000000001e15", b"1e18", b"NaN", b"Infinity", b"null", b"true"),
    *(b'""', b'"nan"', b'"inf"', b'"1e400"', b'"0x10"', b'" 1"', b"[]", b"{}", b"1700000000123", b"1700000000123456"),
)
_STRINGS = (
    *(b'""', b"null", b"7", b'"nan"', b'"-inf"', b'"ticker"', b'"trade"', b'"match"', b'"sell"', b'"hold"', b'"*"'),
    *(b'"\\u0000"', b'"\\ud800"', b'"a\\u007f"', b'"btc-usdt"', b'"' + b"A" * 65 + b'"', b'"BTC-USDT"', b'"BTC/USDT"'),
    *(b'"1970-01-01T00:00:00Z"', b'"0001-01-01T00:00:00+23:59"', b'"9999-12-31T23:59:59.999999Z"', b'"BTCUSDT"'),
    *(b'"2023-11-14T22:13:20"', b'"btcusdt@trade"', b'"btcusdt@bookTicker"', b'"btcusdt@ticker"', b"[[[[]]]]"),
)


def frames_of(venue: str, recordings: Path | None) -> list[bytes]:
    """Return what an exchange may send, whole: the documents' frames, and as many recorded ones where there are any."""
    speech = SPEECHES[venue]()
    messages = load(venue).session().subscribe(PRODUCTS)
    frames = [*speech.answers(messages), *(speech.refusal(messages[-1], product) for product in PRODUCTS)]
    frames += speech.others()
    for number, product in enumerate(PRODUCTS, start=1):
        frames += speech.ticker(product, number, "37212.01", NOW - number * 1_000)
        frames += [speech.trade(product, one) for one in _prints()]
    if recordings is not None and venue in RECORDINGS:
        recorded = [frame.text for frame in read_frames(recordings / RECORDINGS[venue])]
        frames = frames * (1 + len(recorded) // len(frames)) + recorded
    return [frame.encode() for frame in frames]


def pages_of(venue: str) -> list[bytes]:
    """Return what an exchange may answer over REST, whole."""
    speech = SPEECHES[venue]()
    start = NOW - NOW % 60_000_000
    candles = [Candle(start - at * 60_000_000, "10.5", "11", "9.25", "10", "1.5") for at in range(3)]
    pages = [speech.trades_page(PRODUCTS[0], _prints()), speech.candles_page(PRODUCTS[0], candles)]
    return [*pages, speech.error_page(), speech.trades_page(PRODUCTS[0], [])]


def _prints() -> list[Print]:
    return [Print(number, "37212.01", "0.00042", "buy", NOW - number * 1_000_000) for number in range(1, 4)]


def mutated(chance: random.Random, corpus: list[bytes]) -> bytes:
    """Return a whole frame broken in one to four ways, or one time in twenty bytes of no meaning at all."""
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(200))
    frame = chance.choice(corpus)
    for _ in range(chance.randrange(4)):
        frame = chance.choice(_MUTATIONS)(chance, frame, corpus)
    return frame


def _flip(chance: random.Random, frame: bytes, corpus: list[bytes]) -> bytes:  # noqa: ARG001 - one shape for all
    changed = bytearray(frame or b"{")
    for _ in range(chance.randrange(1, 4)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _cut(chance: random.Random, frame: bytes, corpus: list[bytes]) -> bytes:  # noqa: ARG001 - one shape for all
    return frame[: chance.randrange(len(frame) + 1)]


def _leave_out(chance: random.Random, frame: bytes, corpus: list[bytes]) -> bytes:  # noqa: ARG001 - one shape for all
    start = chance.randrange(len(frame) + 1)
    return frame[:start] + frame[start + chance.randrange(1, 40) :]


def _repeat(chance: random.Random, frame: bytes, corpus: list[bytes]) -> bytes:  # noqa: ARG001 - one shape for all
    start = chance.randrange(len(frame) + 1)
    piece = frame[start : start + chance.randrange(1, 40)]
    return frame[:start] + piece * chance.choice((2, 3, 200)) + frame[start + len(piece) :]


def _splice(chance: random.Random, frame: bytes, corpus: list[bytes]) -> bytes:
    other = chance.choice(corpus)
    return frame[: chance.randrange(len(frame) + 1)] + other[chance.randrange(len(other) + 1) :]


def _other_number(chance: random.Random, frame: bytes, corpus: list[bytes]) -> bytes:  # noqa: ARG001 - one shape
    return _replaced(chance, frame, _NUMBER, _NUMBERS)


def _other_string(chance: random.Random, frame: bytes, corpus: list[bytes]) -> bytes:  # noqa: ARG001 - one shape
    return _replaced(chance, frame, _STRING, _STRINGS)


def _other_name(chance: random.Random, frame: bytes, corpus: list[bytes]) -> bytes:  # noqa: ARG001 - one shape
    """Rename the products of a frame to one that nobody asked for."""
    name = f"X{chance.randrange(10**6)}".encode()
    return frame.replace(b"BTC", name).replace(b"btc", name.lower())


def _inflate(chance: random.Random, frame: bytes, corpus: list[bytes]) -> bytes:  # noqa: ARG001 - one shape for all
    return _replaced(chance, frame, _STRING, (b'"' + b"A" * 20_000 + b'"',))


def _replaced(chance: random.Random, frame: bytes, token: re.Pattern[bytes], others: tuple[bytes, ...]) -> bytes:
    found = list(token.finditer(frame))
    if not found:
        return frame
    match = chance.choice(found)
    return frame[: match.start()] + chance.choice(others) + frame[match.end() :]


_MUTATIONS: tuple[Callable[[random.Random, bytes, list[bytes]], bytes], ...] = (
    *(_flip, _cut, _leave_out, _repeat, _splice, _other_name, _inflate),
    *(_other_number, _other_number, _other_number, _other_string, _other_string, _other_string),
)


class SessionJudge:
    """One connection that hears anything: what comes of it is counted in `counts`."""

    def __init__(self, venue: str, counts: Counter[str]) -> None:
        self._speech = SPEECHES[venue]()
        self._session = load(venue).session()
        self._counts = counts
        self._products = (*PRODUCTS, *RECORDED_PRODUCTS[venue])
        for frame in self._speech.answers(self._session.subscribe(self._products)):
            self.hear(frame.encode())
        self._size = size_of(self._session)

    def hear(self, frame: Frame) -> None:
        """Judge what a session makes of a frame."""
        at = NOW
        for outcome in self._session.receive(frame, at):
            self._counts[type(outcome).__name__] += 1
            _judge_outcome(outcome)

    def talk(self, chance: random.Random) -> None:
        """End and ask for products anew, as tenants do, and hear some of the answers."""
        products = chance.sample(self._products, chance.randrange(1, len(self._products) + 1))
        messages = [*self._session.unsubscribe(products), *self._session.subscribe(products)]
        for frame in self._speech.answers(messages):
            if chance.random() < 0.8:
                self.hear(frame.encode())

    def judge_growth(self) -> None:
        """Judge what is kept: it may depend on what was asked for, never on what was heard."""
        size = size_of(self._session)
        assert size <= self._size + MAX_GROWTH, f"a session grew from {self._size} to {size} bytes"


def _judge_outcome(outcome: object) -> None:
    assert isinstance(outcome, _OUTCOMES), f"{outcome!r} is no outcome"
    if isinstance(outcome, Tick | Trade):
        fault = check(outcome, "ticks")
        assert fault is None, f"{outcome}: {fault}"
        kind = type(outcome)
        assert codec(kind).decode(codec(kind).encode(outcome)) == outcome
    elif isinstance(outcome, Malformed | Refused | Closing):
        assert 0 <= len(outcome.reason) <= MAX_SAID
        assert outcome.reason.isprintable() or outcome.reason.encode()
    elif isinstance(outcome, Ignored):
        assert len(outcome.kind) <= _MAX_KIND
        outcome.kind.encode()


def judge_page(venue: str, body: bytes, counts: Counter[str]) -> None:
    """Judge what the parsers of both kinds of pages make of a body."""
    rest = load(venue).rest
    for kind, parsed in (
        (Trade, lambda: rest.parse_trades(PRODUCTS[0], body, NOW)),
        (Bar, lambda: rest.parse_candles(PRODUCTS[0], "1m", body)),
    ):
        refusal = ""
        records: list[Any] = []
        try:
            records = parsed()
        except ProtocolError as error:
            refusal = str(error)
            counts["ProtocolError"] += 1
        assert len(refusal.encode()) <= MAX_SAID
        counts[f"{kind.__name__} of a page"] += len(records)
        _judge_page(records)


def _judge_page(records: list[Any]) -> None:
    order = [one.trade_id if isinstance(one, Trade) else one.start for one in records]
    assert order == sorted(order)
    for record in records:
        whole = msgspec.structs.replace(record, received_time=record.start) if isinstance(record, Bar) else record
        fault = check(whole, "bars" if isinstance(record, Bar) else "trades")
        assert fault is None, f"{record}: {fault}"
        assert codec(type(whole)).decode(codec(type(whole)).encode(whole)) == whole


def size_of(thing: object) -> int:
    """Return the bytes of an object and of all that it alone can reach."""
    seen: set[int] = set()
    waiting = [thing]
    total = 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | Callable):  # type: ignore[arg-type]  # abc's own Callable
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        waiting.extend(_parts(one))
    return total


def _parts(one: object) -> Iterator[object]:
    if isinstance(one, dict):
        yield from one.keys()
        yield from one.values()
    elif isinstance(one, list | tuple | set | frozenset):
        yield from one
    else:
        names: Iterable[str] = getattr(one, "__struct_fields__", None) or getattr(type(one), "__slots__", ())
        yield from (getattr(one, name) for name in names if hasattr(one, name))
        yield from vars(one).values() if hasattr(one, "__dict__") else ()
