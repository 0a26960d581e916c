"""The scenario file: hosts, everyday traffic, events and rules of an exercise, read strictly from TOML."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.toml import BadTomlError, read_toml

SHIPPED = Path(__file__).parents[3] / "data" / "scenarios"
MAX_FLOWS = 1_000_000
"""Flows of one scenario, all repetitions together."""
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
_WORD = r"^[a-z0-9][a-z0-9-]{0,40}$"
Name: TypeAlias = Annotated[str, Field(pattern=_NAME)]
Word: TypeAlias = Annotated[str, Field(pattern=_WORD)]
Domain: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,6}$", max_length=120)]
Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e7)]
Bytes: TypeAlias = tuple[Annotated[int, Field(ge=0, le=10_000_000)], Annotated[int, Field(ge=0, le=10_000_000)]]
Times: TypeAlias = tuple[Seconds, Seconds]
Number: TypeAlias = tuple[Annotated[int, Field(ge=1, le=10_000)], Annotated[int, Field(ge=1, le=10_000)]]
RecordType: TypeAlias = Literal["TXT", "NULL", "CNAME", "MX"]
PatternName: TypeAlias = Literal["dns", "tls", "http", "login-guessing", "web-probes", "dns-tunnel", "wireguard"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Host(_Strict):
    """One host, or `count` alike hosts NAME-1, NAME-2... `outside` the network; `domain` is what it serves."""

    name: Word
    count: int = Field(default=1, ge=1, le=240)
    outside: bool = False
    domain: Domain | None = None
    role: str = Field(default="", max_length=120)


class Source(_Strict):
    """Where the flows of a class come from: exactly one of a written pattern, captures, or a generator of the registry.

    `captures` is a folder or file, or `package:TASK/LABEL` for captures of the package: their flows are templates whose names and
    addresses are made anew. `generator` is TASK/LABEL of a live generation adapter. What stands behind belongs to patterns: ranges
    [least, most] of `exchanges` a flow, `request` and `answer` bytes, `pause` seconds between exchanges;
    a DNS tunnel asks for records of `types`.
    """

    pattern: PatternName | None = None
    captures: str | None = Field(default=None, min_length=1, max_length=4096)
    generator: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+/.+$")
    exchanges: Number | None = None
    request: Bytes | None = None
    answer: Bytes | None = None
    pause: Times | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    domains: tuple[Domain, ...] = ()
    paths: tuple[str, ...] = ()
    types: tuple[RecordType, ...] = Field(default=("TXT",), min_length=1)
    agent: str = Field(default="", max_length=200)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.pattern, self.captures, self.generator)) != 1:
            raise ValueError("name exactly one of pattern, captures, generator")
        ranges = (self.exchanges, self.request, self.answer, self.pause)
        if any(pair is not None and pair[0] > pair[1] for pair in ranges):
            raise ValueError("a range has its least value first")
        if any(not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path for path in self.paths):
            raise ValueError("a path begins with / and has no spaces")
        if not self.agent.isascii() or not all(map(str.isprintable, self.agent)):
            raise ValueError("an agent is printable ASCII text")
        return self


class Traffic(_Strict):
    """What everyday traffic and events share: between which hosts, over which IP version, and from which source."""

    sender: tuple[Word, ...] = Field(alias="from", min_length=1)
    receiver: tuple[Word, ...] = Field(alias="to", min_length=1)
    ip_version: Literal[4, 6] = 4
    source: Source

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        """One host may be named without brackets."""
        if not isinstance(value, dict):
            return value
        return {key: [item] if key in {"from", "to"} and isinstance(item, str) else item for key, item in value.items()}


class Background(Traffic):
    """Everyday traffic of one class: `per_minute` flows a minute on average, at random moments."""

    label: Name
    per_minute: float = Field(gt=0, le=100_000)


class Event(Traffic):
    """Labelled flows from `start` to `stop` (seconds of the scenario): `flows` at random moments, or one `every` so many seconds.

    `jitter` is the share of `every` by which a moment may be off; `story` tells it in the answers.
    """

    name: Word
    label: Name
    start: Seconds = 0.0
    stop: Seconds | None = None
    flows: int | None = Field(default=None, ge=1, le=MAX_FLOWS)
    every: float | None = Field(default=None, gt=0, le=1e6)
    jitter: float = Field(default=0.0, ge=0, le=0.5)
    story: str = Field(default="", max_length=2000)

    @model_validator(mode="after")
    def _how_often(self) -> Self:
        if (self.flows is None) == (self.every is None):
            raise ValueError("name one of flows, every")
        if self.stop is not None and self.stop <= self.start:
            raise ValueError("stop is not after start")
        return self


class Rule(_Strict):
    """A Suricata rule of the rule test: must fire on the flows of `event`, must stay silent on everyday traffic."""

    event: Word
    text: str = Field(min_length=1, max_length=4000, pattern=r"^[^\n\r]*$")

    @property
    def sid(self) -> int:
        """The rule's number, 0 where it names none."""
        words = self.text.replace(" ", "").split("sid:")
        digits = words[-1].split(";")[0] if len(words) > 1 else ""
        return int(digits) if digits.isdigit() and len(digits) < 11 else 0


