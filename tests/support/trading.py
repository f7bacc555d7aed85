"""Trades for tests."""

from schemas.records import Trade, trade_event_id


def make_trade(
    product: str, trade_id: int, received_time: int, exchange: str = "x", exchange_time: int | None = None
) -> Trade:
    """A trade; its event time is the id in milliseconds if none is given."""
    return Trade(
        event_id=trade_event_id(exchange, product, trade_id),
        exchange=exchange,
        product=product,
        trade_id=trade_id,
        price=100.5,
        size=0.25,
        side="buy",
        exchange_time=trade_id * 1_000 if exchange_time is None else exchange_time,
        received_time=received_time,
    )
