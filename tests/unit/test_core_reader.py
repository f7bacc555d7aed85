"""A control topic while its broker is away."""

import pytest

from pulsestream.core.kafka import CompactedReader
from pulsestream.core.settings import Settings


def test_a_broker_that_is_away_is_not_complained_about_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    reader = CompactedReader(Settings(kafka_bootstrap="127.0.0.1:1", kafka_security="PLAINTEXT"), "topic", "ps-test")
    try:
        assert reader.poll(1.0) == []
    finally:
        reader.close()

    assert capfd.readouterr().err == ""
