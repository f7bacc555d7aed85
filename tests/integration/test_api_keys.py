"""API keys over HTTP: made, listed, rotated, changed, revoked, each by those who may, on a real database.

Every answer is held against the OpenAPI document (tests/support/keyring.py).
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from api.auth import FRESH
from api.limits.tiers import TIERS
from pulsestream.core.clock import format_rfc3339, wall_clock
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation
from tests.support.e2e import Installation, eventually
from tests.support.keyring import Holder, owner_of, secret_of

SECOND = 1_000_000
HOUR = 3600 * SECOND
ROLES = ("owner", "admin", "viewer")
MOST = TIERS["free"].keys


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("keys")
    limits = "free.requests=1000000"  # the quota of keys is what these tests are about
    with installation(folder, broker, database_server, migrated_template, "api", limits=limits) as started:
        yield started


@pytest.fixture
def owner(running: Installation) -> Holder:
    return owner_of(running)


def ahead(micros: int) -> str:
    return format_rfc3339(wall_clock() + micros)


def rows(running: Installation, query: str, *bound: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(running.database.url()) as connection:
        return connection.execute(query, bound).fetchall()


def end(running: Installation, holder: Holder) -> None:
    """Let a key end a second ago."""
    with psycopg.connect(running.database.url()) as connection:
        connection.execute("UPDATE api_keys SET expires_at = now() - INTERVAL '1 s' WHERE id = %s", (holder.id,))


def listed(holder: Holder, **query: object) -> list[str]:
    return [key["id"] for key in holder.call("GET", params=query)["keys"]]


# ---- making and listing ----


@pytest.mark.parametrize("role", ROLES)
def test_a_new_key_works_and_is_shown_without_its_text_ever_after(
    running: Installation, owner: Holder, role: str
) -> None:
    expires_at = ahead(HOUR)

    made = owner.call("POST", json={"name": "desk 1", "role": role, "expires_at": expires_at})

    holder = owner.with_key(made.pop("api_key"))
    assert holder.works()
    assert made == {
        "id": holder.id, "name": "desk 1", "role": role, "state": "active", "created_at": made["created_at"],
        "created_by": owner.id, "expires_at": expires_at, "revoked_at": None, "replaced_by": None,
        "last_used_at": None,
    }  # fmt: skip
    shown = owner.send("GET", f"/{holder.id}").text + owner.send("GET").text
    stored = str(rows(running, "SELECT * FROM api_keys WHERE tenant = %s", owner.slug))
    for secret in (secret_of(holder.text), secret_of(owner.text)):
        assert secret not in shown
        assert secret not in stored
    assert made == owner.call("GET", f"/{holder.id}") | {"last_used_at": None}


def test_the_answer_that_holds_a_key_asks_not_to_be_kept(owner: Holder) -> None:
    answer = owner.send("POST", json={"name": "x", "role": "viewer"})

    assert answer.headers["cache-control"] == "no-store"


def test_keys_are_listed_page_by_page_newest_first_those_that_work_unless_others_are_asked_for(
    running: Installation, owner: Holder
) -> None:
    viewers = [owner.create("viewer") for _ in range(3)]
    ended, revoked = owner.create("viewer"), owner.create("viewer")
    end(running, ended)
    owner.call("DELETE", f"/{revoked.id}")
    walked, cursor = [], None
    while cursor is not None or not walked:
        page = owner.call("GET", params={"limit": 2, "state": "any"} | ({"cursor": cursor} if cursor else {}))
        walked += [key["id"] for key in page["keys"]]
        cursor = page["next_cursor"]

    assert listed(owner) == [*(viewer.id for viewer in viewers[::-1]), owner.id]
    assert listed(owner, state="expired") == [ended.id]
    assert listed(owner, state="revoked") == [revoked.id]
    assert walked == [revoked.id, ended.id, *listed(owner)]


def test_a_cursor_is_for_its_own_list(owner: Holder) -> None:
    owner.create("viewer")
    cursor = owner.call("GET", params={"limit": 1})["next_cursor"]

    owner.refused(400, "invalid-cursor", "GET", params={"cursor": cursor, "state": "any"})
    owner.refused(400, "invalid-cursor", "GET", params={"cursor": "x"})
    owner.refused(400, "invalid-parameters", "GET", params={"state": "gone"})
    owner.refused(400, "invalid-parameters", "GET", params={"limit": 0})
    owner.refused(400, "invalid-parameters", "GET", params={"stat": "any"})


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": "x"}, "/role"),
        ({"role": "viewer"}, "/name"),
        ({"name": "", "role": "viewer"}, "/name"),
        ({"name": "x" * 101, "role": "viewer"}, "/name"),
        ({"name": "a\0b", "role": "viewer"}, "/name"),
        ({"name": "a\u202eb", "role": "viewer"}, "/name"),
        ({"name": "x", "role": "root"}, "/role"),
        ({"name": "x", "role": "viewer", "scope": "all"}, "/scope"),
        ({"name": "x", "role": "viewer", "expires_at": "tomorrow"}, "/expires_at"),
        ({"name": "x", "role": "viewer", "expires_at": "2031-01-31T12:00:00"}, "/expires_at"),
        ({"name": "x", "role": "viewer", "expires_at": "9999-12-31T23:59:59-14:00"}, "/expires_at"),
        ({"name": "x", "role": "viewer", "expires_at": "2021-01-31T12:00:00Z"}, "/expires_at"),
        ({"name": "x", "role": "viewer", "expires_at": 1}, "/expires_at"),
    ],
)
def test_a_key_that_cannot_be_names_the_member(owner: Holder, body: object, pointer: str) -> None:
    found = owner.refused(422, "invalid-body", "POST", json=body)

    assert found["errors"][0]["pointer"] == pointer
    assert listed(owner) == [owner.id]


def test_text_that_utf_8_cannot_hold_is_refused(owner: Holder) -> None:
    body = b'{"name": "\\ud800", "role": "viewer"}'

    owner.refused(422, "invalid-body", "POST", content=body)


def test_a_tenant_has_a_bounded_number_of_keys_that_work(running: Installation, owner: Holder) -> None:
    with psycopg.connect(running.database.url()) as connection:
        connection.execute(
            "INSERT INTO api_keys (tenant, id, name, role, hmac, pepper_version)"
            " SELECT %s, %s || n, 'x', 'viewer', '', 1 FROM generate_series(2, %s) AS n",
            (owner.slug, f"{owner.slug}-", MOST),
        )

    found = owner.refused(403, "quota-exceeded", "POST", json={"name": "x", "role": "viewer"})
    owner.refused(403, "quota-exceeded", "POST", f"/{owner.slug}-2/rotate", json={"overlap_seconds": 60})
    owner.rotate(f"{owner.slug}-2", 0)
    owner.call("DELETE", f"/{owner.slug}-3")
    owner.create("viewer")

    assert (found["quota"], found["limit"], found["use"]) == ("keys", MOST, MOST)
    assert rows(running, "SELECT replaced_by FROM api_keys WHERE id = %s", f"{owner.slug}-4") == [(None,)]


# ---- who may ----


@pytest.mark.parametrize("role", ROLES)
def test_who_may_what_to_which_key(owner: Holder, role: str) -> None:
    admin, viewer = owner.create("admin"), owner.create("viewer")
    owner.create("owner")  # so that the last one is not what protects
    target = owner.create(role)
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "", {"json": {"name": "x", "role": role}}),
        ("PATCH", f"/{target.id}", {"json": {"name": "y"}}),
        ("PATCH", f"/{target.id}", {"json": {"expires_at": ahead(HOUR)}}),
        ("POST", f"/{target.id}/rotate", {"json": {"overlap_seconds": 60}}),
        ("DELETE", f"/{target.id}", {}),
    ]

    for step in steps:
        viewer.refused(403, "forbidden", step[0], step[1], **step[2])
    for step in steps:
        if role == "owner":
            found = admin.refused(403, "forbidden", step[0], step[1], **step[2])
            assert "role owner" in found["detail"]
        else:
            admin.call(step[0], step[1], **step[2])

    assert target.works() == (role == "owner")
    assert admin.call("GET", f"/{target.id}")["role"] == role
    viewer.refused(403, "forbidden", "GET")
    viewer.refused(403, "forbidden", "GET", f"/{viewer.id}")


def test_a_key_that_ends_gives_no_longer_life_than_its_own(owner: Holder) -> None:
    soon, later = ahead(HOUR), ahead(2 * HOUR)
    passing = owner.create("owner", expires_at=soon)
    lasting, short = owner.create("admin"), owner.create("admin", expires_at=soon)

    for body in ({}, {"expires_at": None}, {"expires_at": later}):
        passing.refused(403, "forbidden", "POST", json={"name": "x", "role": "viewer"} | body)
        if body:
            passing.refused(403, "forbidden", "PATCH", f"/{passing.id}", json=body)
            passing.refused(403, "forbidden", "PATCH", f"/{short.id}", json=body)
    passing.refused(403, "forbidden", "POST", f"/{lasting.id}/rotate", json={})

    assert passing.create("viewer", expires_at=soon).works()
    assert passing.rotate(short.id, 60).works()
    passing.call("PATCH", f"/{lasting.id}", json={"expires_at": later})
    assert passing.call("GET", f"/{passing.id}")["expires_at"] == soon


# ---- rotation ----


def test_a_rotated_key_works_on_beside_its_successor_for_the_overlap(owner: Holder) -> None:
    viewer = owner.create("viewer", expires_at=ahead(HOUR))

    successor = owner.rotate(viewer.id, 600)

    before, after = owner.call("GET", f"/{viewer.id}"), owner.call("GET", f"/{successor.id}")
    assert viewer.works()
    assert successor.works()
    assert (before["replaced_by"], before["state"]) == (successor.id, "active")
    assert before["expires_at"] < after["expires_at"]
    assert [after[name] for name in ("name", "role", "created_by")] == [before["name"], "viewer", owner.id]


def test_a_key_rotated_without_overlap_ends_at_once(owner: Holder) -> None:
    viewer = owner.create("viewer")
    assert viewer.works()

    successor = owner.rotate(viewer.id, 0)

    assert not viewer.works()
    assert successor.works()


def test_a_rotation_lengthens_no_life(owner: Holder) -> None:
    soon = ahead(HOUR)
    viewer = owner.create("viewer", expires_at=soon)

    owner.rotate(viewer.id, 7 * 24 * 3600)

    assert owner.call("GET", f"/{viewer.id}")["expires_at"] == soon


def test_a_key_gets_one_successor_however_often_its_rotation_is_sent(owner: Holder) -> None:
    viewer = owner.create("viewer")
    successor = owner.rotate(viewer.id, 600)

    found = owner.refused(409, "key-rotated", "POST", f"/{viewer.id}/rotate", json={})

    assert found["key_id"] == successor.id
    assert set(listed(owner)) == {owner.id, viewer.id, successor.id}


@pytest.mark.parametrize("overlap", [-1, 7 * 24 * 3600 + 1, "60", 1.5, None])
def test_an_overlap_has_bounds(owner: Holder, overlap: object) -> None:
    found = owner.refused(422, "invalid-body", "POST", f"/{owner.id}/rotate", json={"overlap_seconds": overlap})

    assert found["errors"][0]["pointer"] == "/overlap_seconds"


def test_a_key_rotates_itself(owner: Holder) -> None:
    successor = owner.rotate(owner.id, 0)

    assert not owner.works()
    assert listed(successor) == [successor.id]


# ---- ends ----


def test_a_revoked_key_is_refused_at_once_by_the_process_that_revoked_it(owner: Holder) -> None:
    viewer = owner.create("viewer")
    assert viewer.works()

    owner.call("DELETE", f"/{viewer.id}")

    assert not viewer.works()
    assert owner.call("GET", f"/{viewer.id}")["state"] == "revoked"


def test_revoking_again_changes_nothing(owner: Holder) -> None:
    viewer = owner.create("viewer")
    owner.call("DELETE", f"/{viewer.id}")
    first = owner.call("GET", f"/{viewer.id}")

    owner.call("DELETE", f"/{viewer.id}")

    assert owner.call("GET", f"/{viewer.id}") == first


def test_a_key_that_ended_stays_ended(running: Installation, owner: Holder) -> None:
    ended, revoked = owner.create("viewer"), owner.create("viewer")
    end(running, ended)
    owner.call("DELETE", f"/{revoked.id}")

    for holder in (ended, revoked):
        owner.refused(409, "key-ended", "PATCH", f"/{holder.id}", json={"expires_at": None})
        owner.refused(409, "key-ended", "PATCH", f"/{holder.id}", json={"name": "again"})
        owner.refused(409, "key-ended", "POST", f"/{holder.id}/rotate", json={})
        assert not holder.works()
    owner.call("DELETE", f"/{ended.id}")


def test_name_and_end_are_changed_one_by_one(owner: Holder) -> None:
    viewer = owner.create("viewer")
    soon = ahead(HOUR)

    renamed = owner.call("PATCH", f"/{viewer.id}", json={"name": "desk 2"})
    ending = owner.call("PATCH", f"/{viewer.id}", json={"expires_at": soon})
    lasting = owner.call("PATCH", f"/{viewer.id}", json={"expires_at": None})

    assert (renamed["name"], renamed["expires_at"]) == ("desk 2", None)
    assert (ending["name"], ending["expires_at"]) == ("desk 2", soon)
    assert lasting["expires_at"] is None
    owner.refused(422, "invalid-body", "PATCH", f"/{viewer.id}", json={})
    owner.refused(422, "invalid-body", "PATCH", f"/{viewer.id}", json={"name": ""})
    owner.refused(422, "invalid-body", "PATCH", f"/{viewer.id}", json={"role": "owner"})
    owner.refused(422, "invalid-body", "PATCH", f"/{viewer.id}", json={"expires_at": "2021-01-31T12:00:00Z"})


def test_a_key_that_is_not_there_is_404(owner: Holder) -> None:
    for method, path, body in (("GET", "", None), ("DELETE", "", None), ("PATCH", "", {"name": "x"})):
        owner.refused(404, "not-found", method, f"/nothing{path}", json=body)
    owner.refused(404, "not-found", "POST", "/nothing/rotate", json={})


# ---- what stays ----


def test_every_change_of_a_key_is_a_row_of_the_audit_and_nothing_else_is(owner: Holder) -> None:
    viewer = owner.create("viewer")
    soon = ahead(HOUR)
    for _ in range(2):  # the second time nothing changes
        owner.call("PATCH", f"/{viewer.id}", json={"name": "desk 2", "expires_at": soon})
    successor = owner.rotate(viewer.id, 7200)
    for _ in range(2):
        owner.call("DELETE", f"/{viewer.id}")
    owner.refused(409, "last-owner-key", "DELETE", f"/{owner.id}")

    answer = owner.http.get("/api/v1/audit", params={"actor": owner.id}, headers={"X-API-Key": owner.text})

    changed = {"name": "desk 2", "role": "viewer", "expires_at": soon}
    made = {"name": "a viewer", "role": "viewer"}
    replaced = changed | {"replaced_by": successor.id}
    told = [(one["action"], one["target"], one["before"], one["after"]) for one in answer.json()["entries"]]
    revoked_at = told[0][3]["revoked_at"]
    assert told == [
        ("key.revoke", f"key:{viewer.id}", replaced, replaced | {"revoked_at": revoked_at}),
        ("key.rotate", f"key:{viewer.id}", changed, replaced),
        ("key.create", f"key:{successor.id}", None, changed),
        ("key.change", f"key:{viewer.id}", made, changed),
        ("key.create", f"key:{viewer.id}", None, made),
    ]
    assert secret_of(viewer.text) not in answer.text


def test_who_gives_more_than_their_own_is_in_the_audit(owner: Holder) -> None:
    admin = owner.create("admin")
    admin.refused(403, "forbidden", "POST", json={"name": "x", "role": "owner"})

    def told() -> None:
        query = {"action": "access.denied", "actor": admin.id}
        answer = owner.http.get("/api/v1/audit", params=query, headers={"X-API-Key": owner.text})
        denied = [one["denial"] for one in answer.json()["entries"]]
        assert denied == [{"reason": "beyond its own", "permission": "keys:write", "times": 1}]

    eventually(told)


# ---- nobody locks themselves out ----


def test_the_last_owner_key_without_an_end_is_kept(owner: Holder) -> None:
    passing = owner.create("owner", expires_at=ahead(HOUR))

    for method, body in (("DELETE", None), ("PATCH", {"expires_at": ahead(HOUR)})):
        for holder in (owner, passing):
            found = holder.refused(409, "last-owner-key", method, f"/{owner.id}", json=body)
            assert "another Owner key" in found["detail"]
    assert owner.works()
    assert owner.call("GET", f"/{owner.id}")["expires_at"] is None

    second = owner.create("owner")
    owner.call("DELETE", f"/{owner.id}")
    second.refused(409, "last-owner-key", "DELETE", f"/{second.id}")
    second.call("DELETE", f"/{passing.id}")


def test_two_owners_who_revoke_each_other_at_once_leave_one(running: Installation) -> None:
    for _ in range(5):
        first = owner_of(running)
        second = first.create("owner")
        with ThreadPoolExecutor(2) as pool:
            told = pool.map(
                lambda pair: pair[0].send("DELETE", f"/{pair[1].id}").status_code, [(first, second), (second, first)]
            )

        assert sorted(told) in ([204, 401], [204, 409])
        assert first.works() + second.works() == 1


def test_a_change_of_keys_waits_for_the_tenants_turn(running: Installation, owner: Holder) -> None:
    viewer = owner.create("viewer")
    with ThreadPoolExecutor(1) as pool, psycopg.connect(running.database.url()) as turn:
        turn.execute("SELECT FROM tenants WHERE tenant = %s FOR NO KEY UPDATE", (owner.slug,))
        revoking = pool.submit(owner.send, "DELETE", f"/{viewer.id}")

        def waits() -> None:
            assert not revoking.done()
            assert rows(
                running,
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )

        eventually(waits)
        turn.rollback()

        assert revoking.result().status_code == 204


def test_a_key_that_was_revoked_elsewhere_makes_no_other_while_it_is_still_taken_here(
    running: Installation, owner: Holder
) -> None:
    """A process takes a key for seconds after its revocation: not for what would outlive it."""
    thief = owner.create("owner")
    assert thief.works()

    with psycopg.connect(running.database.url()) as connection:
        connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = %s", (thief.id,))

    thief.refused(401, "unauthorized", "POST", json={"name": "back door", "role": "owner"})
    assert owner.id in listed(owner)
    assert rows(running, "SELECT count(*) FROM api_keys WHERE created_by = %s", thief.id) == [(0,)]


def test_a_key_revoked_over_one_process_is_refused_by_the_other_within_the_bound(
    running: Installation, owner: Holder
) -> None:
    folder = running.folder / "second"
    folder.mkdir(exist_ok=True)
    second = Installation(folder, running.kafka, running.database)
    second.start("api")
    with httpx.Client(base_url=f"http://127.0.0.1:{second.api_port}", timeout=30, trust_env=False) as http:
        viewer, there = owner.create("viewer"), owner_of(running)
        elsewhere = viewer.with_key(viewer.text, http)
        try:
            assert elsewhere.works()

            owner.call("DELETE", f"/{viewer.id}")

            assert not viewer.works()
            taken = _until_refused(elsewhere)
            assert elsewhere.with_key(there.text, http).works()
        finally:
            assert second.stop() == {"api": 0}
    assert taken <= FRESH


def _until_refused(holder: Holder) -> float:
    """Use a key until it is refused, and return how many seconds after now the last use began that it was taken for."""
    began, last = time.monotonic(), 0.0
    while True:
        used = time.monotonic() - began
        if not holder.works():
            return last
        last = used
        assert last < 60
