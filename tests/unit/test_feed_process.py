"""Which tenants want which products."""

from producers.feed_process import wanted_products
from schemas.records import Subscription


def subscription(
    tenant: str, product: str, exchange: str = "coinbase", datasets: tuple[str, ...] = ("ticks",)
) -> Subscription:
    return Subscription(tenant=tenant, exchange=exchange, product=product, datasets=list(datasets), since=1, version=1)


def test_tenants_are_gathered_by_product() -> None:
    made = [subscription("acme", "BTC-USD"), subscription("zeta", "BTC-USD"), subscription("acme", "ETH-USD")]

    wanted = wanted_products({str(number): each for number, each in enumerate(made)}, "coinbase")

    assert wanted == {"BTC-USD": ["acme", "zeta"], "ETH-USD": ["acme"]}


def test_another_exchange_and_another_dataset_are_left_out() -> None:
    made = {
        "1": subscription("acme", "BTC-USD", exchange="kraken"),
        "2": subscription("acme", "BTC-USD", datasets=("trades",)),
    }

    assert wanted_products(made, "coinbase") == {}
