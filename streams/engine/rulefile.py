"""Rule files: YAML or JSON with `rules:` and, so that rules have unit tests, `tests:`. Text in, checked values out.

A message names the file, the line, the rule or test, and the field. A test feeds ticks that it lists, or a recorded
source, to rules of the file, and expects exactly the transitions that it lists.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from schemas.validate import MAX_SIZE
from streams.engine.definitions import Price
from streams.engine.durations import Duration, parse_duration
from streams.engine.rules import RuleDefinition, RuleError, faults_of

MAX_TICKS: Final = 200_000
"""Ticks that one test may list, repeated ones counted."""
DAWN: Final = 946_684_800_000_000
"""The event time, micros, of `at: 0s` where a test names no start: 2000-01-01."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


def _moment(text: object) -> int:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"{text!r} is not a time: write it as 2021-04-17T16:43:37Z")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _at(text: object) -> "At":
    """Read a duration from the test's start, or a time."""
    if isinstance(text, At):
        return text
    if isinstance(text, str) and "T" in text:
        return At(_moment(text), since_start=False)
    return At(parse_duration(text), since_start=True)


@dataclass(frozen=True, slots=True)
class At:
    """A time in a test, micros: since its start, or since 1970."""

    micros: int
    since_start: bool

    def absolute(self, start: int) -> int:
        """Return the event time."""
        return start + self.micros if self.since_start else self.micros


Moment = Annotated[int, BeforeValidator(_moment)]
AtTime = Annotated[At, BeforeValidator(_at)]
Size = Annotated[float, Field(strict=True, ge=0, le=MAX_SIZE, allow_inf_nan=False)]


class TestTick(BaseModel):
    """A tick of a test, or one that comes again `every` so often up to `to`; several prices take turns."""

    __test__ = False
    model_config = ConfigDict(extra="forbid", frozen=True)

    at: Duration
    price: Price | Annotated[list[Price], Field(min_length=1)]
    size: Size | None = None
    side: Literal["buy", "sell"] | None = None
    bid: Price | None = None
    ask: Price | None = None
    exchange: str | None = None
    every: Duration | None = None
    to: Duration | None = None

    @model_validator(mode="after")
    def _repeated(self) -> Self:
        if (self.every is None) is not (self.to is None):
            raise ValueError("give `every` and `to` together, or neither")
        if self.every is not None and self.to is not None and (self.every == 0 or self.to < self.at):
            raise ValueError("`every` must be more than 0s, and `to` not before `at`")
        if self.every is None and isinstance(self.price, list):
            raise ValueError("several prices need `every` and `to`")
        return self

    @property
    def times(self) -> range:
        """The times since the start, micros."""
        if self.every is None or self.to is None:
            return range(self.at, self.at + 1)
        return range(self.at, self.to + 1, self.every)

    def price_at(self, number: int) -> float:
        """Return the price of the `number`-th time."""
        return self.price[number % len(self.price)] if isinstance(self.price, list) else self.price


class Expected(BaseModel):
    """A transition that a test expects; what is left out is not compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: AtTime
    state: Literal["pending", "firing", "resolved", "inactive"]
    rule: str | None = None
    exchange: str | None = None
    product: str | None = None
    value: float | None = None
    reason: str | None = None
    """A part of it."""


class RuleTest(BaseModel):
    """One test: what happens, and every transition that has to follow."""

    __test__ = False
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: Annotated[str, Field(min_length=1, max_length=200)]
    rules: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the rules that are tried; default: all of the file."""
    exchange: str = "coinbase"
    product: str | None = None
    """Default: the first that the rules name, else BTC-USD."""
    start: Moment = DAWN
    ticks: list[TestTick] | None = None
    until: Duration | None = None
    """How far the clock runs on without a record; default: timers beyond the last record do not act."""
    source: str | None = None
    """A recorded source, as the backtest takes it; a path is relative to the file."""
    begin: Moment | None = Field(default=None, alias="from")
    end: Moment | None = Field(default=None, alias="to")
    expect: list[Expected]

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.ticks is None) is (self.source is None):
            raise ValueError("give exactly one of ticks and source")
        if self.source is None and (self.begin is not None or self.end is not None):
            raise ValueError("`from` and `to` choose of a source: leave them out with ticks")
        if self.source is not None and self.until is not None:
            raise ValueError("a source ends with its last record: leave `until` out")
        if sum(len(tick.times) for tick in self.ticks or ()) > MAX_TICKS:
            raise ValueError(f"a test holds at most {MAX_TICKS} ticks")
        return self


