"""Logins to the broker: made, listed, shown, rotated and revoked over the HTTP API."""

import json
from typing import Final, Literal, TextIO, TypeAlias

from pulsestream.client import Client
from pulsestream.client.objects import MadeKafkaCredential
from pulsestream.commands.shown import listing, printable
from pulsestream.core.errors import UsageError

Program: TypeAlias = Literal["python", "kcat", "java"]
_COLUMNS: Final = ("id", "username", "name", "state", "created_at", "expires_at")
_TOPICS: Final = ("topic", "status", "may", "detail")


def create(
    api: Client, name: str, expires_at: str | None, program: Program | None, *, as_json: bool, out: TextIO
) -> None:
    """Make a login and write its password, once: alone, or in a client that is ready to use."""
    _write_made(api.kafka_credentials.create(name, expires_at=expires_at), program, as_json=as_json, out=out)


def rotate(
    api: Client, login: str, overlap: int | None, program: Program | None, *, as_json: bool, out: TextIO
) -> None:
    """Make a login in the place of another and write its password, once."""
    made = api.kafka_credentials.rotate(_id(login), overlap_seconds=overlap)
    _write_made(made, program, as_json=as_json, out=out)


def listed(api: Client, *, ended: bool, as_json: bool, out: TextIO) -> None:
    """Write the tenant's logins, the newest first."""
    listing(api.kafka_credentials.list(ended=ended), _COLUMNS, as_json=as_json, out=out)


def show(api: Client, login: str, *, as_json: bool, out: TextIO) -> None:
    """Write a login, where the broker is, and the tenant's topics."""
    found = api.kafka_credentials.get(_id(login))
    if as_json:
        out.write(json.dumps(found, ensure_ascii=False) + "\n")
        return
    there = found["connection"]
    out.write(printable(f"{found['username']}: {found['name']}, {found['state']}") + "\n")
    out.write(f"broker {there['bootstrap_servers']}, {there['security_protocol']}, {there['sasl_mechanism']}; ")
    out.write(f"names of consumer groups begin with {there['group_prefix']}\n\n")
    listing(there["topics"], _TOPICS, as_json=False, out=out)


def revoke(api: Client, login: str) -> str:
    """Revoke a login; return what to show."""
    api.kafka_credentials.revoke(_id(login))
    return f"login {login} revoked: the broker refuses it within seconds, also to clients that are connected"


def _write_made(made: MadeKafkaCredential, program: Program | None, *, as_json: bool, out: TextIO) -> None:
    if as_json:
        out.write(json.dumps(made, ensure_ascii=False) + "\n")
    elif program is not None:
        out.write(made["clients"][program].rstrip("\n") + "\n")
    else:
        broker = made["connection"]
        end = made["expires_at"] or "it is revoked"
        out.write(f"login {made['id']}, until {end}: user {made['username']} at {broker['bootstrap_servers']} ")
        out.write(f"({broker['security_protocol']}, {broker['sasl_mechanism']}). Its password, shown this once:\n")
        out.write(f"{made['password']}\n")


def _id(text: str) -> str:
    if text.startswith("t."):
        return text.rpartition(".")[2]  # the user's name, which ends with it
    if not (text.isascii() and text.isalnum()):
        raise UsageError(f"{text!r} is no id of a login: `pulsestream kafka-credentials list` shows them")
    return text
