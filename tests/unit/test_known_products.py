"""Lists of products: as exchanges give them, as producers tell them, and what is said of one that is not there."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError

from api.subscriptions.known import explained, near
from producers.errors import RestAwayError
from producers.exchange.board import Board
from producers.exchange.dialects import speak
from producers.exchange.dialects.base import Query
from producers.product_list import EVERY, RETRY, ProductLists
from producers.venues.protocol import ProtocolError, load
from pulsestream.core.topics import PRODUCTS
from schemas.codec import codec
from schemas.records import ProductList

LISTED = ["BTC-USD", "DOGE-USD", "ETH-BTC", "SOL-EUR"]
COINBASE = ["BTC-EUR", "BTC-USD", "BTC-USDT", "DOT-USD", "ETH-BTC", "ETH-USD"]


@pytest.mark.parametrize("venue", ["coinbase", "binance", "kraken"])
def test_an_exchanges_list_is_read_as_it_is_written(venue: str) -> None:
    rest = load(venue).rest
    asked = rest.products()

    answer = speak(venue).answer(Query(asked.path, asked.query), Board(LISTED, lambda: 0))

    assert rest.parse_products(answer.body) == LISTED


@pytest.mark.parametrize(
    ("venue", "body"),
    [
        ("coinbase", [{"id": "BTC-USD", "status": "online"}, {"id": "OLD-USD", "status": "delisted"}, {"id": "n o"}]),
        (
            "binance",
            {"symbols": [{"baseAsset": "BTC", "quoteAsset": "USD"}, {"baseAsset": "\u5e01", "quoteAsset": "USD"}]},
        ),
        ("kraken", {"error": [], "result": {"XXBTZUSD": {"wsname": "XBT/USD"}, "XBTUSD.d": {"altname": "XBTUSD.d"}}}),
    ],
)
def test_what_cannot_be_subscribed_to_is_left_out(venue: str, body: object) -> None:
    assert load(venue).rest.parse_products(json.dumps(body).encode()) == ["BTC-USD"]


@pytest.mark.parametrize("venue", ["coinbase", "binance", "kraken"])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"symbols": []}', b'{"error": ["EGeneral:x"]}', b"[[[["])
def test_an_answer_that_holds_no_product_is_a_fault(venue: str, body: bytes) -> None:
    with pytest.raises(ProtocolError):
        load(venue).rest.parse_products(body)


class Asked:
    """An exchange's REST API, and the topic, as this test wants them; time passes with each look."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str, ProductList]] = []
        self.at: list[float] = []
        self.now = 0.0
        self.may_tell = True
        self.fate: KafkaError | None = None

    async def get(self, _: object) -> bytes:
        self.at.append(self.now)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def send(self, topic: str, key: str, value: bytes | None, done: Callable[[KafkaError | None], None]) -> bool:
        self.sent.append((topic, key, codec(ProductList).decode(value or b"")))
        done(self.fate)
        return True

    def poll(self) -> None:
        raise AssertionError("nobody polls here")

    def run(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let so many seconds pass."""
        client: Any = self
        lists = ProductLists(
            "simulator",
            load("coinbase").rest,
            client,
            self,
            may_tell=lambda: self.may_tell,
            clock=lambda: int(self.now * 1_000_000),
            monotonic=lambda: self.now,
        )

        async def pass_by(pause: float) -> None:
            self.now += pause
            if self.now >= seconds:
                raise asyncio.CancelledError

        monkeypatch.setattr("producers.product_list.asyncio.sleep", pass_by)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(lists.run())


ANSWER = json.dumps([{"id": name} for name in LISTED]).encode()


def test_the_list_is_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Asked(ANSWER)

    exchange.run(2 * EVERY + 1, monkeypatch)

    assert exchange.at == [0.0, EVERY, 2 * EVERY]
    micros = int(EVERY * 1_000_000)
    assert exchange.sent[1] == (
        PRODUCTS, "simulator", ProductList(exchange="simulator", products=LISTED, at=micros, version=micros)
    )  # fmt: skip


@pytest.mark.parametrize("answer", [RestAwayError("away", retry_in=1), b"<html>"])
def test_a_list_that_is_not_had_is_asked_for_again_soon(
    answer: bytes | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Asked(answer, ANSWER)

    exchange.run(RETRY + EVERY, monkeypatch)

    assert (exchange.at, len(exchange.sent)) == ([0.0, RETRY], 1)


def test_a_list_that_the_broker_does_not_take_is_told_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Asked(ANSWER)
    exchange.fate = KafkaError(KafkaError._MSG_TIMED_OUT)

    exchange.run(2 * RETRY + 1, monkeypatch)

    assert exchange.at == [0.0, RETRY, 2 * RETRY]


def test_who_does_not_feed_the_first_shard_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Asked(ANSWER)
    exchange.may_tell = False

    exchange.run(EVERY, monkeypatch)

    assert exchange.at == []


@pytest.mark.parametrize(
    ("product", "found"),
    [
        ("BTC-UDS", ["BTC-USD", "BTC-USDT", "BTC-EUR"]),
        ("BTCUSD", ["BTC-USD", "BTC-USDT"]),
        ("XBT-USD", ["BTC-USD"]),
        ("DOTS-USD", ["DOT-USD"]),
        ("QQQ-QQQQQQQ", []),
    ],
)
def test_the_products_that_are_most_like_one_are_named_first(product: str, found: list[str]) -> None:
    assert near(product, COINBASE)[: len(found)] == found


def test_the_message_says_what_is_meant_perhaps() -> None:
    assert explained("coinbase", "BTC-UDS", ["BTC-USD"]) == "coinbase has no product 'BTC-UDS': did you mean BTC-USD?"
    assert explained("coinbase", "QQQQ-QQQQ", ["BTC-USD"]) == "coinbase has no product 'QQQQ-QQQQ'"
