"""What the `adapter` commands answer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trafficllm.core.results import Counts, Failure, Result, Share
from trafficllm.evaluate.results import Baseline, Quality
from trafficllm.infer.router.results import TaskRoute
from trafficllm.lifecycle.studies.results import CascadeScore
from trafficllm.model.results import TuneReport
from trafficllm.registry.versions import Status


class AdapterVersion(Result):
    """A version in the registry, and the version that it was tuned from."""

    task: str
    version: str
    status: Status
    parent: str | None


class AdapterRow(AdapterVersion):
    """A version in the list, with its score and its folder; `laboratory_only`: its false alarms on other networks are not bounded;
    `experimental`: why it is called so, empty where it is not."""

    macro_f1: Share | None
    path: str
    source: str = "registry"
    laboratory_only: bool = False
    experimental: str = ""


class DamageRow(Failure):
    """A task or version of the registry that cannot be read; `version` is empty for a whole task."""

    task: str
    version: str


class AdapterList(Result):
    """All versions; `failed` only where one is damaged."""

    registry: str
    adapters: list[AdapterRow]
    failed: list[DamageRow] | None = None


class AdapterShow(AdapterVersion):
    """A version with its manifest; `weight_bytes`: of the adapters and readouts of all its members on disk."""

    path: str
    manifest: dict[str, Any]
    source: str = "registry"
    weight_bytes: int = 0


class AdapterChange(AdapterVersion):
    """A version after `promote` or `rollback`."""

    quality: Quality | None
    baselines: dict[str, Any] | None


class AdapterSign(Result):
    """A version signed with an Ed25519 key: both in hexadecimal."""

    task: str
    version: str
    public_key: str
    signature: str


class AdapterVerify(Result):
    """A registry whose files are all as they were registered."""

    registry: str
    versions: int
    tasks: list[str]


class AdapterExport(Result):
    """A version written for use elsewhere; of several `members` the folder holds all, the first one as its own adapter."""

    task: str
    version: str
    out: str
    merged: bool
    files: list[str]
    members: int = 1


class AdapterGc(Result):
    """Versions that were removed, as task/version."""

    registry: str
    removed: list[str]


class GateSide(Result):
    """Macro-F1 before and after on one kind of held-out records; `lower` one-sided 95 % bound of the difference."""

    before: Share
    after: Share
    lower: float
    groups: int
    records: int


class RouterGate(Result):
    """A router before and after it learnt a task: share of `n` held-out questions for the old tasks that are routed to exactly their
    tasks (`_alone`: without the word model), share of the new task's questions that reach it (`new`), and 1 where the new router is
    live."""

    before: Share
    after: Share
    before_alone: Share
    after_alone: Share
    new: Share
    n: int
    live: float


class Gate(Result):
    """Scores before and after an update on old data, new data and routing; None where there was no update."""

    old: GateSide | None
    new: GateSide | None
    router: RouterGate | None


class LeftOutPoint(Result):
    """Where an answer turns and what it gave on sources that were left out: see `evaluate.openworld.OperatingPoint`."""

    threshold: float
    clear: float
    wanted: Share
    rate: Share
    worst: Share
    unknown: Share
    sources: int
    expected: Share
    bound: Share
    confidence: Share
    guarantee: str


class LeftOut(Result):
    """Operating points of flows and hosts for the rate that was `asked`; `captures_flagged`: share of left-out captures of three flows or
    more that hold any positive flow."""

    asked: Share
    flow: LeftOutPoint
    host: LeftOutPoint
    captures_flagged: Share | None


class UmbrellaScore(Result):
    """The first step on the task's test flows: `recall` and `missed` of positive ones (called positive, called negative),
    `false_positive_rate` of its own negatives; `left_out` is what to expect on other sources."""

    positive: str
    negative: str
    recall: Share | None
    missed: Share | None
    false_positive_rate: Share | None
    unknown_share: Share | None
    auroc: Share | None
    n_positive: int
    n_negative: int
    left_out: LeftOut


class AdapterRegister(AdapterVersion):
    """A new version with its score, baselines, calibration and cost; a generator has no score here."""

    path: str
    quality: Quality | None
    baselines: dict[str, Baseline]
    cascade: CascadeScore | None
    gate: Gate
    calibration: dict[str, Any]
    unknown: dict[str, Any]
    umbrella: UmbrellaScore | None = None
    cost: dict[str, float]
    tuning: TuneReport
    seconds: float
    peak_bytes: int
    replayed: int


class AdapterUpdate(AdapterRegister):
    """A version made from the live one and new captures: what its gate saw, decided and why, and how many captures more would let it
    tell (`new`, `old`; 0 where those at hand suffice)."""

    why: str
    more_captures: Counts = Field(default_factory=dict)
    transfer: dict[str, float]
    added_labels: list[str]
    dropped: Counts
    parent_seconds: float


class RouterAlone(Result):
    """Figures of the LLM alone, without the word model beside it."""

    accuracy: Share
    single_accuracy: Share
    none_auroc: Share


class RoutedQuestion(TaskRoute):
    """A held-out question and its tasks."""

    question: str


class RouterReport(Result):
    """A router on `n` held-out questions: share routed to exactly their tasks (`accuracy`; `single_accuracy`: of questions for one
    task), share of the commonest answer, AUROC of "none", accuracy by style; then what training took (`rows` of it)."""

    n: int
    accuracy: Share
    single_accuracy: Share
    majority: Share
    none_auroc: Share
    by_style: dict[str, Share]
    examples: list[RoutedQuestion]
    alone: RouterAlone
    rows: int
    seconds: float
    tokens_per_second: float
    version: str
