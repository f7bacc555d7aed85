"""Registration by invitation, over HTTP and the command line, and how many an address may make."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from api import keys
from api.tenants.invitations import make
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation, problem
from tests.support.e2e import Installation
from tests.support.operating import tenant_command

PATH = "/api/v1/auth/register/tenant"
SLUGS = count(1)
HOSTS = count(1)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("registration")
    asking = {"registration": "token", "limits": "", "trusted_proxies": "127.0.0.1", "registrations_per_address": 5}
    with installation(folder, broker, database_server, migrated_template, "api", **asking) as started:
        yield started


def invited(running: Installation, uses: int = 1) -> str:
    with psycopg.connect(running.database.url("ps_relay"), autocommit=True, row_factory=dict_row) as connection:
        return make(connection, "pro", timedelta(days=7), uses, "").text


def register(running: Installation, token: str | None, slug: str = "", host: str = "") -> httpx.Response:
    """Register a new slug from a new address, where none is given."""
    body = {"tenant": slug or f"invited-{next(SLUGS)}", "token": token}
    headers = {"X-Forwarded-For": host or f"203.0.113.{next(HOSTS)}"}
    url = f"http://127.0.0.1:{running.api_port}{PATH}"
    return httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False)


def rows(running: Installation, statement: str, *bound: object) -> list[tuple[object, ...]]:
    with psycopg.connect(running.database.url()) as connection:
        return connection.execute(statement, bound).fetchall()  # type: ignore[arg-type]  # of this test


def test_who_has_no_invitation_is_told_where_to_get_one(running: Installation) -> None:
    found = problem(register(running, None), 403, "invitation-required")

    assert "pulsestream tenant invite" in str(found["detail"])


def test_an_invitation_gives_its_tier_once(running: Installation) -> None:
    token = tenant_command(running, "invite", "--tier", "pro", "--expires", "12h").splitlines()[-1]

    made = register(running, token)

    assert made.status_code == 201, made.text
    assert made.json()["tier"] == "pro"
    slug = made.json()["tenant"]
    assert rows(running, "SELECT tier FROM tenants WHERE tenant = %s", slug) == [("pro",)]
    (entry,) = rows(running, "SELECT entry::jsonb -> 'after' FROM audit WHERE tenant = %s AND seq = 1", slug)
    assert entry == ({"name": slug, "tier": "pro", "status": "active", "invitation": token.split("_")[2]},)
    problem(register(running, token), 403, "invitation-refused")


def test_its_secret_is_stored_nowhere_and_not_listed(running: Installation) -> None:
    token = tenant_command(running, "invite", "--note", "secret one").splitlines()[-1]
    register(running, token)
    secret = token.split("_")[3]

    stored = rows(running, "SELECT i::text FROM invitations AS i UNION ALL SELECT entry FROM audit")
    listed = tenant_command(running, "invitations")

    assert secret not in str(stored)
    assert secret not in running["api"].log.read_text("utf-8")
    (line,) = [line for line in listed.splitlines() if "secret one" in line]
    assert line.split()[:5] == [token.split("_")[2], "free", "used", "up", "1"]


def test_of_many_at_once_as_many_pass_as_it_has_uses(running: Installation) -> None:
    token = invited(running, 3)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: register(running, token), range(12)))

    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [403] * 9
    (used,) = rows(running, "SELECT used, uses FROM invitations WHERE id = %s", token.split("_")[2])
    assert used == (3, 3)


def test_a_registration_that_fails_uses_nothing(running: Installation) -> None:
    token = invited(running)
    taken = register(running, invited(running)).json()["tenant"]

    problem(register(running, token, taken), 409, "tenant-exists")

    assert register(running, token).status_code == 201


@pytest.mark.parametrize("fault", ["mistyped", "another secret", "expired", "revoked", "a key"])
def test_a_bad_invitation_makes_nothing_and_is_not_told_why(running: Installation, fault: str) -> None:
    token = invited(running)
    number = token.split("_")[2]
    if fault == "mistyped":
        token = token[:-1] + ("0" if token[-1] != "0" else "1")
    elif fault == "another secret":
        token = keys.joined(keys.INVITATION, number, keys.generate().secret)
    elif fault == "expired":
        with psycopg.connect(running.database.url()) as connection:
            connection.execute("UPDATE invitations SET expires_at = now() WHERE id = %s", (number,))
    elif fault == "revoked":
        tenant_command(running, "revoke-invitation", number)
    else:
        token = keys.generate().text

    answer = register(running, token, "never-made")

    problem(answer, 403, "invitation-refused")
    assert rows(running, "SELECT FROM tenants WHERE tenant = 'never-made'") == []


def test_an_address_that_tries_too_often_is_told_when_to_come_back(running: Installation) -> None:
    bad = keys.joined(keys.INVITATION, keys.generate().id, keys.generate().secret)
    tried = [register(running, bad, host="198.51.100.1").status_code for _ in range(5)]

    answer = register(running, bad, host="198.51.100.1")

    assert tried == [403] * 5
    found = problem(answer, 429, "rate-limited")
    assert found["violated-policies"] == ["registrations-per-address"]
    assert 0 < int(answer.headers["Retry-After"]) <= 720
    assert register(running, invited(running), host="198.51.100.2").status_code == 201


def test_the_operators_commands_say_what_is_wrong(running: Installation) -> None:
    assert "7d" in tenant_command(running, "invite", "--expires", "soon", code=2)
    assert "no invitation" in tenant_command(running, "revoke-invitation", "unknown", code=2)
