"""What a request can end in besides an answer."""

from collections.abc import Mapping
from typing import Any

from pulsestream.core.errors import OutageError, UsageError


class ApiError(UsageError):
    """The API refused a request; to send it again as it is would not help.

    `code` is the end of the problem's type (such as "not-found"), `document` the whole problem (RFC 9457).
    """

    def __init__(self, status: int, document: Mapping[str, Any], text: str) -> None:
        self.status = status
        self.code = str(document.get("type", "")).rpartition(":")[2]
        self.document = document
        said = str(document.get("detail") or text[:200] or f"status {status}")
        faults = [
            f"{one['pointer']} {one['message']}" for one in document.get("errors", ()) if one["message"] not in said
        ]
        super().__init__("; ".join([f"{document.get('title', 'refused')}: {said}", *faults]))


class UnavailableError(OutageError):
    """No answer, or one of 5xx, however often the request was made. What it asked for may have happened or not."""
