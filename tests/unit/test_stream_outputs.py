"""Whose fault it is that an output was not taken: its tenant's topic's, or the broker's."""

import asyncio

import pytest
from confluent_kafka import KafkaError

from pulsestream.core.settings import Settings
from streams.outputs import Outputs, Receipt


def blamed(code: int) -> list[str]:
    """Return who is told of a record that was refused with this code: the tenant, or the worker as a whole."""

    async def report() -> list[str]:
        told: list[str] = []
        settings = Settings(kafka_bootstrap="127.0.0.1:1", kafka_security="PLAINTEXT")
        outputs = Outputs(settings, lambda tenant, _: told.append(tenant), lambda _: told.append("worker"))
        outputs._report(Receipt("acme", asyncio.get_running_loop()), KafkaError(code), None)
        await asyncio.sleep(0)
        return told

    return asyncio.run(report())


@pytest.mark.parametrize("code", [KafkaError._UNKNOWN_PARTITION, KafkaError._DESTROY, KafkaError.MSG_SIZE_TOO_LARGE])
def test_a_topic_that_is_gone_or_too_small_parks_its_tenant_alone(code: int) -> None:
    assert blamed(code) == ["acme"]


@pytest.mark.parametrize("code", [KafkaError._MSG_TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._FATAL])
def test_what_only_the_broker_explains_ends_the_worker(code: int) -> None:
    assert blamed(code) == ["worker"]
