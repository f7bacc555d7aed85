import json
from itertools import product as pairs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.exchange.board import Board
from producers.exchange.dialects.coinbase import MAX_ERRORS, Coinbase, Session
from producers.exchange.market import FeedFrame

NOW = 1_600_000_000_000_000
PRODUCTS = ("BTC-USD", "ETH-USD", "ETH-EUR", "SOL-USD")
CHANNELS = ("ticker", "matches", "heartbeat", "level2")
Answer = dict[str, object]


def session() -> Session:
    return Session(Board(PRODUCTS, lambda: NOW))


def answered(to: Session, message: str | bytes, now: int = NOW) -> list[Answer]:
    return [json.loads(answer.text) for answer in to.receive(message, now).frames]


def send(to: Session, message: object) -> list[Answer]:
    return answered(to, json.dumps(message))


def subscribe(to: Session, *channels: object, products: object = ()) -> list[Answer]:
    return send(to, {"type": "subscribe", "product_ids": products, "channels": channels})


def refused(reason: str) -> Answer:
    return {"type": "error", "message": "Failed to subscribe", "reason": reason}


def confirmed(**channels: list[str]) -> Answer:
    return {
        "type": "subscriptions",
        "channels": [{"name": name, "product_ids": products} for name, products in channels.items()],
    }


def frame(channel: str, product: str | None) -> FeedFrame:
    return FeedFrame(channel, product, "{}")


def test_channels_by_name_take_the_messages_products_and_channels_with_products_both() -> None:
    answers = subscribe(
        session(),
        "level2",
        "heartbeat",
        {"name": "ticker", "product_ids": ["SOL-USD", "ETH-USD"]},
        products=["ETH-USD"],
    )

    assert answers == [confirmed(level2=["ETH-USD"], heartbeat=["ETH-USD"], ticker=["ETH-USD", "SOL-USD"])]


def test_each_confirmation_lists_all_subscriptions() -> None:
    client = session()
    subscribe(client, "ticker", products=["BTC-USD"])

    assert subscribe(client, "ticker", "matches", products=["ETH-USD", "BTC-USD"]) == [
        confirmed(ticker=["BTC-USD", "ETH-USD"], matches=["ETH-USD", "BTC-USD"])
    ]


def test_unsubscribing_takes_single_products_or_whole_channels_and_is_confirmed() -> None:
    client = session()
    subscribe(client, "ticker", "heartbeat", products=["BTC-USD", "ETH-USD"])

    assert send(client, {"type": "unsubscribe", "product_ids": ["BTC-USD", "NO-NO"], "channels": ["ticker"]}) == [
        confirmed(ticker=["ETH-USD"], heartbeat=["BTC-USD", "ETH-USD"])
    ]
    assert send(client, {"type": "unsubscribe", "channels": ["heartbeat", "matches"]}) == [
        confirmed(ticker=["ETH-USD"])
    ]
    assert send(client, {"type": "unsubscribe", "product_ids": ["ETH-USD"], "channels": ["ticker"]}) == [confirmed()]
    assert client.subscribed


def test_unknown_products_are_refused_one_by_one_and_the_others_are_subscribed() -> None:
    assert subscribe(session(), "ticker", products=["NO-NO", "BTC-USD", "x"]) == [
        refused("NO-NO is not a valid product"),
        refused("x is not a valid product"),
        confirmed(ticker=["BTC-USD"]),
    ]


def test_a_message_with_unknown_products_only_subscribes_to_nothing() -> None:
    client = session()

    assert subscribe(client, "ticker", products=["NO-NO"]) == [refused("NO-NO is not a valid product")]
    assert not client.subscribed


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ([], "Type has to be either subscribe or unsubscribe"),
        ({"action": "subscribe"}, "Type has to be either subscribe or unsubscribe"),
        ({"type": ["subscribe"], "channels": ["ticker"]}, "Type has to be either subscribe or unsubscribe"),
        ({"type": "subscribe", "product_ids": ["BTC-USD"]}, "No channels provided"),
        ({"type": "subscribe", "channels": []}, "No channels provided"),
        ({"type": "unsubscribe", "channels": "ticker"}, "No channels provided"),
        ({"type": "subscribe", "channels": ["ticker"]}, " is not a valid product"),
        ({"type": "subscribe", "channels": [{"name": "ticker", "product_ids": []}]}, " is not a valid product"),
        ({"type": "subscribe", "product_ids": "BTC-USD", "channels": ["ticker"]}, "Invalid product ID provided"),
        ({"type": "subscribe", "product_ids": [7], "channels": ["ticker"]}, "Invalid product ID provided"),
        ({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["tickets"]}, "tickets is not a valid channel"),
        ({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": [7]}, " is not a valid channel"),
        (
            {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["full"]},
            "level2, level3, and full channels now require authentication.",
        ),
    ],
)
def test_wrong_messages_are_refused_with_the_exchanges_reason(message: object, reason: str) -> None:
    client = session()

    assert send(client, message) == [refused(reason)]
    assert not client.subscribed


