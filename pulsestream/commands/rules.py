"""Rule files on the command line: read, checked."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from pulsestream.core.errors import UsageError
from streams.engine.rules import RuleDefinition, RuleError, parse_rule


def load_rules(path: Path) -> list[RuleDefinition]:
    """Return the rules of a YAML or JSON file; raises UsageError, which names the file and the rule."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {error}") from error
    listed = content.get("rules") if isinstance(content, dict) else content
    if not isinstance(listed, list):
        raise UsageError(f"{path}: holds no list of rules: begin it with `rules:` and `  - name: …`")
    return [_rule(path, number, one) for number, one in enumerate(listed, 1)]


def check(path: Path) -> str:
    """Return what to say of a file that is valid; raises UsageError for one that is not."""
    rules = load_rules(path)
    return f"{path}: {_named(rules)} valid"


def _rule(path: Path, number: int, definition: object) -> RuleDefinition:
    try:
        return parse_rule(json.dumps(definition, default=str))
    except RuleError as error:
        raise UsageError(f"{path}: rule {number}: {error}") from error


def _named(rules: Sequence[RuleDefinition]) -> str:
    return f"{len(rules)} rule{'' if len(rules) == 1 else 's'}"
