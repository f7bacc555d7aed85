"""The OpenAPI document against the API that serves it: processes, a broker and a database as they run.

schemathesis calls every operation as the document says and as it does not, and goes along the links; an answer that the
document does not describe, or an error of the server, fails. Here it does so a little, and the same each time;
`make contract` lets it do much more, by chance, and prints the seed.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import DeadLetter
from tests.support.api import RULE, installation, store_alert
from tests.support.e2e import Installation, Tenant
from tests.support.links import Explorer

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parent.parent
LEAD_NOWHERE: Final = {"list_attempts_api_v1_channels__channel_id__attempts_get -> next_page"}
"""No notifier runs here, so no message is ever sent."""
_BEFORE: Final = {
    "list_rule_versions_api_v1_rules__rule_id__versions_get": ["pause_rule_api_v1_rules__rule_id__pause_post"],
    "list_messages_api_v1_channels__channel_id__messages_get": [
        "test_channel_api_v1_channels__channel_id__test_post",
        "test_channel_api_v1_channels__channel_id__test_post",
    ],
}
"""What a rule or a channel that was just made needs for a second page."""
_TWO_ROWS: Final = tuple(
    f"INSERT INTO {table} (tenant, event_id, exchange, product, {columns})"
    f" SELECT %(tenant)s, 'row-' || n, 'coinbase', 'BTC-USD', {values} FROM generate_series(1, 2) AS n"
    for table, columns, values in (
        ("ticks", "price, exchange_time, received_time, appended_at", "n, now(), now(), now()"),
        (
            "trades",
            "trade_id, price, size, side, exchange_time, received_time, appended_at",
            "n, 1, 1, 'buy', now(), now(), now()",
        ),
        (
            "stats",
            '"window", at, basis, count, as_of_topic, as_of_partition, as_of_offset, revision, appended_at',
            "'1m', now() - n * interval '1 s', 'ticks', 1, 't', 0, 0, 0, now()",
        ),
        (
            "bars",
            "period, start, open, high, low, close, volume, complete, revision, origin, received_time, appended_at",
            "'1m', date_trunc('minute', now()) - n * interval '1 min', 1, 1, 1, 1, 1, true, 0, 'trades', now(), now()",
        ),
    )
)


@dataclass(frozen=True)
class Bench:
    running: Installation
    tenant: Tenant
    explorer: Explorer

    def schemathesis(self, folder: Path, *arguments: str) -> dict[str, Any]:
        """Let schemathesis call the API, fail with what it has found, and return its report."""
        report = folder / "report.json"
        url = f"http://127.0.0.1:{self.running.api_port}/openapi.json"
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file",
            str(HERE / "schemathesis.toml"),
        ]
        command += ["run", url, "--no-color", "--report", "json", "--report-json-path", str(report), *arguments]
        given = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "SCHEMATHESIS_HOOKS": "tests.contract.hooks",
            "CONTRACT_KEY": self.tenant.key,
            "CONTRACT_TENANT": self.tenant.slug,
        }
        assert subprocess.run(command, cwd=folder, env=given, check=False).returncode == 0, "what it found is above"
        made: dict[str, Any] = json.loads(report.read_text())
        return made


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("document")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as running:
        tenant = running.register("contract")
        _fill(running, tenant)
        document = tenant.call("GET", "/openapi.json")
        yield Bench(running, tenant, Explorer(document, tenant.http, tenant.key, before=_BEFORE))


def _fill(running: Installation, tenant: Tenant) -> None:
    """Let everything that is listed have two pages of one."""
    tenant.subscribe("coinbase", ["BTC-USD"])
    rules = [tenant.create_rule(RULE | {"name": name})["rule_id"] for name in ("first", "second")]
    for rule_id in rules:
        store_alert(running.database, tenant.slug, rule_id)
    with psycopg.connect(running.database.url()) as connection:
        for statement in _TWO_ROWS:
            connection.execute(statement, {"tenant": tenant.slug})
        for number in (1, 2):
            topic = f"ps.{tenant.slug}.events.v1"
            letter = DeadLetter(
                reason="r", message="m", topic=topic, partition=0, offset=number, headers=[], first_seen=0
            )
            connection.execute(
                """INSERT INTO dead_letters
                (tenant, id, reason, message, topic, partition, "offset", first_seen, replays, letter, appended_at)
                VALUES (%s, %s, 'r', 'm', %s, 0, %s, now(), 0, %s, now())""",
                (tenant.slug, f"letter-{number}", topic, number, codec(DeadLetter).encode(letter)),
            )
    hook = {"kind": "webhook", "url": "https://example.com/alerts"}
    for body in ({"name": "a"}, {"name": "b"}):
        tenant.call("POST", "/api/v1/channels", json=body | {"target": hook})
        tenant.call("POST", "/api/v1/kafka-credentials", json=body)
        tenant.call("POST", "/api/v1/keys", json=body | {"role": "viewer"})
        silence = {"matchers": [{"name": "product", "op": "=~", "value": "DOGE-*"}], "comment": body["name"]}
        tenant.call("POST", "/api/v1/silences", json=silence | {"ends_at": "2999-01-01T00:00:00Z"})


def test_every_link_leads_where_it_says(bench: Bench) -> None:
    """Each is followed once, with what the answer before has in it."""
    explorer = bench.explorer
    followed = {str(link): explorer.follow(link) for link in explorer.links if str(link) not in LEAD_NOWHERE}

    refused = {link: called.answer.text for link, called in followed.items() if called.answer.is_error}
    assert refused == {}
    assert {link: found for link, called in followed.items() if (found := explorer.faults(called))} == {}
    assert {str(link) for link in explorer.links} >= LEAD_NOWHERE


def test_what_a_path_names_in_vain_is_answered_as_described(bench: Bench) -> None:
    explorer = bench.explorer
    lost = [explorer.lose(name) for name, (_, path, _) in explorer.operations.items() if "{" in path]

    assert {called.operation: found for called in lost if (found := explorer.faults(called))} == {}
    assert {called.answer.status_code for called in lost} <= {404, 422}


def test_what_can_be_made_leads_to_all_that_can_be_done_with_it(bench: Bench) -> None:
    led = {link.target for link in bench.explorer.links}
    below = {name for name, (_, path, _) in bench.explorer.operations.items() if "{" in path}

    assert below - led == set()


def test_schemathesis_finds_nothing_in_a_moment(bench: Bench, tmp_path: Path) -> None:
    arguments = ("--phases", "examples,stateful", "--generation-deterministic", "--max-examples", "2")

    report = bench.schemathesis(tmp_path, *arguments)

    assert report["operations"]["selected"] == len(bench.explorer.operations)
    assert [report["phases"][name]["status"] for name in ("examples", "stateful")] == ["success"] * 2


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_schemathesis_finds_nothing_in_minutes(bench: Bench, tmp_path: Path) -> None:
    seed = os.environ.get("SEED") or str(secrets.randbelow(2**32))

    report = bench.schemathesis(tmp_path, "--seed", seed, "--max-examples", "50")

    assert report["operations"]["tested"] == report["operations"]["total"] == len(bench.explorer.operations)
    assert report["phases"].keys() >= {"examples", "coverage", "fuzzing", "stateful"}


TAGS: Final = (
    "keys",
    "kafka credentials",
    "rules",
    "channels",
    "alerts",
    "silences",
    "dead letters",
    "schema registry",
)


@pytest.mark.heavy
@pytest.mark.parametrize("tag", TAGS)
def test_schemathesis_finds_nothing_along_the_links_of_a_kind(bench: Bench, tmp_path: Path, tag: str) -> None:
    seed = os.environ.get("SEED") or str(secrets.randbelow(2**32))

    report = bench.schemathesis(
        tmp_path, "--seed", seed, "--phases", "stateful", "--max-examples", "60", "--include-tag", tag
    )

    assert report["phases"]["stateful"]["status"] == "success"
