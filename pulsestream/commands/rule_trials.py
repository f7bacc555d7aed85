"""The rules of a file tried over the HTTP API on what is stored, one after the other; nothing is saved."""

import json
from collections.abc import Sequence
from typing import Final, TextIO

import orjson

from pulsestream.client import Client
from pulsestream.client.objects import RuleTrial, Transition
from pulsestream.commands.backtest import format_lasting
from pulsestream.commands.shown import number, table
from pulsestream.commands.times import parse_time
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339
from streams.engine.rules import RuleDefinition

_TRANSITIONS: Final = ("time", "state", "rule", "product", "value", "reason")
_SUMMARY: Final = ("rule", "fired", "would notify", "firing for", "longest", "at the end", "records")
_RIGHT: Final = frozenset({"value", *_SUMMARY[1:5], "records"})


def run(
    api: Client,
    rules: Sequence[RuleDefinition],
    span: tuple[str | None, str | None],
    *,
    as_json: bool,
    out: TextIO,
) -> None:
    """Try rules from and to a time, None for the API's default, and print what each would have done."""
    begin, end = (_time(option, text) for option, text in zip(("--from", "--to"), span, strict=True))
    trials = {
        rule.name: api.rules.test(json.loads(rule.model_dump_json(exclude_none=True)), from_=begin, to=end)
        for rule in rules
    }
    if as_json:
        out.writelines(orjson.dumps(one).decode() + "\n" for trial in trials.values() for one in trial["transitions"])
    else:
        out.write(shown(trials))


def shown(trials: dict[str, RuleTrial]) -> str:
    """Return what rules would have done as people read it."""
    rows = sorted(_row(one) for trial in trials.values() for one in trial["transitions"])
    told = table(_TRANSITIONS, rows, _RIGHT) if rows else "no rule changed its state\n"
    left_out = [
        f"{rule}: {trial['count'] - len(trial['transitions']):,} more transitions are not shown\n"
        for rule, trial in trials.items()
        if trial["truncated"]
    ]
    summary = table(_SUMMARY, [_summary(rule, trial) for rule, trial in trials.items()], _RIGHT)
    return "\n".join(filter(None, (told, "".join(left_out), summary)))


def _row(one: Transition) -> tuple[str, ...]:
    product = f"{one['exchange']}:{one['product']}"
    return one["at"], one["state"], one["rule"], product, number(one["value"]), one["reason"]


def _summary(rule: str, trial: RuleTrial) -> tuple[str, ...]:
    told = trial["summary"]
    lasting, longest = (
        format_lasting(round(seconds * MICROS_PER_SECOND))
        for seconds in (told["firing_seconds"], told["longest_seconds"])
    )
    ending = f"{told['firing_at_end']} firing" if told["firing_at_end"] else "-"
    read = f"{trial['records']['count']:,}"
    return rule, str(told["fired"]), str(told["would_notify"]), lasting, longest, ending, read


def _time(option: str, text: str | None) -> str | None:
    return None if text is None else format_rfc3339(parse_time(option, text))