class ScenarioFile(_Strict):
    """A whole scenario: `span` seconds from `start` on. `task` is the detection task whose labels its classes have, if any."""

    title: str = Field(min_length=1, max_length=120)
    briefing: str = Field(default="", max_length=10_000)
    start: datetime = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
    span: float = Field(gt=0, le=31 * 86400.0)
    task: str = ""
    host: tuple[Host, ...] = Field(min_length=1)
    background: tuple[Background, ...] = ()
    event: tuple[Event, ...] = ()
    rule: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Self:
        hosts = self.host_names()
        _different("host", [host.name for host in self.host])
        _different("event", [event.name for event in self.event])
        for traffic in (*self.background, *self.event):
            for name in (*traffic.sender, *traffic.receiver):
                if name not in hosts:
                    raise ValueError(f"no host is called '{name}'{_near(name, hosts)}")
            senders, receivers = set(self.expanded(traffic.sender)), set(self.expanded(traffic.receiver))
            if len(receivers) == 1 and receivers <= senders:
                raise ValueError(f"'{traffic.receiver[0]}' cannot talk to itself: 'from' and 'to' name one host")
        events = [event.name for event in self.event]
        for rule in self.rule:
            if rule.event not in events:
                raise ValueError(f"no event is called '{rule.event}'{_near(rule.event, events)}")
            if not rule.sid:
                raise ValueError("a rule needs a number of its own (sid:...;)")
        _different("rule", [str(rule.sid) for rule in self.rule])
        if not self.background and not self.event:
            raise ValueError("neither [[background]] nor [[event]]: nothing would happen")
        return self

    def host_names(self) -> dict[str, str]:
        """Every name that `from` and `to` may have, with its group: groups, and single hosts NAME-1..."""
        single = {f"{host.name}-{k + 1}": host.name for host in self.host if host.count > 1 for k in range(host.count)}
        return {**single, **{host.name: host.name for host in self.host}}

    def expanded(self, names: Sequence[str]) -> list[str]:
        """Single hosts for names of groups and hosts, each once."""
        counts = {host.name: host.count for host in self.host}
        every = [f"{name}-{k + 1}" if counts[name] > 1 else name for name in names if name in counts for k in range(counts[name])]
        return list(dict.fromkeys([*every, *(name for name in names if name not in counts)]))


def _different(what: str, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two of [[{what}]] are called '{twice}'")


def _near(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def shipped() -> dict[str, Path]:
    """The ready scenarios of the package by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load_scenario(name: str | Path) -> tuple[ScenarioFile, Path]:
    """A scenario file, or a ready scenario by its name; with the path it was read from.

    Raises InputError where there is none, UsageError where a key or value is wrong.
    """
    ready = shipped()
    path = ready.get(str(name), Path(name))
    if not path.is_file():
        hint = f"a TOML file, or one of {', '.join(ready)}"
        raise InputError("input.missing", "no such scenario file", input=str(name), hint=hint)
    try:
        raw = read_toml(path)
    except BadTomlError as error:
        raise UsageError("usage.scenario", f"not valid TOML: {error}", input=str(path), hint="see docs/guides/exercise.md") from error
    try:
        return ScenarioFile.model_validate(raw), path
    except ValidationError as error:
        raise _explained(error, str(path)) from error


def _explained(error: ValidationError, source: str) -> UsageError:
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])  # a typo leaves a key missing too
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key '{where}'"
    return UsageError("usage.scenario", message, input=source, where=where, hint="docs/guides/exercise.md lists the keys")