@pytest.mark.parametrize("message", ["", "{", b"\xff", '{"type":"subscribe"', "[" * 100_000, '"\\ud800"'])
def test_malformed_json_is_answered_by_an_error_frame(message: str | bytes) -> None:
    assert [answer["type"] for answer in answered(session(), message)] == ["error"]


def test_error_frames_for_one_message_are_bounded() -> None:
    answers = subscribe(session(), "ticker", "matches", products=[f"P{number}-USD" for number in range(MAX_ERRORS)])

    assert len(answers) == MAX_ERRORS


def test_nobody_gets_frames_before_subscribing() -> None:
    unsubscribed = Session(Board(PRODUCTS, lambda: NOW), unfiltered=True)

    assert not unsubscribed.wants(frame("ticker", "BTC-USD"))


def test_an_unfiltered_session_gets_every_frame() -> None:
    client = Session(Board(PRODUCTS, lambda: NOW), unfiltered=True)
    subscribe(client, "ticker", products=["BTC-USD"])

    assert client.wants(frame("full", "ETH-USD"))


def test_batched_level2_subscribers_get_book_frames() -> None:
    client = session()
    subscribe(client, "level2_batch", products=["BTC-USD"])

    assert client.wants(frame("level2", "BTC-USD"))
    assert not client.wants(frame("level2", "ETH-USD"))


def test_status_needs_no_products() -> None:
    client = session()

    confirmation, status = subscribe(client, "status")
    assert confirmation == confirmed(status=[])
    assert [product["id"] for product in status["products"]] == list(PRODUCTS)  # type: ignore[index, attr-defined] # JSON
    assert client.wants(frame("status", None))
    assert not client.wants(frame("ticker", "BTC-USD"))


@pytest.mark.parametrize(
    ("kind", "channel"),
    [("ticker", "ticker"), ("match", "matches"), ("last_match", "matches"), ("l2update", "level2"), ("open", "open")],
)
def test_frames_belong_to_the_channel_of_their_type(kind: str, channel: str) -> None:
    text = json.dumps({"type": kind, "product_id": "BTC-USD", "sequence": 7, "trade_id": 8})

    recorded = Coinbase().read(text)
    assert recorded is not None
    assert recorded.frame == FeedFrame(channel, "BTC-USD", text, 7, 8, (8,) if channel == "matches" else ())


requests = st.tuples(
    st.sampled_from(["subscribe", "unsubscribe"]),
    st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=3),
    st.lists(st.sampled_from([*PRODUCTS, "NO-NO"]), min_size=1, max_size=4),
)


@given(st.lists(requests, max_size=8))
def test_a_session_gets_exactly_the_pairs_that_it_is_subscribed_to(
    messages: list[tuple[str, list[str], list[str]]],
) -> None:
    client = session()
    subscribed: set[tuple[str, str]] = set()
    for kind, channels, products in messages:
        send(client, {"type": kind, "channels": channels, "product_ids": products})
        named = {(channel, product) for channel, product in pairs(channels, products) if product in PRODUCTS}
        subscribed = subscribed | named if kind == "subscribe" else subscribed - named

    wanted = {(channel, name) for channel, name in pairs(CHANNELS, PRODUCTS) if client.wants(frame(channel, name))}
    beats = [beat.product for beat in client.beat(NOW)]
    beating = {("heartbeat", name) for name in PRODUCTS if name in beats}
    assert wanted | beating == subscribed
    assert not wanted & beating


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([*PRODUCTS, *CHANNELS]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "channels", "product_ids", "name"]) | st.text(), inner, max_size=4)
        | st.fixed_dictionaries({"type": st.sampled_from(["subscribe", "unsubscribe"]), "channels": inner})
    ),
    max_leaves=20,
)


@given(st.text() | st.binary() | JSON.map(json.dumps) | st.text(st.characters(categories=["Cs"])))
def test_whatever_a_client_sends_is_answered_by_frames_and_never_raises(message: str | bytes) -> None:
    answers = answered(session(), message)

    assert answers
    assert {answer["type"] for answer in answers} <= {"error", "subscriptions"}
