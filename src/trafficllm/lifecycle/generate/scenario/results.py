"""What `generate scenario` answers."""

from __future__ import annotations

from typing import Literal

from trafficllm.core.results import Counts, Result, Share


class ScenarioEvent(Result):
    """One event as it was written: times in seconds since 1970, null where no flow of it began before the size limit."""

    name: str
    label: str
    flows: int
    packets: int
    first: float | None
    last: float | None
    hosts: list[str]


class ScenarioClass(Result):
    """Everyday traffic of one class as it was written, and where its flows came from."""

    label: str
    flows: int
    packets: int
    source: str


class ScenarioCheck(Result):
    """One look at the result: `skipped` where the tool is not installed or was not asked for; `detail` says what was seen or why."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    detail: str


class ScenarioScore(Result):
    """How the task's live adapter answers the exercise: flows judged, and by event the share whose label it found."""

    task: str
    version: str
    flows: int
    correct: Share
    events: dict[str, Share]
    false_alarms: int
    background: int


class GenerateScenario(Result):
    """A scenario on disk. Paths lie in the output folder; `bounded`: the size limit ended it early."""

    title: str
    seed: int
    capture: str
    answers: str
    labels: str
    conn_log: str
    briefing: str
    timeline: str
    rules: list[str]
    exercise: str | None
    flows: int
    packets: int
    bytes: int
    bounded: bool
    answered: int
    events: list[ScenarioEvent]
    background: list[ScenarioClass]
    repairs: Counts
    addresses_outside_documentation: int
    checks: list[ScenarioCheck]
    scores: list[ScenarioScore]
    sha256: str
