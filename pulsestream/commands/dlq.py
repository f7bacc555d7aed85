"""Dead letters over the HTTP API: list, show, replay, discard. What the command line does, any HTTP client can."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, Final, Literal, TextIO, TypeAlias

from pulsestream.client import Client
from pulsestream.client.dead_letters import PAGE
from pulsestream.commands.shown import printable
from pulsestream.core.errors import UsageError

Settled: TypeAlias = Literal["replay", "discard"]
_AT_ONCE: Final = 100
"""Letters in a request."""
_FILTERS: Final = ("reason", "topic", "key", "from", "to")
_STATES: Final = ("open", "replayed", "discarded", "any")
_WELL: Final = frozenset({"replayed", "discarded", "already_replayed", "already_discarded", "would_succeed"})
_ROW: Final = "{id:32}  {first_seen:27}  {state:9}  {reason:20}  {origin}  {key}"


def parse_where(conditions: Sequence[str], *extra: str) -> dict[str, str]:
    """Return the filters in conditions such as reason=undecodable; `extra` names are taken too. Raises UsageError."""
    names = (*_FILTERS, *extra)
    found: dict[str, str] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals or name not in names:
            raise UsageError(f"--where {condition!r} is not NAME=VALUE with a name of {', '.join(names)}")
        if name in found:
            raise UsageError(f"--where names {name} twice: run the command once for each")
        found[name] = value
    if found.get("state", "open") not in _STATES:
        raise UsageError(f"state {found['state']!r} is none of {', '.join(_STATES)}")
    return found


def listed(
    api: Client, where: Mapping[str, str], limit: int, *, oldest_first: bool, as_json: bool, out: TextIO
) -> None:
    """Write the letters of a filter, one a line, up to `limit` (0: all)."""
    if not as_json:
        out.write(_ROW.format(**_HEADINGS) + "\n")
    letters = api.dead_letters.list(order="asc" if oldest_first else "desc", page=min(limit or PAGE, PAGE), **where)
    out.writelines(_shown(letter, _line, as_json=as_json) for letter in islice(letters, limit or None))


def show(api: Client, letter_id: str, *, as_json: bool, out: TextIO) -> None:
    """Write a letter with what its record holds."""
    letter = api.dead_letters.get(_id(letter_id))
    lines = [letter] if as_json else _described(letter)
    out.writelines(_shown(line, str, as_json=as_json) for line in lines)


def show_bytes(api: Client, letter_id: str, out: BinaryIO) -> None:
    """Write the bytes of the record's value as they were; raises UsageError where the letter has none."""
    value = api.dead_letters.get(_id(letter_id))["value"]
    if value is None:
        raise UsageError(f"dead letter {letter_id} has no value: it was null, or too large for a letter")
    out.write(base64.b64decode(value["base64"]))


