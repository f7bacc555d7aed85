"""Headers of a data record: CloudEvents binary mode (CloudEvents "Kafka Protocol Binding", section 3.2)."""

from pulsestream.core.clock import format_rfc3339

Headers = list[tuple[str, bytes]]


def cloud_event(event_id: str, event_type: str, source: str, time: int) -> Headers:
    """Return the CloudEvents headers of a record; `time` is its event time in microseconds."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", format_rfc3339(time).encode()),
        ("content-type", b"application/avro"),
    ]
