"""What becomes of events, with a producer that answers as told."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError

from api.errors import Problem
from api.ingestion.events import Accepted
from api.ingestion.publisher import Deliveries, QueueFullError
from api.ingestion.service import Ingestion
from schemas.records import Event

NOW = 1_618_677_817_056_746
SILENT = object()


class Gate:
    """Lets every tenant through and remembers doubts."""

    def __init__(self) -> None:
        self.doubted: list[str] = []

    def is_open(self, tenant: str) -> bool:
        return tenant == "acme"

    def doubt(self, tenant: str) -> None:
        self.doubted.append(tenant)


class Reports:
    """Gives each record the next report; SILENT: never, QueueFullError: no room."""

    def __init__(self, *reports: Any) -> None:
        self._reports = list(reports)

    def deliveries(self, count: int) -> Deliveries:
        loop = asyncio.get_running_loop()
        made = Deliveries(loop, count)
        loop.call_later(0.01, made.give_up)
        return made

    def queue(self, _topic: str, records: Sequence[object], deliveries: Deliveries) -> int:
        for index in range(len(records)):
            report = self._reports.pop(0)
            if report is QueueFullError:
                deliveries.leave_out(len(records) - index)
                return index
            if report is not SILENT:
                deliveries.settle(index, report)
        return len(records)

    def fill(self) -> str:
        return "3 records wait for the broker"


def accepted(number: int) -> Accepted:
    return Accepted(
        str(number), Event(event_id=f"s:{number}", type="t", source="s", time=NOW, received_time=NOW, data="1")
    )


def outcomes(*reports: Any) -> tuple[list[str], Gate]:
    gate = Gate()
    ingestion = Ingestion(Reports(*reports), gate)  # type: ignore[arg-type] # as told
    events = [accepted(number) for number in range(len(reports))]
    found = asyncio.run(ingestion.publish("acme", events))
    return [outcome.status for outcome in found], gate


def test_only_what_the_broker_confirmed_is_accepted() -> None:
    timed_out = KafkaError(KafkaError._MSG_TIMED_OUT)

    found, gate = outcomes(None, timed_out, None)

    assert found == ["accepted", "unknown", "accepted"]
    assert gate.doubted == ["acme"]


def test_an_event_that_no_topic_takes_is_rejected_for_good() -> None:
    assert outcomes(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))[0] == ["rejected"]


def test_a_report_that_never_comes_is_unknown() -> None:
    assert outcomes(None, SILENT)[0] == ["accepted", "unknown"]


def test_what_did_not_fit_into_the_queue_is_unknown_and_what_did_is_waited_for() -> None:
    assert outcomes(None, QueueFullError, None)[0] == ["accepted", "unknown", "unknown"]


def test_a_full_queue_that_takes_nothing_is_503_with_a_time_to_come_back() -> None:
    with pytest.raises(Problem) as raised:
        outcomes(QueueFullError)

    assert (raised.value.status, raised.value.code) == (503, "overloaded")
    assert raised.value.headers["Retry-After"] == "1"


def test_all_accepted_leaves_no_doubt_about_the_topics() -> None:
    assert outcomes(None, None)[1].doubted == []
