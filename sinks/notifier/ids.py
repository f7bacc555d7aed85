"""Ids of messages: unique, and in the order of their making."""

import secrets


def message_id(now: int) -> str:
    """Return a new id made at `now` (microseconds since 1970)."""
    return f"msg_{now:014x}{secrets.token_hex(8)}"
