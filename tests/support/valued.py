"""Ticks and trades as exchanges send them, with faulty fields, and their bytes, damaged."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from schemas.columns import Ints, Octets
from schemas.records import Tick, Trade
from schemas.validate import MAX_AHEAD, MAX_PRICE, MAX_SIZE, MAX_TIME

NOW = 1_618_677_817_000_000

TICK = Tick(
    event_id="coinbase:BTC-USD:93393879800",
    exchange="coinbase",
    product="BTC-USD",
    sequence=93_393_879_800,
    trade_id=881_613,
    side="buy",
    price=60_000.5,
    size=0.1,
    best_bid=59_999.0,
    best_bid_size=1.0,
    best_ask=60_001.0,
    best_ask_size=2.0,
    open_24h=1.0,
    high_24h=2.0,
    low_24h=0.5,
    volume_24h=10.0,
    volume_30d=300.0,
    exchange_time=NOW,
    received_time=NOW + 72_584,
)
TRADE = Trade(
    event_id="coinbase:BTC-USD:t881613",
    exchange="coinbase",
    product="BTC-USD",
    trade_id=881_613,
    price=60_000.5,
    size=0.1,
    side="sell",
    exchange_time=NOW,
    received_time=NOW + 72_584,
    sequence=93_393_879_800,
)


NUMBERS = (
    st.sampled_from(
        [0.0, -0.0, 5e-324, -1.0, math.nan, math.inf, -math.inf, 1e308]
        + [math.nextafter(edge, to) for edge in (MAX_PRICE, MAX_SIZE) for to in (0, edge, math.inf)]
    )
    | st.floats()
)
TIMES = st.sampled_from(
    [0, 1, -1, MAX_TIME, MAX_TIME - 1, NOW, NOW + MAX_AHEAD, NOW + MAX_AHEAD + 1, 2**63]
) | st.integers(-(2**63), 2**63 - 1)
TEXTS = st.sampled_from(
    [
        "",
        "coinbase",
        "x-mine",
        "BTC-USD",
        "btc-usd",
        "BTC\n",
        "A" * 64,
        "A" * 65,
        "a" * 32,
        "a" * 33,
        "\ud800",
        "B" * 10_000,
    ]
) | st.text(max_size=5)
IDS = st.sampled_from(
    [
        "coinbase:BTC-USD:",
        "coinbase:BTC-USD:\0",
        "coinbase:BTC-USD:\u00a0",
        "coinbase:BTC-USD:\ud800",
        "coinbase:BTC-USDT:7",
    ]
    + ["coinbase:BTC-USD:" + "7" * length for length in (1, 239, 240, 10_000)]
) | st.text(max_size=5)
SIDES = st.sampled_from([None, "buy", "sell", "hold", "", "BUY"])


def field_values(name: str) -> st.SearchStrategy[Any]:
    """Draw a value for a field of a tick or trade, as likely as not a faulty one."""
    if name.endswith("_time"):
        return st.none() | TIMES if name == "quote_time" else TIMES
    texts = {"event_id": IDS, "exchange": TEXTS, "product": TEXTS, "side": SIDES}
    return texts.get(name, st.none() | NUMBERS if name not in {"price", "size"} else NUMBERS)


def changes(kind: type[Tick | Trade]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw values for up to three fields of a tick or trade."""
    names = [name for name in kind.__struct_fields__ if name not in {"sequence", "trade_id"}]
    return st.fixed_dictionaries({}, optional={name: field_values(name) for name in names}).map(
        lambda drawn: dict(list(drawn.items())[:3])
    )


def laid(values: Sequence[bytes | None]) -> tuple[Octets, Ints, Ints]:
    """Lay values one behind the other, a byte between; return where each begins and ends (null: before it begins)."""
    octets = Octets([part for value in values for part in (b"\xff", value or b"")])
    sizes = np.array([-1 if value is None else len(value) for value in values], np.int64)
    starts = np.cumsum(np.maximum(sizes, 0) + 1) - np.maximum(sizes, 0)
    return octets, starts, starts + sizes


@st.composite
def damaged(draw: st.DrawFn, value: bytes) -> bytes | None:
    """Draw a value with bytes changed, cut off or added; or none at all."""
    octets = bytearray(value)
    for _ in range(draw(st.integers(0, 3))):
        octets[draw(st.integers(0, len(octets) - 1))] = draw(
            st.integers(0, 255) | st.sampled_from([0, 1, 2, 0x7F, 0x80])
        )
    kept = octets[: draw(st.integers(0, len(octets)) | st.just(len(octets)))]
    return draw(st.just(bytes(kept)) | st.just(bytes(kept) + draw(st.binary(max_size=2))) | st.none())
