"""What a backfill refuses, to whom it sends, and what of it is left."""

import pytest

from producers.backfill_plan import Choice, Span, check, parts, routes
from producers.venues.coinbase import CoinbaseExchange
from producers.venues.kraken import KrakenExchange
from pulsestream.commands.times import parse_time
from pulsestream.core.clock import format_rfc3339
from pulsestream.core.errors import UsageError
from schemas.records import Feed, Gap, Subscription

NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000
SPAN = Span("BTC-USD", NOW - 2 * HOUR, NOW - HOUR)


def subscription(tenant: str, product: str = "BTC-USD", exchange: str = "coinbase", *datasets: str) -> Subscription:
    wanted = list(datasets or ("ticks", "trades"))
    return Subscription(tenant=tenant, exchange=exchange, product=product, datasets=wanted, since=0, version=1)


def table(*subscriptions: Subscription) -> dict[str, Subscription]:
    return {f"{one.tenant}:{one.exchange}:{one.product}": one for one in subscriptions}


@pytest.mark.parametrize(
    ("span", "choice", "said"),
    [
        (Span("BTC-USD", NOW - HOUR, NOW - HOUR), Choice(), "is not before"),
        (Span("BTC-USD", NOW - HOUR, NOW + 1), Choice(), "is in the future"),
        (SPAN, Choice(trades=False), "nothing to send"),
        (SPAN, Choice(periods=("7m",)), "has no candles of '7m': choose from 1m"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused_with_the_reason(span: Span, choice: Choice, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check(CoinbaseExchange(), span, choice, NOW)


def test_candles_that_an_exchange_does_not_keep_are_refused_and_not_left_out_in_silence() -> None:
    kraken = KrakenExchange()
    there = Span("BTC-USD", NOW - 12 * HOUR, NOW - HOUR)
    gone = Span("BTC-USD", NOW - 13 * HOUR, NOW - HOUR)

    check(kraken, there, Choice(periods=("1m",)), NOW)
    check(kraken, gone, Choice(periods=("5m",)), NOW)
    with pytest.raises(UsageError, match="only the newest 720 candles of 1m, from 2023-11-14T10:13:20"):
        check(kraken, gone, Choice(periods=("1m",)), NOW)


def test_everybody_subscribed_gets_it() -> None:
    held = table(
        subscription("acme"), subscription("beta", "BTC-USD", "coinbase", "ticks"), subscription("cyan", "ETH-USD"),
        subscription("dune", "BTC-USD", "kraken"),
    )  # fmt: skip

    found = routes(held, "coinbase", SPAN, Choice(periods=("1m",)))

    assert found == {"trades": {"BTC-USD": ["acme"]}, "bars": {"BTC-USD": ["acme", "beta"]}}


def test_a_named_tenant_alone_gets_it() -> None:
    found = routes(table(subscription("acme"), subscription("beta")), "coinbase", Span(*_of(SPAN), "beta"), Choice())

    assert found == {"trades": {"BTC-USD": ["beta"]}}


@pytest.mark.parametrize(
    ("tenant", "said"), [(None, "nobody is subscribed"), ("acme", "tenant acme is not subscribed")]
)
def test_nobody_to_send_to_is_said(tenant: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        routes(table(subscription("beta", "ETH-USD")), "coinbase", Span(*_of(SPAN), tenant), Choice())


def test_subscriptions_without_trades_are_said() -> None:
    held = table(subscription("acme", "BTC-USD", "coinbase", "ticks"))

    with pytest.raises(UsageError, match="includes trades"):
        routes(held, "coinbase", SPAN, Choice())


def test_what_is_closed_is_left_out_and_what_is_open_is_continued() -> None:
    choice = Choice(periods=("1m", "1h"))
    base = f"backfill:coinbase:BTC-USD:{SPAN.start}:{SPAN.end}"
    feeds = {base: progress(closed=NOW), f"{base}:1m": progress(closed=None)}

    found = parts("coinbase", SPAN, choice, feeds)

    assert [(part.name, part.key, part.held) for part in found] == [
        ("candles 1m", f"{base}:1m", feeds[f"{base}:1m"]),
        ("candles 1h", f"{base}:1h", None),
    ]


def test_a_restart_and_another_tenant_begin_anew() -> None:
    base = f"backfill:coinbase:BTC-USD:{SPAN.start}:{SPAN.end}"
    feeds = {base: progress(closed=NOW)}

    assert parts("coinbase", SPAN, Choice(), feeds) == []
    assert [part.held for part in parts("coinbase", SPAN, Choice(restart=True), feeds)] == [None]
    assert [part.key for part in parts("coinbase", Span(*_of(SPAN), "acme"), Choice(), feeds)] == [f"{base}:acme"]


def test_times_are_read_with_a_zone_or_as_a_date() -> None:
    assert format_rfc3339(parse_time("--from", "2026-01-31")) == "2026-01-31T00:00:00.000000Z"
    assert format_rfc3339(parse_time("--to", "2026-01-31T12:00:00+01:00")) == "2026-01-31T11:00:00.000000Z"


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-01-31T12:00:00", "20260131"])
def test_another_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"--from .* is no time: write it as 2026"):
        parse_time("--from", text)


def progress(closed: int | None) -> Feed:
    gap = Gap(kind="backfill", from_id=5, to_id=9, opened=SPAN.start, closed=closed, cause="trades")
    return Feed(exchange="coinbase", product="BTC-USD", state="connected", at=0, gap=gap, version=1)


def _of(span: Span) -> tuple[str, int, int]:
    return span.product, span.start, span.end
