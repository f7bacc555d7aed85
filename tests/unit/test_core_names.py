"""Topic names, times, log masking and health answers."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsestream.core import log, topics
from pulsestream.core.clock import format_rfc3339, parse_rfc3339
from pulsestream.core.errors import InvalidNameError
from pulsestream.core.health import Readiness, answer

slugs = st.from_regex(re.compile(r"[a-z0-9][a-z0-9-]{1,30}[a-z0-9]"), fullmatch=True)


@given(slugs, st.sampled_from(topics.DATASETS))
def test_a_topic_name_reads_back_as_what_it_was_built_from(tenant: str, dataset: str) -> None:
    parsed = topics.parse_tenant_topic(topics.tenant_topic(tenant, dataset))

    assert parsed == topics.TenantTopic(tenant, dataset, 1)


@given(slugs, slugs, st.sampled_from(topics.DATASETS))
def test_no_tenants_prefix_covers_another_tenant(tenant: str, other: str, dataset: str) -> None:
    covered = topics.tenant_topic(other, dataset).startswith(f"ps.{tenant}.")

    assert covered is (tenant == other)


@pytest.mark.parametrize("slug", ["", "ab", "-ab", "ab-", "Abc", "a_b", "_platform", "a.b", "x" * 33, "abc\n"])
def test_a_slug_that_cannot_be_is_refused(slug: str) -> None:
    with pytest.raises(InvalidNameError):
        topics.check_slug(slug)


@pytest.mark.parametrize("slug", ["admin", "kafka", "ps-relay", "xn--acme"])
def test_a_slug_of_the_platform_is_refused_and_says_so(slug: str) -> None:
    with pytest.raises(InvalidNameError, match="reserved"):
        topics.check_slug(slug)


@pytest.mark.parametrize(
    "name", [*topics.CONTROL_TOPICS, topics.state_topic("app"), "ps.acme.ticks.v0", "x.acme.ticks.v1"]
)
def test_a_platform_topic_is_no_tenants(name: str) -> None:
    assert topics.parse_tenant_topic(name) is None


@given(st.integers(min_value=-62_135_596_800_000_000, max_value=253_402_300_799_999_999))
def test_a_time_survives_its_text(micros: int) -> None:
    assert parse_rfc3339(format_rfc3339(micros)) == micros


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        parse_rfc3339("2026-01-31T12:00:00")


def test_secrets_never_reach_a_log_line() -> None:
    event = {
        "event": "connected to postgresql://ps_api:hunter2@db/x with ps_live_4f_s3cr3t_1a",
        "kafka_password": "hunter2",
        "X-API-Key": "ps_live_4f_s3cr3t_1a",
        "count": 3,
    }

    masked = log.mask_secrets(None, "", dict(event))

    assert "hunter2" not in str(masked)
    assert "s3cr3t" not in str(masked)
    assert masked["count"] == 3


def test_a_process_is_ready_when_no_check_complains() -> None:
    readiness = Readiness()
    problem: list[str] = ["broker away"]
    readiness.add("broker", lambda: problem[0] if problem else None)

    status, _, body = answer("/readyz", readiness)
    problem.clear()

    assert (status, json.loads(body)["problems"]) == (503, {"broker": "broker away"})
    assert answer("/readyz", readiness)[0] == 200
    assert answer("/livez", readiness)[0] == 200
    assert b"pulsestream_sink_rows_total" in answer("/metrics", readiness)[2]
    assert answer("/", readiness)[0] == 404


def test_a_detail_is_shown_and_leaves_the_process_ready() -> None:
    readiness = Readiness()
    readiness.add_detail("tenants", lambda: "acme is parked")

    status, _, body = answer("/readyz", readiness)

    assert (status, json.loads(body)["details"]) == (200, {"tenants": "acme is parked"})