@dataclass(frozen=True, slots=True)
class RuleFile:
    """The rules and tests of a file, in its order."""

    rules: list[RuleDefinition]
    tests: list[RuleTest]

    def tried(self, test: RuleTest) -> list[RuleDefinition]:
        """Return the rules that a test tries."""
        return [rule for rule in self.rules if test.rules is None or rule.name in test.rules]


def parse_rule_file(text: str, file: str) -> RuleFile:
    """Return what a rule file holds; raises RuleError with one line for each fault, each with file and line."""
    root, content = _loaded(text, file)
    listed, tests = (content.get("rules"), content.get("tests", [])) if isinstance(content, dict) else (content, [])
    if not isinstance(listed, list) or not isinstance(tests, list):
        raise RuleError(f"{file}: holds no list of rules: begin it with `rules:` and `  - name: …`")
    faults = [] if isinstance(content, list) else list(_unknown(root, content, file))
    parsed = RuleFile([], [])
    for kind, entries, into in (("rule", listed, parsed.rules), ("test", tests, parsed.tests)):
        model: type[BaseModel] = RuleDefinition if kind == "rule" else RuleTest
        for number, entry in enumerate(entries):
            path = (number,) if isinstance(content, list) else (f"{kind}s", number)
            try:
                into.append(model.model_validate_json(json.dumps(entry)))  # type: ignore[arg-type] # of the kind
            except ValidationError as error:
                title = f"{kind} {number + 1}{_name(entry)}"
                for location, message in faults_of(error):
                    where = f"{file}:{_line(root, (*path, *location))}"
                    faults.append(f"{where}: {title}: {_joined(location)}{message}")
    faults = faults or list(_misnamed(parsed, root, file))
    if faults:
        raise RuleError("\n".join(faults))
    return parsed


class _Loader(yaml.SafeLoader):
    """Leaves times as they are written, and takes no key twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (the library's own declaration)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 (the library's signature)
        """Return a mapping; raises MarkedYAMLError for a key that stands twice."""
        keys = set[str]()
        for key, _ in node.value:
            if key.value in keys:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _loaded(text: str, file: str) -> tuple[yaml.Node | None, Any]:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        return root, None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise RuleError(f"{file}{line}: cannot be read as YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RuleError(f"{file}: cannot be read as YAML: {error}") from error
    finally:
        loader.dispose()


def _unknown(root: yaml.Node | None, content: Mapping[str, object], file: str) -> Iterator[str]:
    for key in content:
        if key not in {"rules", "tests"}:
            yield f"{file}:{_line(root, (key,))}: {key}: is unknown: a rule file holds rules and tests"


def _misnamed(parsed: RuleFile, root: yaml.Node | None, file: str) -> Iterator[str]:
    """Give what is wrong with names: two rules of one name, a test of a rule that is not there."""
    names = [rule.name for rule in parsed.rules]
    for number, name in enumerate(names):
        if name in names[:number]:
            yield f"{file}:{_line(root, ('rules', number, 'name'))}: rule {number + 1}: name {name!r} stands twice"
    for number, test in enumerate(parsed.tests):
        for unknown in [name for name in test.rules or () if name not in names]:
            where = f"{file}:{_line(root, ('tests', number, 'rules'))}: test {number + 1} {test.name!r}"
            yield f"{where}: rules: no rule is named {unknown!r}"


def _line(node: yaml.Node | None, path: tuple[int | str, ...]) -> int:
    """Return the line, from 1, of the deepest part of a path that the document has."""
    line = 0 if node is None else node.start_mark.line
    for part in path:
        found = _below(node, part)
        if found is None:
            break
        line, node = found
    return line + 1


def _below(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark.line, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line, node.value[part]
    return None


def _name(entry: object) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return f" {name!r}" if isinstance(name, str) else ""


def _joined(location: tuple[int | str, ...]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""
