"""The closed shape of what tasks, adapters, `config` and `doctor` print: keys may be added here, never renamed or dropped."""

from __future__ import annotations

from typing import Any, Literal

from trafficllm.core.results import Result, Share
from trafficllm.evaluate.results import Quality


class TaskRow(Result):
    """A task of the catalogue; `live` is its adapter's version."""

    id: str
    title: str
    kind: str
    granularity: str
    labels: list[str]
    live: str | None


class TaskList(Result):
    """The catalogue."""

    tasks: list[TaskRow]


class TaskShow(TaskRow):
    """One task."""

    instruction: str
    umbrella_question: str
    umbrella: dict[str, str]
    causal: dict[str, str]
    housekeeping: bool
    notable: list[str]
    priority: int
    dataset: str
    notes: str


class Probability(Result):
    """A task and how likely the question asks for it."""

    id: str
    probability: Share


class TaskRoute(Result):
    """Which tasks a question asks for."""

    tasks: list[Probability]
    none: Share


class AdapterRow(Result):
    """A version in the registry."""

    task: str
    version: str
    status: Literal["live", "candidate", "rejected"]
    parent: str | None
    macro_f1: Share | None
    path: str


class AdapterList(Result):
    """All versions."""

    registry: str
    adapters: list[AdapterRow]


class AdapterShow(Result):
    """A version with its manifest."""

    task: str
    version: str
    status: Literal["live", "candidate", "rejected"]
    parent: str | None
    path: str
    manifest: dict[str, Any]


class AdapterChange(Result):
    """A version after `promote` or `rollback`."""

    task: str
    version: str
    status: Literal["live", "candidate", "rejected"]
    parent: str | None
    quality: Quality | None
    baselines: dict[str, Any] | None


class Setting(Result):
    """The whole configuration in force."""

    source: str
    config: dict[str, Any]


class Finding(Result):
    """One thing that `doctor` looked at."""

    name: str
    status: Literal["ok", "optional", "missing"]
    detail: str
    hint: str


class Doctor(Result):
    """What is here, what is missing and how to get it."""

    ready: bool
    findings: list[Finding]
