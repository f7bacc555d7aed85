"""Makes the topics that tenants asked for: compares `tenant_topics` with the broker and closes the difference.

provisioning -> active (topic and its id known), or -> refused with a detail that says what to do. Output topics come
before input topics. A topic that vanished is marked, never made again: a slug's topics have one life. Every step can be
repeated, and a crash anywhere is mended by the next pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from api.relay_database import Connection, execute, fetch_all
from pulsestream.core.kafka import Admin, TopicInfo, TopicSpec
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings
from pulsestream.core.topics import OUTPUT_DATASETS, parse_tenant_topic

SAME_COUNT: Final = frozenset({"ticks", "own-ticks", "trades"})
"""Datasets whose topics must all have the same number of partitions: the streams rely on it."""
_CHUNK: Final = 200
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic that a tenant asked for, and how it should be."""

    tenant: str
    dataset: str
    spec: TopicSpec


@dataclass(frozen=True, slots=True)
class Refusal:
    """A topic that will not be made, and why."""

    wanted: Wanted
    detail: str


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """What to do on the broker: `outputs` before `inputs`; both are to be made or found there."""

    outputs: list[Wanted]
    inputs: list[Wanted]
    refused: list[Refusal]


def plan_topics(wanted: Sequence[Wanted], existing: Mapping[str, int], budget: int) -> TopicPlan:
    """Decide what is made, given the topics that exist (name to partitions) and the budget for all tenants' together.

    A tenant's topics are made together or not at all; whoever asked first is served first.
    """
    used = sum(count for name, count in existing.items() if parse_tenant_topic(name))
    plan = TopicPlan([], [], [])
    for _, group in groupby(wanted, key=lambda topic: topic.tenant):
        topics = list(group)
        needed = sum(topic.spec.partitions for topic in topics if topic.spec.name not in existing)
        if needed and used + needed > budget:
            plan.refused.extend(Refusal(topic, _over_budget(used, needed, budget)) for topic in topics)
            continue
        used += needed
        for topic in topics:
            (plan.outputs if topic.dataset in OUTPUT_DATASETS else plan.inputs).append(topic)
    return plan


def wrong_partitions(wanted: Wanted, info: TopicInfo) -> str | None:
    """Return why an existing topic cannot serve, or None."""
    if wanted.dataset not in SAME_COUNT or info.partitions == wanted.spec.partitions:
        return None
    return (
        f"topic {info.name} has {info.partitions} partitions, PULSESTREAM_PARTITIONS is {wanted.spec.partitions}: "
        f"every {wanted.dataset} topic of an installation has the same count. Delete the topic, or correct the setting"
    )


class Reconciler:
    """Brings the broker to what the database says. Used by one thread."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._admin = Admin(settings, "ps-relay-topics")
        self._missed: set[tuple[str, str]] = set()

    def provision(self, *, again: bool = False) -> bool:
        """Make what was asked for, with `again` also what was refused; returns whether some are still to be seen.

        Raises BrokerError; what was done until then stands.
        """
        wanted = self._wanted(again=again)
        if not wanted:
            return False
        plan = plan_topics(wanted, self._admin.topics(), self._settings.partition_budget)
        for refusal in plan.refused:
            self._refuse(refusal)
        seen = [self._make(topics) for topics in (plan.outputs, plan.inputs)]
        return not all(seen)

    def verify(self) -> None:
        """Look whether every topic that was made still lives, and mark those that do not; raises BrokerError."""
        rows = fetch_all(self._connection, "topics_made")
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            names = {(row["tenant"], row["dataset"]): self._name(row["tenant"], row["dataset"]) for row in chunk}
            infos = self._admin.describe(names.values())
            for row in chunk:
                place = (row["tenant"], row["dataset"])
                self._verify_one(place, row["status"], row["topic_id"], infos.get(names[place]))

    def _verify_one(self, place: tuple[str, str], status: str, topic_id: str, info: TopicInfo | None) -> None:
        tenant, dataset = place
        if info is not None and info.topic_id == topic_id:
            self._missed.discard(place)
            if status == "refused":
                execute(self._connection, "mark_active", tenant=tenant, dataset=dataset, topic_id=topic_id)
        elif status == "active" and place not in self._missed:
            self._missed.add(place)  # one broker may not know the newest topics yet: look twice
        elif status == "active":
            self._missed.discard(place)
            detail = _vanished(self._name(tenant, dataset), topic_id, info)
            _log.error("tenant topic vanished", tenant=tenant, dataset=dataset, detail=detail)
            execute(self._connection, "mark_refused", tenant=tenant, dataset=dataset, detail=detail)

    def _make(self, topics: Sequence[Wanted]) -> bool:
        seen = 0
        for chunk in _chunks(topics):
            created = self._admin.create([topic.spec for topic in chunk])
            if created:
                _log.info("topics made", topics=created)
            infos = self._admin.describe([topic.spec.name for topic in chunk])
            for topic in chunk:
                info = infos.get(topic.spec.name)
                if info is not None and info.partitions:
                    seen += 1
                    self._adopt(topic, info)
        return seen == len(topics)

    def _adopt(self, topic: Wanted, info: TopicInfo) -> None:
        detail = wrong_partitions(topic, info)
        if detail is not None:
            self._refuse(Refusal(topic, detail))
            return
        execute(self._connection, "mark_active", tenant=topic.tenant, dataset=topic.dataset, topic_id=info.topic_id)

    def _refuse(self, refusal: Refusal) -> None:
        topic = refusal.wanted
        _log.warning("tenant topic refused", tenant=topic.tenant, dataset=topic.dataset, detail=refusal.detail)
        execute(self._connection, "mark_refused", tenant=topic.tenant, dataset=topic.dataset, detail=refusal.detail)

    def _wanted(self, *, again: bool) -> list[Wanted]:
        rows = fetch_all(self._connection, "topics_to_make", again=again)
        first: dict[str, int] = {}
        for index, row in enumerate(rows):
            first.setdefault(row["tenant"], index)
        rows.sort(key=lambda row: first[row["tenant"]])
        return [
            Wanted(row["tenant"], row["dataset"], tenant_topic_spec(self._settings, row["tenant"], row["dataset"]))
            for row in rows
        ]

    def _name(self, tenant: str, dataset: str) -> str:
        return tenant_topic_spec(self._settings, tenant, dataset).name


def _chunks(topics: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    return (topics[start : start + _CHUNK] for start in range(0, len(topics), _CHUNK))


def _over_budget(used: int, needed: int, budget: int) -> str:
    return (
        f"{needed} more partitions are needed and {used} of {budget} are used: raise PULSESTREAM_PARTITION_BUDGET, if "
        "the brokers can carry more"
    )


def _vanished(name: str, topic_id: str, info: TopicInfo | None) -> str:
    now = "does not exist any more" if info is None else f"was made again as {info.topic_id}"
    return (
        f"topic {name} ({topic_id}) {now}: someone deleted it. Its records are gone, and it is not made again: "
        "register another tenant"
    )
