"""What may be sent again, in which parts, and what became of it. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import KafkaError

from api.dead_letters.repository import LetterRow
from api.ingestion.publisher import Report
from pulsestream.core.topics import parse_tenant_topic
from schemas.records import DeadLetter
from schemas.validate import Fault

MAX_REPLAYS: Final = 5
"""How often a record can be sent again in all, however many letters its refusals make."""
HELD_BYTES: Final = 8 * 1024 * 1024
"""Bytes of records that are held, and sent, in one transaction."""
_REFUSED: Final = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.TOPIC_AUTHORIZATION_FAILED}
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request made of a letter; `reason` is a code of dead letters, `message` says why in words.

    replayed            the broker has the record again
    would_succeed       a trial: the sink would store it now
    would_be_refused    the sink would refuse it now, with this reason; it stays open
    too_many_replays    it was sent again often enough; it stays open
    failed              the broker refuses it; it stays open
    unknown             the broker did not say; it stays open, and sending it again has one effect
    busy                another request has it in hand
    discarded           it is discarded now
    already_replayed, already_discarded
    """

    id: str
    outcome: str
    reason: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of each letter; `next_cursor` goes on with the filter's next ones, None: there are no more."""

    results: list[Outcome]
    next_cursor: str | None
    dry_run: bool = False
    counts: dict[str, int] = field(default_factory=dict)


def groups(rows: Sequence[LetterRow]) -> Iterator[list[LetterRow]]:
    """Split letters so that the records of each part fit in memory together."""
    group: list[LetterRow] = []
    held = 0
    for row in rows:
        size = row.size or 0
        if group and held + size > HELD_BYTES:
            yield group
            group, held = [], 0
        group.append(row)
        held += size
    if group:
        yield group


def barred(tenant: str, letter_id: str, letter: DeadLetter, fault: Fault | None, *, force: bool) -> Outcome | None:
    """Return why a letter is not to be sent, or None; `force` sends a record that the sink would refuse."""
    source = parse_tenant_topic(letter.topic)
    if source is None or source.tenant != tenant or source.dataset == "dlq":
        return Outcome(letter_id, "would_be_refused", "unknown_topic", f"topic {letter.topic} is not this tenant's")
    if letter.replays >= MAX_REPLAYS:
        said = f"sent again {letter.replays} times, refused each time: correct it at its source, discard this letter"
        return Outcome(letter_id, "too_many_replays", letter.reason, said)
    if fault is not None and (letter.omitted or not force):
        return Outcome(letter_id, "would_be_refused", fault.code, fault.message)
    return None


def sent(letter_id: str, report: Report) -> Outcome:
    """Return what a delivery report says of a letter's record."""
    if report is None:
        return Outcome(letter_id, "replayed")
    outcome = "failed" if report.code() in _REFUSED else "unknown"
    return Outcome(letter_id, outcome, message=f"{report.str()} ({report.name()})")


def not_sent(letter_id: str) -> Outcome:
    """Return the outcome of a letter whose record found no room in the queue."""
    return Outcome(letter_id, "failed", message="not sent: too many records wait for the broker; try again")


def gone(letter_id: str) -> Outcome:
    """Return the outcome of a letter that was removed for its age in the very moment."""
    return Outcome(letter_id, "failed", message="it was removed for its age just now")


def done(results: list[Outcome], next_cursor: str | None, *, dry_run: bool = False) -> Done:
    """Return the answer of a request, with its counts."""
    counts: dict[str, int] = {}
    for result in results:
        counts[result.outcome] = counts.get(result.outcome, 0) + 1
    return Done(results, next_cursor, dry_run, counts)