@dataclass(frozen=True, slots=True)
class Chosen:
    """Letters by their ids, or the open ones of a filter."""

    ids: Sequence[str]
    where: Mapping[str, str]

    @staticmethod
    def of(ids: Sequence[str], where: Mapping[str, str], *, everything: bool) -> "Chosen":
        """Return the choice; raises UsageError unless exactly one way of choosing is used."""
        if (bool(ids) + bool(where) + everything) != 1:
            raise UsageError("say which dead letters: their ids, or --where NAME=VALUE, or --all; one of these")
        return Chosen(tuple(dict.fromkeys(ids)), where)

    def pages(self, api: Client, how: Settled, more: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Send the requests that this choice takes and yield their answers."""
        if self.ids:
            for first in range(0, len(self.ids), _AT_ONCE):
                yield api.dead_letters.settle(how, {"ids": self.ids[first : first + _AT_ONCE], **more})
            return
        cursor = None
        while True:
            answer = api.dead_letters.settle(
                how, {"where": {**self.where}, "limit": _AT_ONCE, "cursor": cursor, **more}
            )
            yield answer
            cursor = answer["next_cursor"]
            if cursor is None:
                return


def settle(
    api: Client, how: Settled, chosen: Chosen, more: Mapping[str, Any], *, as_json: bool, out: TextIO, err: TextIO
) -> bool:
    """Replay or discard letters page by page and write what became of them; return whether all went well.

    Progress goes to `err`; what did not go well is a line each, with `as_json` every letter is.
    """
    counts: Counter[str] = Counter()
    progress = _Progress(err)
    for page in chosen.pages(api, how, more):
        for result in page["results"]:
            counts[result["outcome"]] += 1
            if as_json or result["outcome"] not in _WELL:
                progress.end()
                out.write(_shown(result, _outcome, as_json=as_json))
        out.flush()
        progress.say(_summary(counts))
    progress.end()
    (err if as_json else out).write(_summary(counts) + "\n")
    return counts.keys() <= _WELL


class _Progress:
    """How far it is, as a line that is wiped; silent where there is no terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shows = out.isatty()

    def say(self, text: str) -> None:
        self._write(f"\r\x1b[K{text} …")

    def end(self) -> None:
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if self._shows:
            self._out.write(text)
            self._out.flush()


_HEADINGS: Final = {
    "id": "ID", "first_seen": "REFUSED FIRST", "state": "STATE", "reason": "REASON", "origin": "READ AT", "key": "KEY"
}  # fmt: skip


def _shown(thing: Any, words: Callable[[Any], str], *, as_json: bool) -> str:
    """Return a line of JSON, or of words in which nothing can command a terminal."""
    if as_json:
        return json.dumps(thing, ensure_ascii=False) + "\n"
    return printable(words(thing)) + "\n"


def _line(letter: Mapping[str, Any]) -> str:
    named = {name: letter[name] for name in ("id", "first_seen", "state", "reason")}
    return _ROW.format(**named, origin=_origin(letter), key=letter["key"] or "-").rstrip()


def _described(letter: Mapping[str, Any]) -> Iterator[str]:
    yield f"dead letter {letter['id']}, {letter['state']}"
    yield f"  refused      {letter['first_seen']} as {letter['reason']}: {letter['message']}"
    yield f"  read at      {_origin(letter)}, key {_bytes(letter['record_key'])}"
    if letter["replay_of"]:
        yield f"  a replay of  {letter['replay_of']}, number {letter['replays']}"
    if letter["settled_at"]:
        because = f": {letter['settled_reason']}" if letter["settled_reason"] else ""
        yield f"  {letter['state']:11}  {letter['settled_at']} with key {letter['settled_by']}{because}"
    for again in letter["refused_replays"]:
        yield f"  its replay   was refused again: {again}"
    for header in letter["headers"]:
        yield f"  header       {header['name']} = {_bytes(header['value'])}"
    yield f"  value        {_size(letter)}"
    if letter["value"]:
        yield f"  base64       {letter['value']['base64']}"
    record = letter["record"]
    if record["fields"] is None:
        yield f"  record       cannot be decoded: {record['error']}"
    else:
        yield "  record       " + json.dumps(record["fields"], ensure_ascii=False)


def _size(letter: Mapping[str, Any]) -> str:
    if letter["omitted"]:
        return f"left out: {letter['omitted']} bytes are too many for a letter"
    return "null" if letter["size"] is None else f"{letter['size']} bytes"


def _bytes(shown: Mapping[str, Any] | None) -> str:
    if shown is None:
        return "null"
    return repr(shown["text"]) if shown["text"] is not None else f"base64 {shown['base64']}"


def _origin(letter: Mapping[str, Any]) -> str:
    return f"{letter['topic']}[{letter['partition']}]@{letter['offset']}"


def _outcome(result: Mapping[str, Any]) -> str:
    because = ": ".join(filter(None, (result["reason"], result["message"])))
    return f"{result['id']}  {result['outcome']}" + (f"  {because}" if because else "")


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "no dead letters"


def _id(text: str) -> str:
    if not text.isalnum():
        raise UsageError(f"{text!r} is no id of a dead letter: `pulsestream dlq list` shows them")
    return text
