"""`pulsestream audit`: a tenant's rows listed and verified over the API, every tenant's verified over the database."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from api.audit.chain import GENESIS, Row, sealed
from api.audit.head_publisher import published_heads
from pulsestream.client import Client
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import RULE, installation
from tests.support.e2e import Installation, Tenant, eventually

ROWS = "SELECT tenant, seq, at, action, actor, target, entry, hash FROM audit WHERE tenant = %s ORDER BY seq"


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("commands-audit")
    with installation(
        folder, broker, database_server, migrated_template, "api", "relay", audit_heads_interval=0.5
    ) as started:
        yield started


@pytest.fixture
def tenant(running: Installation) -> Tenant:
    made = running.register("audited")
    rule = made.create_rule(RULE | {"name": "one"})
    made.call("DELETE", f"/api/v1/rules/{rule['rule_id']}", expect=204)
    return made


def audit(
    running: Installation, *arguments: str, tenant: Tenant | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the command; fails where it ends with another exit code."""
    own = {
        "PULSESTREAM_API_PORT": str(running.api_port),
        "PULSESTREAM_HOME": os.devnull + "/nowhere",
        "PULSESTREAM_DATABASE_URL": running.database.url("ps_relay"),
        "PULSESTREAM_API_KEY": "" if tenant is None else tenant.key,
        "PULSESTREAM_KAFKA_BOOTSTRAP": running.kafka.bootstrap,
        "PULSESTREAM_KAFKA_USERNAME": "ps-relay",
        "PULSESTREAM_KAFKA_PASSWORD": running.kafka.password("ps-relay"),
    }
    command = [sys.executable, "-m", "pulsestream.cli", "audit", *arguments]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def forge(running: Installation, tenant: Tenant, *statements: str) -> None:
    """Run statements as a superuser who has switched the guards off; `%s` in them is the tenant."""
    with psycopg.connect(running.database.url()) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in statements:
            connection.execute(statement, (tenant.slug,))  # type: ignore[arg-type]  # of this test


def test_rows_are_listed_by_what_was_done(running: Installation, tenant: Tenant) -> None:
    heading, *lines = audit(running, "list", "-n", "3", tenant=tenant).stdout.splitlines()
    (deleted,) = audit(running, "list", "--action", "rule.delete", "--json", tenant=tenant).stdout.splitlines()

    assert heading.split() == ["SEQ", "AT", "ACTION", "KEY", "TARGET"]
    assert [line.split()[2] for line in lines] == ["rule.delete", "rule.create", "key.create"]
    assert [line.split()[3] for line in lines] == [tenant.key.split("_")[2]] * 2 + ["-"]
    assert json.loads(deleted)["before"]["definition"]["name"] == "one"


def test_a_chain_is_verified_over_the_api_until_somebody_edits_it(running: Installation, tenant: Tenant) -> None:
    with Client(f"http://127.0.0.1:{running.api_port}", tenant.key) as api:
        newest = next(api.audit.list())
    whole = audit(running, "verify", tenant=tenant).stdout

    forge(running, tenant, "DELETE FROM audit WHERE tenant = %s AND seq = 2")

    assert whole == f"whole: 4 rows, the last one's hash is {newest['hash']}\n"
    broken = audit(running, "verify", tenant=tenant, code=1).stdout
    assert broken.startswith("broken at row 2: row 3 stands in its place")


