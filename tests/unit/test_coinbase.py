"""The Coinbase protocol core: what each frame means, and that nothing at all makes it raise.

The recording holds no heartbeat, error or price-0 frame: those are written after the exchange's own documents
("WebSocket Channels", "WebSocket Overview").
"""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.coinbase import CoinbaseProtocol
from producers.protocol import ExchangeError, Heartbeat, Ignored, Malformed, Outcome, Subscriptions, TickFrame
from pulsestream.core.clock import parse_rfc3339
from schemas.codec import codec
from schemas.records import Tick
from schemas.validate import check

NOW = 1_618_677_818_000_000
TICKER: dict[str, Any] = {
    "type": "ticker",
    "sequence": 333938798,
    "product_id": "BAND-GBP",
    "price": "14.7775",
    "open_24h": "14.6647",
    "volume_24h": "94381.28000000",
    "low_24h": "14.3691",
    "high_24h": "16.55",
    "volume_30d": "2295579.57000000",
    "best_bid": "14.7550",
    "best_bid_size": "12.5",
    "best_ask": "14.8060",
    "best_ask_size": "0.40",
    "side": "buy",
    "time": "2021-04-17T16:43:30.244075Z",
    "trade_id": 881613,
    "last_size": "0.04",
}
PRICES = ("price", "open_24h", "low_24h", "high_24h", "best_bid", "best_ask")


def receive(frame: dict[str, Any] | bytes | str, exchange: str = "coinbase") -> Outcome:
    return CoinbaseProtocol(exchange).receive(json.dumps(frame) if isinstance(frame, dict) else frame, NOW)


def tick(**changes: object) -> Tick:
    outcome = receive(TICKER | changes)
    assert isinstance(outcome, TickFrame), outcome
    return outcome.tick


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> list[tuple[int, str]]:
    lines = (shared_data / "coinbase" / "2021-04-17.frames").read_text("utf-8").splitlines()
    return [(int(Decimal(stamp) * 1_000_000), text) for stamp, _, text in (line.partition(" ") for line in lines)]


def test_a_ticker_becomes_a_tick_with_every_field() -> None:
    assert tick() == Tick(
        event_id="coinbase:BAND-GBP:333938798",
        exchange="coinbase",
        product="BAND-GBP",
        sequence=333938798,
        trade_id=881613,
        side="buy",
        price=14.7775,
        size=0.04,
        best_bid=14.755,
        best_bid_size=12.5,
        best_ask=14.806,
        best_ask_size=0.4,
        open_24h=14.6647,
        high_24h=16.55,
        low_24h=14.3691,
        volume_24h=94381.28,
        volume_30d=2295579.57,
        exchange_time=parse_rfc3339("2021-04-17T16:43:30.244075Z"),
        received_time=NOW,
    )


def test_the_simulators_ticks_carry_its_own_name() -> None:
    outcome = receive(TICKER, exchange="simulator")

    assert isinstance(outcome, TickFrame)
    assert (outcome.tick.exchange, outcome.tick.event_id) == ("simulator", "simulator:BAND-GBP:333938798")


def test_every_recorded_frame_is_understood(recorded: list[tuple[int, str]]) -> None:
    protocol = CoinbaseProtocol()

    kinds = Counter(type(protocol.receive(text, at)).__name__ for at, text in recorded)

    assert kinds == {"TickFrame": 45, "Subscriptions": 3, "Ignored": 35 + 10 + 60}


def test_recorded_prices_survive_as_doubles_to_the_last_digit(recorded: list[tuple[int, str]]) -> None:
    protocol = CoinbaseProtocol()
    seen = 0
    for at, text in recorded:
        outcome = protocol.receive(text, at)
        if isinstance(outcome, TickFrame):
            frame = json.loads(text)
            decoded = codec(Tick).decode(codec(Tick).encode(outcome.tick))
            for name in PRICES:
                shortest = repr(getattr(decoded, name))
                assert Decimal(shortest) == Decimal(frame[name]), (name, frame[name], shortest)
                seen += 1

    assert seen == 45 * len(PRICES)


def test_a_recorded_ticker_has_the_takers_side(recorded: list[tuple[int, str]]) -> None:
    frames = [json.loads(text) for _, text in recorded]
    makers = {(f["product_id"], f["trade_id"]): f["side"] for f in frames if f["type"] in ("match", "last_match")}
    protocol = CoinbaseProtocol()
    ticks = [outcome.tick for at, text in recorded if isinstance(outcome := protocol.receive(text, at), TickFrame)]

    joined = [(tick.side, makers[key]) for tick in ticks if (key := (tick.product, tick.trade_id)) in makers]

    assert joined
    assert all({taker, maker} == {"buy", "sell"} for taker, maker in joined)


def test_an_old_ticker_without_quote_sizes_has_none() -> None:
    frame = {name: value for name, value in TICKER.items() if not name.endswith("_size") or name == "last_size"}

    outcome = receive(frame)

    assert isinstance(outcome, TickFrame)
    assert (outcome.tick.best_bid, outcome.tick.best_bid_size, outcome.tick.best_ask_size) == (14.755, None, None)


def test_an_illiquid_product_is_no_tick_but_a_sign_of_life() -> None:
    frame = {"type": "ticker", "sequence": 7, "product_id": "NEW-USD", "price": "0", "open_24h": "0", "best_bid": "0"}

    assert receive(frame) == Ignored("ticker without a trade", alive=True)


def test_a_quote_or_day_price_of_zero_is_unknown() -> None:
    made = tick(best_bid="0", best_bid_size="0", best_ask="", best_ask_size="3", open_24h="0", low_24h="0.0")

    assert (made.best_bid, made.best_bid_size, made.best_ask, made.best_ask_size) == (None, None, None, None)
    assert (made.open_24h, made.low_24h) == (None, None)


