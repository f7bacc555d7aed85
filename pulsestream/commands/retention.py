"""`pulsestream retention`: what is no longer kept, by table and tenant, and what became of it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from api.relay_database import connect
from api.retention import plan, service
from api.retention.service import Report
from pulsestream.commands.shown import table
from pulsestream.core.settings import Settings

_HOUR: Final = timedelta(hours=1)
_MEBIBYTE: Final = 1024 * 1024


def retire(settings: Settings, now: datetime, *, dry_run: bool) -> str:
    """Run retention once, or try it, and return what to show; raises OutageError and SettingsError."""
    with connect(settings, "pulsestream-retention") as connection:
        report = service.run(connection, settings, now, dry_run=dry_run)
    return "\n".join([*_kept(settings), "", *_removed(report, dry_run=dry_run), *_spans(report, dry_run=dry_run)])


def _kept(settings: Settings) -> Iterator[str]:
    tiers = [f"{tier} {_days(period)}" for tier, period in plan.periods(settings).items()]
    yield f"kept: {', '.join(tiers)}; ids of events {_days(plan.ids_kept(settings))}"


def _removed(report: Report, *, dry_run: bool) -> Iterator[str]:
    if not report.removed:
        yield "nothing is older than that"
        return
    head = ("table", "tenant", "rows", "chunks", "MiB")
    rows = [
        (*named, f"{removed.rows:,}", str(removed.chunks or ""), _mebibytes(removed.octets))
        for named, removed in sorted(report.removed.items())
    ]
    yield table(head, rows, frozenset(head[2:])).rstrip()
    total = sum(removed.rows for removed in report.removed.values())
    yield f"{total:,} rows {'would go' if dry_run else 'are gone'}, {report.chunks} chunks whole"
    if report.held:
        yield f"{report.held} chunks are in use: run it again"


def _spans(report: Report, *, dry_run: bool) -> Iterator[str]:
    for span in report.spans:
        if span.fitting is None:
            yield f"{span.table}: chunks of {_hours(span.present)}; its rate is not known yet"
        elif span.fitting != span.present:
            done = "would be" if dry_run else "are now"
            yield f"{span.table}: new chunks {done} of {_hours(span.fitting)} for the rate, not {_hours(span.present)}"


def _days(period: timedelta | None) -> str:
    return "for ever" if period is None else f"{period.days} days"


def _hours(span: timedelta) -> str:
    return f"{span / _HOUR:g} h"


def _mebibytes(octets: float) -> str:
    return "" if not octets else f"{octets / _MEBIBYTE:,.1f}"
