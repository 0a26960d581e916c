"""What `quickstart` answers, stage by stage. `made`: files and folders of the work folder that a stage left, relative to it."""

from __future__ import annotations

from trafficllm.core.results import Counts, Result, Share
from trafficllm.evaluate.results import Baseline, Quality
from trafficllm.infer.router.results import TaskRoute
from trafficllm.lifecycle.adapters.results import AdapterRegister, RouterReport
from trafficllm.lifecycle.generate.results import GeneratedPart
from trafficllm.model.results import Tokens
from trafficllm.records.results import DataBuild


class BuiltData(DataBuild):
    """A data set."""

    made: list[str]


class Family(Result):
    """A small model of another family with the traffic vocabulary: `ratio` how many times fewer tokens a flow takes."""

    family: str
    tokens_added: int
    ratio: float | None
    command: str
    made: list[str]


class Routing(RouterReport):
    """The router, stage 1."""

    made: list[str]


class TrainedTask(AdapterRegister):
    """A task's adapter, stage 2."""

    made: list[str]


class GeneratedCapture(Result):
    """A synthetic capture, as `generate` answers; `prevented` is a sum here, `prevented_by_place` its parts."""

    task: str
    label: str
    version: str
    parts: list[GeneratedPart]
    file: str
    flows: int
    packets: int
    prevented: int
    prevented_by_place: Counts
    repairs: Counts
    addresses_outside_documentation: int
    valid: bool | None
    sha256: str
    seed: int
    made: list[str]


class QuickstartTask(Result):
    """One task: its adapter on reserved flows, beside every baseline."""

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


class Asked(Result):
    """All captures that nothing was trained on."""

    captures: list[Unseen]


class NextStep(Result):
    """What to do next: in words, and the command."""

    text: str
    command: str


class Quickstart(Result):
    """The whole path."""

    size: str
    data: dict[str, BuiltData]
    tasks: list[QuickstartTask]
    tokens_per_flow: Tokens
    family: Family
    routing: Routing
    unseen: list[Unseen]
    generated: GeneratedCapture
    curves: dict[str, list[list[float]]]
    seconds: dict[str, float]
    reused: list[str]
    next: list[NextStep]
    report: str
