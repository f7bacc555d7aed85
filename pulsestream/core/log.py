"""Structured logs: one JSON object a line in production, coloured columns on a terminal.

Every event is a constant phrase with fields beside it; secrets are masked by the name of their field.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_SECRET_NAME: Final = re.compile(r"password|secret|pepper|token|api_?key|authorization", re.IGNORECASE)
_SECRET_VALUE: Final = re.compile(r"ps_(?:live|invite)_[0-9A-Za-z]+_[0-9A-Za-z_]+|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")
_MASK: Final = "***"


def configure(
    process: str,
    level: str = "info",
    log_format: Literal["json", "console"] = "json",
    *,
    report: Processor | None = None,
) -> None:
    """Set up structlog for one process and send the standard library's records the same way, to stderr.

    `report` sees every event with its exception, before it is masked.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if report is None else [report]),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    renderer = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)


def logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a module."""
    bound: FilteringBoundLogger = structlog.get_logger(name)
    return bound


def masked(text: str) -> str:
    """Return a text without the API keys, the invitations and the credentials of URLs in it."""
    return _SECRET_VALUE.sub(_MASK, text)


def mask_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace the values of secret-sounding fields, and API keys and URL credentials in any text, however deep."""
    return masked_fields(event)


def masked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields in which nothing is secret, however deep."""
    return {name: _masked_field(name, value) for name, value in fields.items()}


def _masked_field(name: object, value: object) -> object:
    return _MASK if isinstance(name, str) and _SECRET_NAME.search(name) else _masked_value(value)


def _masked_value(value: object) -> object:
    """Return a value of a field; what is neither text nor made of others stays, and shows as its own `repr`."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {name: _masked_field(name, each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked_value(each) for each in value]
    if isinstance(value, bytes | BaseException):
        return masked(repr(value))
    return value