def test_every_chain_is_verified_over_the_database_and_held_against_what_was_kept(
    running: Installation, tenant: Tenant, tmp_path: Path
) -> None:
    other, gone = running.register("other"), running.register("gone")
    named = [each.slug for each in (tenant, other, gone)]
    kept = tmp_path / "heads.jsonl"
    kept.write_text(audit(running, "verify-all", *named, "--json").stdout)
    other.create_rule(RULE | {"name": "one more"})
    grown = audit(running, "verify-all", *named, "--kept", str(kept)).stdout.splitlines()

    forge(running, gone, "DELETE FROM audit WHERE tenant = %s", "DELETE FROM audit_heads WHERE tenant = %s")
    _make_anew(running, tenant)

    assert [line.partition(",")[0] for line in grown] == [f"{slug}: whole" for slug in named]
    assert "3 rows" in grown[1]
    unseen = audit(running, "verify-all", tenant.slug).stdout
    assert unseen.startswith(f"{tenant.slug}: whole, 4 rows")
    told = audit(running, "verify-all", "--kept", str(kept), code=1).stdout
    assert f"{tenant.slug}: BROKEN at row 4: its hash was " in told
    assert f"{gone.slug}: BROKEN at row 1: it is missing" in told
    assert f"{other.slug}: whole" in told


def test_the_relay_publishes_where_a_chain_ends_and_a_chain_made_anew_shows_from_outside(
    running: Installation, tenant: Tenant
) -> None:
    gone = running.register("gone")
    eventually(lambda: _published(running, {tenant.slug: 4, gone.slug: 2}))
    assert audit(running, "verify-all", tenant.slug, gone.slug, "--heads").stdout.count(": whole") == 2

    forge(running, gone, "DELETE FROM audit WHERE tenant = %s", "DELETE FROM audit_heads WHERE tenant = %s")
    _make_anew(running, tenant)
    tenant.create_rule(RULE | {"name": "after it"})  # so that there is a newer end, which must not cover the old one
    eventually(lambda: _misfits(running))

    assert f"{tenant.slug}: whole, 5 rows" in audit(running, "verify-all", tenant.slug).stdout
    told = audit(running, "verify-all", tenant.slug, gone.slug, "--heads", code=1).stdout
    assert f"{tenant.slug}: BROKEN at row 4: its hash was " in told
    assert f"{gone.slug}: BROKEN at row 1: it is missing" in told
    _published(running, {tenant.slug: 4, gone.slug: 2})

    assert "published was row 4" in audit(running, "accept", tenant.slug, "--confirm", tenant.slug).stdout
    assert "nothing any more" in audit(running, "accept", gone.slug, "--confirm", gone.slug).stdout
    assert "5 rows" in audit(running, "verify-all", tenant.slug, "--heads").stdout
    assert published_heads(running.admin).keys() & {tenant.slug, gone.slug} == {tenant.slug}


def _published(running: Installation, rows: dict[str, int]) -> None:
    """Assert how many rows these tenants' audits had when their ends were published last."""
    heads = published_heads(running.admin)
    assert {tenant: heads[tenant].seq for tenant in rows if tenant in heads} == rows


def _misfits(running: Installation) -> None:
    assert running["relay"].metric("pulsestream_audit_misfits") >= 2


def _make_anew(running: Installation, tenant: Tenant) -> None:
    """Forge a whole chain: another first row, every hash computed anew, and the head moved."""
    with psycopg.connect(running.database.url(), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        before = GENESIS
        for columns in connection.execute(ROWS, (tenant.slug,)).fetchall():
            row = Row(*columns)
            row = replace(row, entry=row.entry.replace('"tier": "free"', '"tier": "pro"'))
            before = sealed(before, row.entry)
            named = (row.entry, before, tenant.slug, row.seq)
            connection.execute("UPDATE audit SET entry = %s, hash = %s WHERE tenant = %s AND seq = %s", named)
        connection.execute("UPDATE audit_heads SET hash = %s WHERE tenant = %s", (before, tenant.slug))


def test_what_cannot_be_meant_is_said(running: Installation, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{\n")

    unknown = audit(running, "verify-all", "nobody-at-all", code=2)
    malformed = audit(running, "verify-all", "--kept", str(bad), code=2)
    missing = audit(running, "verify-all", "--kept", str(tmp_path / "none"), code=2)

    assert "tenant 'nobody-at-all' has no audit" in unknown.stderr
    assert "line 1 of the hashes that were kept" in malformed.stderr
    assert "cannot be read" in missing.stderr
