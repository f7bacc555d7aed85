"""A plan of what shall go wrong between the simulator and its clients, and the injector that carries it out. Pure.

A plan is a YAML file; docs/feeds.md shows one with every kind of fault. Its faults are tried in order on everything
that they match; the first whose turn it is happens, and the later ones do not see that frame or request. The same
plan, seed and market make the same faults.
"""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from producers.exchange.dialects.base import Dialect, Query
from producers.exchange.errors import SimulatorError
from producers.exchange.market import FeedFrame
from pulsestream.core.clock import MICROS_PER_SECOND

FOREVER: Final = 1e12


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Match(_Strict):
    """What a fault concerns; None: everything."""

    channel: str | None = None
    product: str | None = None


class When(_Strict):
    """When a fault happens, among what it concerns."""

    after: float = Field(0.0, ge=0)
    during: float = Field(FOREVER, alias="for", gt=0)
    every: int = Field(1, ge=1)
    probability: float = Field(1.0, gt=0, le=1)
    count: int | None = Field(None, ge=1)


class _Fault(_Strict):
    match: Match = Match()
    when: When = When()


class Drop(_Fault):
    """A frame is not sent."""

    kind: Literal["drop"]
    rest: bool = True


class Duplicate(_Fault):
    """A frame is sent again."""

    kind: Literal["duplicate"]
    times: int = Field(1, ge=1, le=1000)


class Reorder(_Fault):
    """A frame is sent after the next `by` of its product and channel, or when `within` seconds are over."""

    kind: Literal["reorder"]
    by: int = Field(1, ge=1, le=1000)
    within: float = Field(1.0, gt=0)


class Delay(_Fault):
    """A frame is sent late."""

    kind: Literal["delay"]
    seconds: float = Field(gt=0)


class Corrupt(_Fault):
    """A frame's text is damaged."""

    kind: Literal["corrupt"]


class ClockSkew(_Fault):
    """A frame's times are moved; seconds below 0: into the past."""

    kind: Literal["clock_skew"]
    seconds: float


class Oversize(_Fault):
    """A frame that is longer than any client takes is sent before a frame."""

    kind: Literal["oversize"]
    bytes: int = Field(32 * 1024 * 1024, ge=1, le=512 * 1024 * 1024)


class SlowDrip(_Fault):
    """For a while the connection's frames come in small pieces."""

    kind: Literal["slow_drip"]
    seconds: float = Field(5.0, gt=0)
    bytes_per_second: int = Field(1000, ge=1)


class HalfOpen(_Fault):
    """The connection stands, but nothing comes or is read any more."""

    kind: Literal["half_open"]


class Close(_Fault):
    """The connection is closed; code 1006: without a closing handshake."""

    kind: Literal["close"]
    code: int = Field(1011, ge=1000, le=4999)
    reason: str = ""


class AcceptThenClose(_Fault):
    """A handshake succeeds, and the connection is closed."""

    kind: Literal["accept_then_close"]
    code: int = Field(1013, ge=1000, le=4999)


class TooMany(_Fault):
    """A handshake or a REST request is refused with 429."""

    kind: Literal["http_429"]
    to: Literal["websocket", "rest", "both"] = "both"
    retry_after: int = Field(1, ge=0)


class Rest500(_Fault):
    """A REST request fails."""

    kind: Literal["rest_500"]


class RestTruncated(_Fault):
    """A REST answer ends in the middle."""

    kind: Literal["rest_truncated"]


class RestMissing(_Fault):
    """REST does not know a trade."""

    kind: Literal["rest_missing"]


Fault: TypeAlias = (
    Drop | Duplicate | Reorder | Delay | Corrupt | ClockSkew | Oversize | SlowDrip | HalfOpen | Close
    | AcceptThenClose | TooMany | Rest500 | RestTruncated | RestMissing
)  # fmt: skip
_OF_FRAMES: Final = (
    Drop, Duplicate, Reorder, Delay, Corrupt, ClockSkew, Oversize, SlowDrip, HalfOpen, Close,
)  # fmt: skip


