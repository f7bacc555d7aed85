"""What the tests of dead letters over the API share: a tenant with topics, and letters such as a sink sends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import psycopg
from confluent_kafka import Producer

from api import keys
from pulsestream.core.kafka import producer_config
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import DeadLetter, Event, Header, dead_letter_id
from tests.support.api import EVENT
from tests.support.e2e import Arrived, Installation, Tenant, eventually, read_topic
from tests.support.sinking import START, event

LETTERS: Final = "/api/v1/dead-letters"
REASON: Final = "unknown_schema"
HEADERS: Final = (Header(name="ce_id", value=b"1"), Header(name="nothing", value=None))


def good(number: int, **fields: object) -> bytes:
    """Return an event that the sink stores."""
    return codec(Event).encode(event(number, **fields))


@dataclass(frozen=True)
class Desk:
    """A tenant whose dead letters a test looks after."""

    running: Installation
    tenant: Tenant

    def topic(self, dataset: str) -> str:
        return tenant_topic(self.tenant.slug, dataset)

    def call(self, method: str, path: str = "", **request: Any) -> Any:
        return self.tenant.call(method, LETTERS + path, **request)

    def letter(self, offset: int, value: bytes | None, **fields: Any) -> DeadLetter:
        """Return a letter of a record on the tenant's events topic, as a sink that knew less would have sent it."""
        letter = DeadLetter(
            reason=REASON, message="schema id 99 was never released here", topic=self.topic("events"), partition=0,
            offset=1_000_000 + offset, key=b"BTC-USD", headers=[*HEADERS], value=value, first_seen=START + offset,
            appended_at=START + offset,
        )  # fmt: skip
        return msgspec.structs.replace(letter, **fields)

    def put(self, letters: Sequence[DeadLetter]) -> list[str]:
        """Send letters to the tenant's topic, wait until the sink has stored them, and return their ids."""
        self.send("dlq", [codec(DeadLetter).encode(letter) for letter in letters])
        ids = [dead_letter_id(letter) for letter in letters]
        eventually(lambda: self._assert_stored(ids))
        return ids

    def send(self, dataset: str, values: Sequence[bytes | None], headers: Any = ()) -> None:
        """Send records to a topic of the tenant, as its Kafka client would."""
        producer = Producer(producer_config(self.running.admin, "test") | {"message.max.bytes": 20_000_000})
        for value in values:
            producer.produce(self.topic(dataset), value, b"BTC-USD", headers=list(headers))
        assert producer.flush(30) == 0

    def replay(self, *ids: str, **more: Any) -> dict[str, Any]:
        """Replay these letters and return the answer's results by id."""
        answer = self.call("POST", "/replay", json={"ids": list(ids)} | more)
        return {result["id"]: result for result in answer["results"]}

    def state(self, letter_id: str) -> str:
        return str(self.call("GET", f"/{letter_id}")["state"])

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.running.database.url(), autocommit=True) as connection:
            return connection.execute(query, (self.tenant.slug,)).fetchall()

    def event_ids(self) -> list[str]:
        return [row[0] for row in self.rows("SELECT event_id FROM events WHERE tenant = %s ORDER BY 1")]

    def records(self, value: bytes | None) -> list[Arrived]:
        """Return the records on the events topic that have this value."""
        return [one for one in read_topic(self.running.admin, self.topic("events")) if one.value == value]

    def letters_told(self) -> list[Arrived]:
        """Return what the tenant's dead-letter topic holds."""
        return read_topic(self.running.admin, self.topic("dlq"))

    def refused_replays(self, letter_id: str) -> list[str]:
        return list(self.call("GET", f"/{letter_id}")["refused_replays"])

    def viewer(self) -> Tenant:
        """Return the tenant with a key that may only read."""
        key = keys.generate()
        with psycopg.connect(self.running.database.url()) as connection:
            connection.execute(
                "INSERT INTO api_keys (tenant, id, name, role, hmac, pepper_version)"
                " VALUES (%s, %s, 'v', 'viewer', %s, 1)",
                (self.tenant.slug, key.id, keys.digest(key, b"pepper-of-the-tests")),
            )
        return Tenant(self.tenant.slug, key.text, self.tenant.http)

    def _assert_stored(self, ids: Sequence[str]) -> None:
        held = {row[0] for row in self.rows("SELECT id FROM dead_letters WHERE tenant = %s")}
        assert held >= set(ids), f"{len(set(ids) - held)} letters are not stored"


def open_desk(running: Installation) -> Desk:
    """Register a tenant and bring its topics about."""
    tenant = running.register("desk")
    tenant.call("POST", "/api/v1/ingestion/events", json=EVENT)
    return Desk(running, tenant)
