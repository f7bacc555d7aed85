"""Rule files on the command line: read, checked, and their tests run."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

from pulsestream.commands.backtest import backtest
from pulsestream.commands.sources import DATABASE, Sources
from pulsestream.core.errors import UsageError
from schemas.records import Alert
from schemas.validate import MAX_TIME
from streams.engine.evaluation import Choice
from streams.engine.expectations import compare, counted, transitions_of
from streams.engine.explain import explain
from streams.engine.reading import Span
from streams.engine.rulefile import RuleFile, RuleTest, parse_rule_file
from streams.engine.rules import RuleDefinition


def read_rule_file(path: Path) -> RuleFile:
    """Return the rules and tests of a file; raises UsageError, which names file, line, rule and field."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{path}: cannot be read: {reason}; name a YAML file that begins with `rules:`") from error
    return parse_rule_file(text, str(path))


def load_rules(path: Path) -> list[RuleDefinition]:
    """Return the rules of a file; raises UsageError as `read_rule_file` does, and where there are none."""
    rules = read_rule_file(path).rules
    if not rules:
        raise UsageError(f"{path}: its list of rules is empty: there is nothing to try")
    return rules


def check(path: Path) -> str:
    """Return what to say of a file that is valid; raises UsageError for one that is not."""
    file = read_rule_file(path)
    tests = f" and {_counted(len(file.tests), 'test')}" if file.tests else ""
    return f"{path}: {_counted(len(file.rules), 'rule')}{tests}, all valid"


def explained(path: Path, name: str | None) -> str:
    """Return each rule of a file in words, or only that of a name; raises UsageError for a name that is not there."""
    return "\n\n".join(explain(rule) for rule in chosen_rules(path, name))


def chosen_rules(path: Path, name: str | None) -> list[RuleDefinition]:
    """Return the rules of a file, or only that of a name; raises UsageError for a name that is not there."""
    rules = load_rules(path)
    chosen = [rule for rule in rules if name in {None, rule.name}]
    if not chosen:
        raise UsageError(f"{path}: no rule is named {name!r}; there is {', '.join(rule.name for rule in rules)}")
    return chosen


def run_tests(path: Path, database_url: Callable[[], str], say: Callable[[str], None]) -> bool:
    """Run the tests of a file, each told as it ends; return whether all hold. Raises UsageError where there are none.

    A test over a source is a backtest of it, with the prices that the live system would take; a path is relative to
    the file.
    """
    file = read_rule_file(path)
    if not file.tests:
        raise UsageError(f"{path}: holds no tests: list some under `tests:`, as docs/backtest.md shows")
    results = {}
    for name, test in _named(file):
        results[name] = difference = compare(test, _transitions(path, file, test, database_url))
        say(f"FAIL  {difference.removeprefix('test ')}" if difference else f"ok    {name}")
    say(counted(results))
    return not any(results.values())


def _named(file: RuleFile) -> Iterator[tuple[str, RuleTest]]:
    """Give the tests with names that differ."""
    names: dict[str, int] = {}
    for test in file.tests:
        names[test.name] = number = names.get(test.name, 0) + 1
        yield (f"{test.name} ({number})" if number > 1 else test.name), test


def _transitions(path: Path, file: RuleFile, test: RuleTest, database_url: Callable[[], str]) -> list[Alert]:
    rules = file.tried(test)
    if test.source is None:
        return transitions_of(test, rules)
    source = test.source if test.source.startswith(DATABASE) else str(path.parent / test.source)
    span = Span(test.begin or 0, MAX_TIME if test.end is None else test.end)
    sources = Sources.open([source], span, database_url)
    return backtest(rules, sources, Choice(traded=frozenset(sources.traded())), io.StringIO()).transitions


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