class FaultPlan(_Strict):
    """Faults, and the seed of their dice."""

    seed: int = 0
    faults: tuple[Annotated[Fault, Field(discriminator="kind")], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the plan of a YAML file; raises SimulatorError that names file, line, field and fault."""
        try:
            text = path.read_text(encoding="utf-8")
            content, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            raise SimulatorError(f"{path}: cannot be read: {error}") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise SimulatorError(f"{path}: line {line} is no YAML: {error.problem}") from error
        try:
            return cls.model_validate({} if content is None else content)
        except ValidationError as error:
            told = "; ".join(_told(item["loc"], item["msg"], node) for item in error.errors())
            raise SimulatorError(f"{path}: {told}") from error


def _told(place: tuple[int | str, ...], message: str, node: yaml.Node | None) -> str:
    """Say where a wrong value stands: its line and its path of names, without the names of our own types."""
    names: list[str] = []
    line = node.start_mark.line + 1 if node else 1
    for part in place:
        found = _child(node, part)
        if found is not None:
            node, line = found, found.start_mark.line + 1
        if found is not None or part is place[-1]:
            names.append(str(part))
    return f"line {line}, {'.'.join(names)}: {message}"


def _child(node: yaml.Node | None, part: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part]  # type: ignore[no-any-return] # yaml's nodes hold nodes
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    return None


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault that happened: the fault's place in the plan, what it concerned, and what was done to it."""

    fault: int
    kind: str
    frame: FeedFrame | None = None
    sent: str | None = None
    product: str | None = None
    trade_ids: tuple[int, ...] = ()
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deed:
    """What happens to a frame on its way to one client.

    now: texts to send. later: a text, and the seconds that it waits. behind: a text, the frames of its product and
    channel that overtake it, and the seconds that it waits at most. drip: seconds, and bytes in each of them.
    """

    now: tuple[str, ...] = ()
    later: tuple[str, float] | None = None
    behind: tuple[str, int, float] | None = None
    close: tuple[int, str] | None = None
    silent: bool = False
    drip: tuple[float, int] | None = None
    injected: Injected | None = None


@dataclass(slots=True)
class _Turn:
    """How often a fault was tried and happened, and its own dice."""

    dice: random.Random
    tried: int = 0
    happened: int = 0


class Injector:
    """Decides for each frame, handshake, request and trade whether a fault happens; times are seconds since the start.

    Nothing is decided twice: every call counts.
    """

    def __init__(self, plan: FaultPlan, dialect: Dialect) -> None:
        self._plan = plan
        self._dialect = dialect
        self._turns = [_Turn(random.Random(f"{plan.seed}/{number}")) for number in range(len(plan.faults))]  # noqa: S311
        self._damage = random.Random(f"{plan.seed}/damage")  # noqa: S311 - reproducible faults, no secret

    def frame(self, frame: FeedFrame, text: str, elapsed: float) -> Deed:
        """Return what happens to a frame, whose text for this client may be its own."""
        for number, fault in enumerate(self._plan.faults):
            if isinstance(fault, _OF_FRAMES) and self._concerns(fault, frame) and self._turn(number, elapsed):
                return self._deed(number, fault, frame, text)
        return Deed((text,))

    def handshake(self, elapsed: float) -> tuple[TooMany | AcceptThenClose, Injected] | None:
        """Return what happens to a handshake."""
        for number, fault in enumerate(self._plan.faults):
            wanted = isinstance(fault, AcceptThenClose) or (isinstance(fault, TooMany) and fault.to != "rest")
            if wanted and self._turn(number, elapsed):
                assert isinstance(fault, AcceptThenClose | TooMany)  # noqa: S101 - see above
                return fault, Injected(number, fault.kind, detail={"request": "websocket"})
        return None

    def request(self, query: Query, elapsed: float) -> tuple[TooMany | Rest500 | RestTruncated, Injected] | None:
        """Return what happens to a REST request."""
        for number, fault in enumerate(self._plan.faults):
            wanted = isinstance(fault, Rest500 | RestTruncated) or (
                isinstance(fault, TooMany) and fault.to != "websocket"
            )
            if wanted and self._turn(number, elapsed):
                assert isinstance(fault, TooMany | Rest500 | RestTruncated)  # noqa: S101 - see above
                return fault, Injected(number, fault.kind, detail={"request": query.path, **query.parameters})
        return None

    def hidden(self, product: str, trade_id: int, elapsed: float) -> Injected | None:
        """Return the fault by which REST shall not know a trade."""
        for number, fault in enumerate(self._plan.faults):
            if not isinstance(fault, RestMissing) or fault.match.product not in (None, product):
                continue
            if self._turn(number, elapsed):
                return Injected(number, fault.kind, product=product, trade_ids=(trade_id,))
        return None

    def _concerns(self, fault: Fault, frame: FeedFrame) -> bool:
        channels: Collection[str] = self._channels(fault.match.channel)
        return (not channels or frame.channel in channels) and fault.match.product in (None, frame.product)

    def _channels(self, name: str | None) -> Collection[str]:
        if name is None:
            return ()
        return self._dialect.kinds.get(name) or (name,)

    def _turn(self, number: int, elapsed: float) -> bool:
        when, turn = self._plan.faults[number].when, self._turns[number]
        if not when.after <= elapsed < when.after + when.during or turn.happened == when.count:
            return False
        turn.tried += 1
        if turn.tried % when.every or (when.probability < 1 and turn.dice.random() >= when.probability):
            return False
        turn.happened += 1
        return True

    def _deed(self, number: int, fault: Fault, frame: FeedFrame, text: str) -> Deed:
        told = Injected(
            number,
            fault.kind,
            frame,
            product=frame.product,
            trade_ids=frame.trade_ids,
            detail=fault.model_dump(exclude={"kind", "match", "when"}),
        )
        match fault:
            case Corrupt():
                damaged = self._damaged(text)
                return Deed((damaged,), injected=replace(told, sent=damaged))
            case ClockSkew(seconds=seconds):
                moved = self._dialect.shifted(text, round(seconds * MICROS_PER_SECOND))
                return Deed((moved,), injected=replace(told, sent=moved))
        return replace(_plain_deed(fault, text), injected=told)

    def _damaged(self, text: str) -> str:
        """Return a text that is no longer JSON: cut short, or with a structural character replaced."""
        place = self._damage.randrange(1, len(text))
        if self._damage.random() < 0.5:  # noqa: PLR2004 - a coin
            return text[:place]
        colon = text.index(":", text.index('"'))
        return f"{text[:colon]}\x00{text[colon + 1 :]}"


def _plain_deed(fault: Fault, text: str) -> Deed:
    """Return what a fault does whatever the frame says."""
    deed = Deed()  # of a drop
    match fault:
        case Duplicate(times=times):
            deed = Deed((text,) * (1 + times))
        case Reorder(by=by, within=within):
            deed = Deed(behind=(text, by, within))
        case Delay(seconds=seconds):
            deed = Deed(later=(text, seconds))
        case Oversize():
            deed = Deed((_padded(fault.bytes), text))
        case SlowDrip(seconds=seconds, bytes_per_second=speed):
            deed = Deed((text,), drip=(seconds, speed))
        case HalfOpen():
            deed = Deed(silent=True)
        case Close(code=code, reason=reason):
            deed = Deed(close=(code, reason))
    return deed


def _padded(length: int) -> str:
    return '{"type":"oversize","padding":"' + "x" * length + '"}'
