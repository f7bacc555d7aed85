"""Reports of errors to Sentry, or what speaks its protocol, where PULSESTREAM_SENTRY_DSN names one; nothing otherwise.

What the log has as an error is a report: its phrase, fields and the exception behind it, masked as in the log, with
process, tenant and request id as tags; so is what ends a process. Nothing else is sent: no bodies and headers of
requests, no variables of frames, no breadcrumbs. `sentry-sdk` (the extra `sentry`) is imported only for a DSN.
"""

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from structlog.typing import EventDict, WrappedLogger

from pulsestream.core.errors import SettingsError
from pulsestream.core.log import masked_fields

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

_TAGS: Final = ("process", "tenant", "request_id")
_LEVELS: Final = {"error": "error", "exception": "error", "critical": "fatal"}
_OWN: Final = ("sentry_sdk", "urllib3")
"""Loggers of what sends the reports: they are not reported."""
_WITHIN: Final = 2.0
"""Seconds that a process which ends gives its last reports."""

Report = Callable[[WrappedLogger, str, EventDict], EventDict]


def reporting(dsn: str, process: str, release: str) -> Report | None:
    """Return what the log passes its events through, None without a DSN.

    Raises SettingsError for a DSN that is none, and where sentry-sdk is not installed.
    """
    if not dsn:
        return None
    try:
        import sentry_sdk  # noqa: PLC0415 - an extra: asked for only when it is used
        from sentry_sdk.integrations.atexit import AtexitIntegration  # noqa: PLC0415 - likewise
        from sentry_sdk.utils import BadDsn  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise SettingsError(
            "PULSESTREAM_SENTRY_DSN is set, and sentry-sdk is not installed: pip install 'pulsestream[sentry]', or "
            "leave the setting empty"
        ) from error
    try:
        sentry_sdk.init(
            dsn,
            release=release,
            server_name=process,
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[AtexitIntegration(callback=lambda _pending, _timeout: None)],
            before_send=_masked,
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            auto_session_tracking=False,
            shutdown_timeout=_WITHIN,
        )
    except BadDsn as error:
        raise SettingsError(
            "PULSESTREAM_SENTRY_DSN=(hidden) is wrong: it is no DSN; write it as https://KEY@HOST/PROJECT, or leave it "
            "empty"
        ) from error
    sentry_sdk.set_tag("process", process)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # four lines for a report that did not arrive
    return _reported


def report_end(error: BaseException) -> None:
    """Report what ends this process, and wait until that is sent, or for two seconds; without a DSN do nothing."""
    sentry_sdk = sys.modules.get("sentry_sdk")
    if sentry_sdk is not None:
        sentry_sdk.capture_exception(error, level="fatal")
        sentry_sdk.flush(_WITHIN)


def _reported(_: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Report an event of the log that is an error."""
    import sentry_sdk  # noqa: PLC0415 - it is there, or nobody had this function

    level = _LEVELS.get(name)
    record = event.get("_record")
    if level is None or (record is not None and record.name.startswith(_OWN)):
        return event
    sentry_sdk.capture_event(_event(level, event))
    if level == "fatal":  # the process ends, and may do so without further ado
        sentry_sdk.flush(_WITHIN)
    return event


def _event(level: str, event: EventDict) -> "Event":
    import sentry_sdk  # noqa: PLC0415 - likewise
    from sentry_sdk.utils import event_from_exception  # noqa: PLC0415 - likewise

    fields = {name: value for name, value in event.items() if not name.startswith("_")}
    exception = _exception(fields.pop("exc_info", None))
    made: dict[str, Any] = {}
    if exception is not None:
        made = dict(event_from_exception(exception, client_options=sentry_sdk.get_client().options)[0])
    message = {"message": str(fields.pop("event", ""))}
    tags = {name: str(fields.pop(name)) for name in _TAGS if fields.get(name) is not None}
    extra = {name: value for name, value in fields.items() if name not in {"level", "timestamp", *_TAGS}}
    return cast("Event", made | {"level": level, "logentry": message, "tags": tags, "extra": extra})


def _exception(given: object) -> BaseException | None:
    """Return the exception that a log call names: itself, in a triple, or the one that is being handled."""
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return cast(BaseException | None, given[1])
    return sys.exc_info()[1] if given else None


def _masked(event: "Event", _: "Hint") -> "Event":
    return cast("Event", masked_fields(cast(dict[str, Any], event)))
