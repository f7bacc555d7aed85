"""Row level security, as the catalogue tells it: no table is forgotten, also none that is still to be made."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.databases import BOTH_KINDS, NamedDatabase

OPEN = {"schema_migrations", "ingestion_clock"}
"""Tables that say nothing of any tenant."""
UNGUARDED = """
SELECT relname || ': ' || fault
FROM pg_class
JOIN LATERAL (
    SELECT 'row level security is not forced' AS fault
    WHERE relkind NOT IN ('v', 'm') AND NOT (relrowsecurity AND relforcerowsecurity)
    UNION ALL
    SELECT 'the view does not ask for the tenant'
    WHERE relkind IN ('v', 'm') AND (relkind = 'm' OR strpos(pg_get_viewdef(pg_class.oid), 'current_tenant()') = 0)
    UNION ALL
    SELECT rolname || ' may use it, and no policy says which rows'
    FROM pg_roles
    WHERE relkind NOT IN ('v', 'm') AND rolname LIKE 'ps\\_%%' AND NOT rolbypassrls
        AND NOT pg_has_role(rolname, relowner, 'usage')
        AND (has_table_privilege(rolname, pg_class.oid, 'SELECT, INSERT, UPDATE, DELETE')
            OR has_any_column_privilege(rolname, pg_class.oid, 'SELECT, INSERT, UPDATE'))
        AND NOT EXISTS (
            SELECT FROM pg_policies
            WHERE schemaname = 'public' AND tablename = relname AND rolname = ANY (roles))
    UNION ALL
    SELECT 'policy ' || policyname || ' lets ps_api see rows whatever the tenant is'
    FROM pg_policies
    WHERE schemaname = 'public' AND tablename = relname AND roles && '{ps_api,public}'
        AND strpos(coalesce(qual, with_check), 'current_tenant()') = 0
) AS faults ON true
WHERE relkind IN ('r', 'p', 'f', 'm', 'v') AND relnamespace = 'public'::regnamespace AND relname <> ALL (%s)
    AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
ORDER BY 1
"""
DEFINERS = """
SELECT proname FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND prosecdef
    AND (proconfig IS NULL OR NOT EXISTS (SELECT FROM unnest(proconfig) AS each WHERE each LIKE 'search_path=%%')
        OR has_function_privilege('public', oid, 'EXECUTE'))
    AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
"""


def unguarded(connection: psycopg.Connection) -> list[str]:
    return [fault for (fault,) in connection.execute(UNGUARDED, (list(OPEN),)).fetchall()]


@pytest.fixture
def owner(database: NamedDatabase) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.url(), autocommit=True) as connection:
        yield connection


@BOTH_KINDS
def test_every_table_is_guarded_and_shows_the_api_one_tenants_rows(owner: psycopg.Connection) -> None:
    assert unguarded(owner) == []


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("CREATE TABLE fresh (tenant text)", "fresh: row level security is not forced"),
        (
            "GRANT SELECT (tenant) ON stats TO ps_notifier",
            "stats: ps_notifier may use it, and no policy says which rows",
        ),
        (
            "CREATE POLICY careless ON ticks TO ps_api USING (true)",
            "ticks: policy careless lets ps_api see rows whatever the tenant is",
        ),
        ("CREATE VIEW around AS SELECT * FROM ticks", "around: the view does not ask for the tenant"),
        ("ALTER TABLE alerts NO FORCE ROW LEVEL SECURITY", "alerts: row level security is not forced"),
    ],
)
def test_a_table_without_its_guard_is_found(owner: psycopg.Connection, statement: str, fault: str) -> None:
    owner.execute(statement)  # type: ignore[call-overload]  # of this test

    assert unguarded(owner) == [fault]


@BOTH_KINDS
def test_functions_that_act_as_the_owner_are_for_named_roles_and_resolve_names_by_themselves(
    owner: psycopg.Connection,
) -> None:
    assert owner.execute(DEFINERS).fetchall() == []


@BOTH_KINDS
def test_a_tenant_sees_the_positions_and_gaps_of_its_own_topics(
    owner: psycopg.Connection, database: NamedDatabase
) -> None:
    for topic in ("ps.acme.ticks.v1", "ps.acme2.ticks.v1", "ps._platform.feeds.v1"):
        owner.execute("INSERT INTO sink_offsets VALUES (%s, 0, %s, 5)", (topic, topic))
        owner.execute("INSERT INTO sink_gaps VALUES (%s, 0, 1, 2, %s, 'retention')", (topic, topic))

    assert {tenant: seen(database, tenant) for tenant in ("acme", "acme2", "nobody", "_platform", "")} == {
        "acme": ["ps.acme.ticks.v1"] * 2,
        "acme2": ["ps.acme2.ticks.v1"] * 2,
        "nobody": [],
        "_platform": ["ps._platform.feeds.v1"] * 2,
        "": [],
    }


def seen(database: NamedDatabase, tenant: str) -> list[Any]:
    with psycopg.connect(database.url("ps_api")) as connection:
        connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", (tenant,))
        found = connection.execute("SELECT topic FROM sink_offsets UNION ALL SELECT topic FROM sink_gaps")
        return [topic for (topic,) in found]
