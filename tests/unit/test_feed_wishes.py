"""Which products are fed, and which tenants want what of them."""

from producers.ledger import Shard
from producers.wishes import routes, wanted
from schemas.records import Subscription


def subscription(
    tenant: str, product: str, exchange: str = "coinbase", datasets: tuple[str, ...] = ("ticks", "trades")
) -> Subscription:
    return Subscription(tenant=tenant, exchange=exchange, product=product, datasets=list(datasets), since=1, version=1)


def table(*made: Subscription) -> dict[str, Subscription]:
    return {f"{one.tenant}:{one.exchange}:{one.product}": one for one in made}


def test_tenants_are_gathered_by_dataset_and_product() -> None:
    made = table(
        subscription("acme", "BTC-USD"),
        subscription("zeta", "BTC-USD", datasets=("ticks",)),
        subscription("acme", "ETH-USD", datasets=("trades", "bars")),
    )

    assert routes(made, "coinbase") == {
        "ticks": {"BTC-USD": ["acme", "zeta"]},
        "trades": {"BTC-USD": ["acme"], "ETH-USD": ["acme"]},
    }
    assert wanted(made, "coinbase").tenants == {"BTC-USD": {"acme", "zeta"}, "ETH-USD": {"acme"}}


def test_another_exchange_and_what_no_feed_delivers_are_left_out() -> None:
    made = table(subscription("acme", "BTC-USD", exchange="kraken"), subscription("acme", "ETH-USD", datasets=("own",)))

    assert routes(made, "coinbase") == {"ticks": {}, "trades": {}}
    assert wanted(made, "coinbase").tenants == {}


def test_products_of_the_settings_are_fed_without_any_tenant() -> None:
    made = table(subscription("acme", "BTC-USD"))

    assert wanted(made, "coinbase", " SOL-USD, BTC-USD,").tenants == {"BTC-USD": {"acme"}, "SOL-USD": frozenset()}


def test_every_product_is_wanted_of_one_shard() -> None:
    everything = wanted({}, "coinbase", ",".join(f"P{number}-USD" for number in range(100)))

    parts = [everything.of(Shard("coinbase", number, 8)) for number in range(8)]

    assert all(parts)
    assert sorted(product for part in parts for product in part) == sorted(everything.tenants)
