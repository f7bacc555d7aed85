"""Channels: where a tenant's alerts go, and what became of the messages."""
