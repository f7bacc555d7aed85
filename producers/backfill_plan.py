"""What a backfill has to send, to whom, and what of it is done already. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from producers.venues.protocol import Exchange
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339
from pulsestream.core.errors import UsageError
from schemas.records import Feed, Subscription

TRADES: Final = "trades"
RATE: Final = 2.0
"""Requests a second beside those of the feed."""


@dataclass(frozen=True, slots=True)
class Span:
    """What to backfill: a product from `start` to before `end` (micros), to one tenant or (None) all subscribed."""

    product: str
    start: int
    end: int
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which parts: trades, candles of these periods. `restart`: from the beginning.

    `rate`: requests a second; None: `RATE`, or as many as the exchange allows at all.
    """

    trades: bool = True
    periods: tuple[str, ...] = ()
    restart: bool = False
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part's name, key on the feeds topic, and the record that it holds there, if any."""

    name: str
    key: str
    held: Feed | None


def check(exchange: Exchange, span: Span, choice: Choice, now: int) -> None:
    """Raise UsageError, with what to do, for a wish that cannot be granted."""
    if span.start >= span.end:
        raise UsageError(
            f"--from {format_rfc3339(span.start)} is not before --to {format_rfc3339(span.end)}: nothing lies between"
        )
    if span.end > now:
        raise UsageError(f"--to {format_rfc3339(span.end)} is in the future: it is {format_rfc3339(now)} now")
    if not choice.trades and not choice.periods:
        raise UsageError("nothing to send: leave --no-trades away, or name a period with --candles")
    for period in choice.periods:
        if period not in exchange.rest.periods:
            known = ", ".join(exchange.rest.periods)
            raise UsageError(f"{exchange.name} has no candles of {period!r}: choose from {known}")
        _check_reach(exchange, span, period, now)


def _check_reach(exchange: Exchange, span: Span, period: str, now: int) -> None:
    """Refuse candles that the exchange does not have any more: its answer would be empty, not an error."""
    kept = exchange.rest.candles_kept
    if kept is None:
        return
    oldest = now - kept * exchange.rest.periods[period] * MICROS_PER_SECOND
    if span.start < oldest:
        raise UsageError(
            f"{exchange.name} has only the newest {kept} candles of {period}, from {format_rfc3339(oldest)} on: begin "
            "there, or leave these candles away"
        )


def parts(exchange: str, span: Span, choice: Choice, feeds: Mapping[str, Feed]) -> list[Part]:
    """Return what is still to be sent, each part with what is known of its progress."""
    names = ([TRADES] if choice.trades else []) + [f"candles {period}" for period in choice.periods]
    base = f"backfill:{exchange}:{span.product}:{span.start}:{span.end}"
    unfinished = []
    for name in names:
        key = base + ("" if name == TRADES else f":{name.removeprefix('candles ')}")
        key += f":{span.tenant}" if span.tenant else ""
        held = None if choice.restart else feeds.get(key)
        if held is None or held.gap is None or held.gap.closed is None:
            unfinished.append(Part(name, key, held))
    return unfinished


def routes(
    subscriptions: Mapping[str, Subscription], exchange: str, span: Span, choice: Choice
) -> dict[str, dict[str, Collection[str]]]:
    """Return who gets what: dataset -> product -> tenants; raises UsageError when somebody would get nothing."""
    subscribed = [
        one for one in subscriptions.values()
        if one.exchange == exchange and one.product == span.product and span.tenant in {None, one.tenant}
    ]  # fmt: skip
    wanted = f"{exchange}:{span.product}"
    if not subscribed:
        who = f"tenant {span.tenant} is not" if span.tenant else "nobody is"
        raise UsageError(f"{who} subscribed to {wanted}: see `pulsestream tenant subscribe --help`")
    trades = sorted(one.tenant for one in subscribed if TRADES in one.datasets)
    if choice.trades and not trades:
        raise UsageError(f"no subscription to {wanted} includes trades: change it, or use --no-trades with --candles")
    found: dict[str, dict[str, Collection[str]]] = {}
    if choice.trades:
        found["trades"] = {span.product: trades}
    if choice.periods:
        found["bars"] = {span.product: sorted(one.tenant for one in subscribed)}
    return found