@pytest.mark.parametrize(
    "price", ["NaN", "inf", "Infinity", "-1.5", "0", "1e999", "1_000", " 1", "1 ", "0x1", "", "٣", "1.", "9e15"]
)
def test_a_price_that_is_no_positive_number_is_refused(price: str) -> None:
    assert isinstance(receive(TICKER | {"price": price}), Malformed)


@pytest.mark.parametrize(
    "change",
    [
        {"last_size": "-1"},
        {"volume_24h": "nan"},
        {"side": "hold"},
        {"sequence": -1},
        {"sequence": 2**63},
        {"sequence": "333938798"},
        {"sequence": None},
        {"trade_id": 2**63},
        {"price": 14.7775},
        {"product_id": "band gbp"},
        {"product_id": "\ud800"},
        {"product_id": "A" * 65},
        {"time": None},
        {"time": "yesterday"},
        {"time": "2021-04-17T16:43:30.244075"},
        {"time": "0001-01-01T00:00:00+23:59"},
        {"time": "2021-04-17T16:43:50Z"},
        {"time": "1969-12-31T23:59:59Z"},
    ],
)
def test_a_ticker_that_no_validator_takes_is_malformed(change: dict[str, object]) -> None:
    outcome = receive(TICKER | change)

    assert isinstance(outcome, Malformed), outcome


def test_a_heartbeat_says_which_trade_was_last() -> None:
    frame = {
        "type": "heartbeat",
        "sequence": 90,
        "last_trade_id": 20,
        "product_id": "BTC-USD",
        "time": "2014-11-07T08:19:28.464459Z",
    }

    assert receive(frame) == Heartbeat("BTC-USD", 90, 20, parse_rfc3339("2014-11-07T08:19:28.464459Z"))


def test_only_the_ticker_channel_confirms_a_product() -> None:
    channels = [
        {"name": "heartbeat", "product_ids": ["BTC-USD", "ETH-USD"]},
        {"name": "ticker", "product_ids": ["BTC-USD"]},
    ]

    assert receive({"type": "subscriptions", "channels": channels}) == Subscriptions(frozenset({"BTC-USD"}))


def test_an_empty_list_of_channels_confirms_nothing() -> None:
    assert receive({"type": "subscriptions", "channels": []}) == Subscriptions(frozenset())


def test_an_error_frame_keeps_the_exchanges_words() -> None:
    frame = {"type": "error", "message": "Failed to subscribe", "reason": "XYZ-USD is not a valid product"}

    assert receive(frame) == ExchangeError("Failed to subscribe", "XYZ-USD is not a valid product")


def test_only_an_error_about_credentials_is_fatal() -> None:
    protocol = CoinbaseProtocol()

    assert protocol.is_fatal(ExchangeError("Failed to subscribe", "full channels now require authentication."))
    assert not protocol.is_fatal(ExchangeError("Failed to subscribe", "XYZ-USD is not a valid product"))


@pytest.mark.parametrize("kind", ["match", "l2update", "status", "something new"])
def test_a_frame_of_another_kind_is_ignored(kind: str) -> None:
    assert receive({"type": kind, "changes": [1, {}], "price": 3}) == Ignored(kind)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"type":7}',
        b"{" * 100_000,
        b"[" * 100_000,
        "\ud800",
        '{"type":"ticker"}',
    ],
)
def test_what_is_no_frame_is_malformed(frame: bytes | str) -> None:
    outcome = receive(frame)

    assert isinstance(outcome, Malformed)
    assert len(outcome.reason) <= 200 * 6


def test_the_subscribe_message_names_products_and_both_channels() -> None:
    message = json.loads(CoinbaseProtocol().subscribe({"ETH-USD", "BTC-USD"}))

    assert message == {
        "type": "subscribe",
        "product_ids": ["BTC-USD", "ETH-USD"],
        "channels": ["ticker", "heartbeat"],
    }


def test_the_unsubscribe_message_is_its_mirror() -> None:
    assert json.loads(CoinbaseProtocol().unsubscribe(["BTC-USD"]))["type"] == "unsubscribe"


def _is_sound(outcome: Outcome) -> bool:
    return not isinstance(outcome, TickFrame) or check(outcome.tick, "ticks") is None


@given(st.binary(max_size=400) | st.text(max_size=200))
def test_arbitrary_frames_never_raise(frame: bytes | str) -> None:
    assert _is_sound(receive(frame))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_NUMBERLIKE = st.from_regex(r"[-+]?[0-9]{0,20}\.?[0-9]{0,20}([eE][-+]?[0-9]{0,4})?", fullmatch=True)
_KINDS = st.sampled_from(["ticker", "heartbeat", "subscriptions", "error", "match"])


@given(
    st.dictionaries(st.sampled_from(sorted(TICKER)), _NUMBERLIKE | _JSON, max_size=4),
    _KINDS,
    st.sets(st.sampled_from(sorted(set(TICKER) - {"type"})), max_size=3),
)
def test_frames_with_changed_fields_never_yield_an_unsound_tick(
    changes: dict[str, object], kind: str, removed: set[str]
) -> None:
    frame = {name: value for name, value in (TICKER | changes | {"type": kind}).items() if name not in removed}

    assert _is_sound(receive(json.dumps(frame)))


@given(st.data())
def test_frames_with_changed_bytes_never_yield_an_unsound_tick(data: st.DataObject) -> None:
    frame = bytearray(json.dumps(TICKER).encode())
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))

    assert _is_sound(receive(bytes(frame[: data.draw(st.integers(1, len(frame)))])))
