"""What `quickstart` answers."""

from __future__ import annotations

from typing import Any

from trafficllm.core.results import Counts, Result, Share
from trafficllm.evaluate.results import Baseline, Quality
from trafficllm.lifecycle.tasks import TaskRoute
from trafficllm.model.results import Tokens


class QuickstartTask(Result):
    """One task of the quickstart."""

    task: str
    title: str
    labels: list[str]
    classes: int
    quality: Quality
    baselines: dict[str, Baseline]
    version: str
    dropped: Counts
    artefact_masked: list[str]
    why: str


class Unseen(Result):
    """A capture that nothing was trained on, and what was said of it."""

    file: str
    source: str
    truth: str
    question: str
    route: TaskRoute | None
    task: str
    flows: int
    labels: Counts
    unknown: int
    confidence: Share


class Quickstart(Result):
    """The whole path."""

    size: str
    data: dict[str, Any]
    tasks: list[QuickstartTask]
    tokens_per_flow: Tokens
    family: dict[str, Any]
    routing: dict[str, Any]
    unseen: list[Unseen]
    generated: dict[str, Any]
    curves: dict[str, list[list[float]]]
    seconds: dict[str, float]
    reused: list[str]
    next: list[dict[str, str]]
    report: str
