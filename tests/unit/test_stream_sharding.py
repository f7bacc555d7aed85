"""Which shard serves a tenant, which topics it reads, and what a rebuild empties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsestream.core.errors import UsageError
from pulsestream.core.layout import platform_topic_specs
from pulsestream.core.settings import Settings
from pulsestream.core.topics import state_topic
from schemas.control import Change
from schemas.records import Tenant
from streams.basis import BasisChange
from streams.engine.rules import ActiveRule
from streams.entries import PendingAlert, Position, alert_entry, basis_entry, position_entry, rule_entry, sort
from streams.rebuild import Progress, emptied
from streams.tenancy import Tenancy
from streams.worker import shard_settings
from tests.support.ticking import definition


def moved(tenant: str, shard: int, version: int = 1) -> Change[Tenant]:
    record = Tenant(
        tenant=tenant, name=tenant, tier="free", status="active", shard=shard, created_at=0, version=version
    )
    return Change(tenant, record, 1)


@given(st.lists(st.tuples(st.sampled_from(["acme", "zeta", "mine"]), st.integers(0, 9))), st.integers(1, 4))
def test_every_tenant_is_served_by_exactly_one_shard(said: list[tuple[str, int]], shards: int) -> None:
    groups = [Tenancy(shard, shards) for shard in range(shards)]
    for group in groups:
        group.learn([moved(tenant, shard) for tenant, shard in said])

    for tenant in ("acme", "zeta", "mine", "unheard-of"):
        serving = [shard for shard, group in enumerate(groups) if group.serves(tenant)]
        assert serving == [dict(said).get(tenant, 0) % shards]
        assert [group.reads(f"ps.{tenant}.ticks.v1") for group in groups].index(True) == serving[0]


def test_a_tenant_that_comes_or_goes_is_told_and_one_of_others_is_not() -> None:
    group = Tenancy(1, 3)

    assert group.learn([moved("acme", 1)])
    assert not group.learn([moved("acme", 1, 2), moved("zeta", 2)])
    assert group.learn([moved("acme", 0, 3)])
    assert not group.reads("ps._platform.rules.v1")


def test_each_shard_has_an_application_and_a_state_topic_of_its_own() -> None:
    settings = Settings(stream_app="app", stream_shards=3)
    topics = {spec.name for spec in platform_topic_specs(settings)}

    apps = [shard_settings(settings, shard).stream_app for shard in range(3)]

    assert apps == ["app", "app-s1", "app-s2"]
    assert {state_topic(app) for app in apps} <= topics
    with pytest.raises(UsageError, match="no shard 3: PULSESTREAM_STREAM_SHARDS=3 makes 0 to 2"):
        shard_settings(settings, 3)


def test_a_rebuild_empties_what_was_computed_and_keeps_what_was_learned() -> None:
    rule = ActiveRule("acme", "r", 1, definition({"above": 5}), 10)
    basis = BasisChange(("acme", "coinbase", "BTC-USD"), 5, trades=False)
    learned = dict([rule_entry(rule, kept=True), basis_entry(basis.product, [basis])])
    alert = PendingAlert("acme/ticks/coinbase/BTC-USD", b"BTC-USD", b"", [])
    computed = dict([position_entry("t", Position("id", 1)), alert_entry(1, alert), ("acme/ticks/c/P|head", b"1")])
    entries = {name: value for name, value in (learned | computed).items() if value is not None}

    kept, removed = emptied(entries)

    assert kept.keys() == learned.keys()
    assert removed == dict.fromkeys(computed)
    assert (sort(kept).rules, sort(kept).bases) == ([rule], [basis])


def test_progress_tells_the_rate_since_the_last_time_and_the_seconds_left() -> None:
    progress = Progress(begun_at=100.0, total=1_000)

    assert progress.told(110.0, 800) == {"per_second": 20, "remaining": 800, "seconds_left": 40}
    assert progress.told(120.0, 300) == {"per_second": 50, "remaining": 300, "seconds_left": 6}
    assert progress.told(130.0, 300)["seconds_left"] == -1
