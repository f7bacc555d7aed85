"""Rules and subscriptions on a real broker: what was appended before a moment is told once the moment is known."""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pulsestream.core.kafka import BrokerError
from pulsestream.core.topics import RULES, SUBSCRIPTIONS
from pulsestream.local.kafka import EmbeddedKafka
from pulsestream.local.process import free_port
from schemas.control import Change
from streams import ends
from streams.control import Control, Listeners
from streams.ends import Ends
from tests.support.streaming import Streams

LEVEL = {"name": "level", "product": "*", "condition": {"type": "price", "above": 102}}


class Told:
    """What the listeners heard."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self.subscriptions: list[str] = []
        self.failures: list[Exception] = []

    def listeners(self) -> Listeners:
        """Return listeners that note what they are told."""
        rules, subscriptions = _keys_into(self.rules), _keys_into(self.subscriptions)
        return Listeners(rules, lambda _: None, subscriptions, lambda _: None, self.failures.append)


def _keys_into(names: list[str]) -> Callable[[list[Change[Any]]], None]:
    return lambda changes: names.extend(change.key for change in changes)


@pytest.fixture
def streams(broker: EmbeddedKafka, tmp_path: Any, tenant: str) -> Streams:
    return Streams(broker, tmp_path, tenant)


def test_what_was_appended_before_a_moment_is_told_once_the_moment_is_known(streams: Streams) -> None:
    async def run() -> None:
        told, loop = Told(), asyncio.get_running_loop()
        control = Control(
            streams.broker.settings("ps-stream").model_copy(update={"stream_app": streams.app}), told.listeners()
        )
        await control.load()
        for number in range(8):
            rule, product = f"{streams.tenant}-{number}", f"Q{number}-USD"
            await loop.run_in_executor(None, lambda rule=rule: streams.put_rule(rule, LEVEL))  # type: ignore[misc]
            await loop.run_in_executor(None, lambda product=product: streams.subscribe(product, datasets=["ticks"]))  # type: ignore[misc]

            await asyncio.gather(*(control.known_up_to(time.monotonic()) for _ in range(5)))

            assert rule in told.rules
            assert f"{streams.tenant}:{streams.exchange}:{product}" in told.subscriptions
        await control.close()
        assert told.failures == []

    asyncio.run(run())


def test_the_ends_are_the_offsets_after_the_last_records(streams: Streams) -> None:
    async def run() -> None:
        asker = Ends(streams.broker.settings("ps-stream"), "test-ends", (RULES, SUBSCRIPTIONS))
        await asker.start()
        before = await asker.ask()
        streams.put_rule(f"{streams.tenant}-r", LEVEL)
        streams.subscribe("A-USD", "B-USD", datasets=["ticks"])

        after = await asker.ask()
        await asker.close()

        assert (after[RULES] - before[RULES], after[SUBSCRIPTIONS] - before[SUBSCRIPTIONS]) == (1, 2)

    asyncio.run(run())


def test_a_broker_that_is_not_there_is_an_error_and_no_wait_without_end(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        nowhere = streams.broker.settings("ps-stream").model_copy(
            update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"}
        )
        asker = Ends(nowhere, "test-ends", (RULES, SUBSCRIPTIONS))
        with pytest.raises(BrokerError, match="cannot ask"):
            await asker.start()
        monkeypatch.setattr(ends, "ADMIN_TIMEOUT", 0.3)
        with pytest.raises(BrokerError, match="cannot read the ends"):
            await asker.ask()
        await asker.close()

    asyncio.run(run())


def test_a_topic_that_this_user_may_not_see_is_told_by_name(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "ADMIN_TIMEOUT", 1.0)

    async def run() -> None:
        asker = Ends(streams.broker.settings("ps-stream"), "test-ends", (f"ps.{secrets.token_hex(4)}.ticks.v1",))
        await asker.start()
        with pytest.raises(BrokerError, match=r"ticks\.v1"):
            await asker.ask()
        await asker.close()

    asyncio.run(run())


def test_a_question_that_fails_in_whatever_way_is_told_and_whoever_waits_is_too(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wrong(_: Ends) -> None:
        raise ValueError("an answer of a strange shape")

    async def run() -> list[Exception]:
        told = Told()
        control = Control(
            streams.broker.settings("ps-stream").model_copy(update={"stream_app": streams.app}), told.listeners()
        )
        await control.load()
        monkeypatch.setattr(Ends, "ask", wrong)
        async with asyncio.timeout(60):
            with pytest.raises(ValueError, match="strange shape"):
                await control.known_up_to(time.monotonic())
        await control.close()
        return told.failures

    assert [str(error) for error in asyncio.run(run())] == ["an answer of a strange shape"]


def test_whoever_is_closed_while_it_starts_leaves_no_thread_behind(streams: Streams) -> None:
    async def run() -> None:
        settings = streams.broker.settings("ps-stream").model_copy(update={"stream_app": streams.app})
        never_begun = Control(settings, Told().listeners())
        await never_begun.close()
        begun = Control(settings, Told().listeners())
        loading = asyncio.ensure_future(begun.load())
        await asyncio.sleep(0)
        loading.cancel()
        await begun.close()

    asyncio.run(run())
    assert not [thread.name for thread in threading.enumerate() if thread.name in ("questions", "control")]
