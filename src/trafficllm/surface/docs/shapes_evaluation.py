"""Closed shapes of what `evaluate` and `embed` print; see `shapes`. A score never stands without split, masks, interval and baselines."""

from __future__ import annotations

from pydantic import Field

from trafficllm.surface.docs.shapes import Quality
from trafficllm.surface.docs.shapes_learning import AuditScore, Baseline, Cascade
from trafficllm.surface.docs.shapes_lines import Closed, Share

Baselines = dict[str, Baseline]


class EvaluatedAdapter(Closed):
    """One run: an adapter, its version in the registry and the seed it was trained with."""

    name: str
    version: str
    seed: int | None


class Answers(Closed):
    """Every judged row's name (file and uid), group, truth, and its answer in each run: what `evaluate compare` pairs."""

    rows: list[str]
    groups: list[str]
    truth: list[str]
    runs: list[list[str]]


class Curves(Closed):
    """Points of the reliability and risk-coverage plots."""

    reliability: list[dict[str, Share]]
    risk_coverage: list[dict[str, Share]]


class UnknownClasses(Closed):
    """How well flows of classes that were never learnt are told from known ones."""

    labels: list[str]
    n: int
    auroc: Share
    fpr_at_tpr95: Share
    tpr_at_fpr05: Share
    called_unknown: Share


class Probe(Quality):
    """A probe on frozen vectors and the setting that validation chose."""

    setting: float


class VectorMap(Closed):
    """Judged flows in two dimensions."""

    how: str
    points: list[list[float]]
    labels: list[str]


class Frozen(Closed):
    """Probes on the base's frozen vectors, `width` numbers a flow, from `train` training rows."""

    base: str
    width: int
    train: int
    probes: dict[str, Probe] = Field(min_length=1)
    map: VectorMap


class EvaluateRun(Quality):
    """Adapters' score on a data set's test part, with baselines on the same input; `baselines` is never empty."""

    task: str
    title: str
    part: str
    adapter: str
    version: str
    adapters: list[EvaluatedAdapter]
    dataset_sha256: list[str]
    base_sha256: str
    masked_fields: list[str]
    artefact_masked: list[str]
    answers: Answers
    cost: dict[str, float]
    baselines: Baselines = Field(min_length=1)
    cascade: Cascade | None
    curves: dict[str, Curves]
    unknown: UnknownClasses | None
    embedding: Frozen | None


class Neighbour(Closed):
    """A known flow and the cosine similarity of its vector."""

    uid: str
    label: str
    file: str
    similarity: float


class Neighbours(Closed):
    """A flow's nearest known ones, nearest first."""

    uid: str
    nearest: list[Neighbour]


class Embed(Closed):
    """Vectors that were made; `nearest` where known ones were named."""

    base_sha256: str
    pool: str
    task: str
    version: str
    flows: int
    width: int
    out: str
    nearest: list[Neighbours]


class Perturbation(Closed):
    """Macro-F1 of each scorer under one shift, with interval and change; `changed` share of flows, `lost` flows the reader lost."""

    name: str
    level: str
    changed: Share
    lost: int
    macro_f1: dict[str, Share]
    ci95: dict[str, list[Share]]
    delta: dict[str, float]


class Goal(Closed):
    """Mean loss against LightGBM's: at most `share` is wanted; `ratio` None where LightGBM loses nothing."""

    share: Share
    ratio: float | None
    met: bool


class EvaluateRobust(Quality):
    """An adapter's score as it is, and under shifts beside LightGBM's; `on_wire`: packets were changed and read again."""

    task: str
    title: str
    part: str
    adapter: str
    version: str
    baselines: Baselines = Field(min_length=1)
    perturbations: list[Perturbation] = Field(min_length=2)
    mean_loss: dict[str, float]
    goal: Goal
    forge: dict[str, float | bool]
    payload: dict[str, float]
    on_wire: bool


class ShotScore(AuditScore):
    """A quality object over draws, without its confusion matrix."""

    scored_labels: list[str]
    per_seed: list[Share]


class Shots(Closed):
    """Learning from `shots` flows a class, means over `draws`; `fewest` training flows that a class has at all."""

    shots: int
    draws: int
    fewest: int
    rows: dict[str, ShotScore] = Field(min_length=2)


class EvaluateTransfer(Quality):
    """What an adapter of one source is worth on another (`direct`), and how few flows are enough to learn anew."""

    task: str
    title: str
    part: str
    source: str
    adapter: str
    version: str
    baselines: Baselines
    direct: bool
    shots: list[Shots] = Field(min_length=1)
    gain_at_20: float | None
    same_data: bool


class DriftField(Closed):
    """A field that moved; `since` ns since the epoch, None where it did not stay moved."""

    field: str
    psi: float
    since: int | None


class Drift(Closed):
    """Squared MMD with its permutation p, fields that moved, confidence and unknown share before and now."""

    score: float
    p: Share
    since: int | None
    fields: list[DriftField]
    before: dict[str, Share]
    now: dict[str, Share]
    update_due: bool


class LiveQuality(Quality):
    """The adapter's quality on live flows, `baselines` of the same training flows beside."""

    baselines: Baselines = Field(min_length=1)


class EvaluateDrift(Quality):
    """The adapter where it was trained, what live traffic has become, and its score there where labels are known."""

    task: str
    title: str
    part: str
    adapter: str
    version: str
    baselines: Baselines = Field(min_length=1)
    drift: Drift
    cut: dict[str, int]
    flows: dict[str, int]
    live: LiveQuality | None


class ComparedReport(Closed):
    """What one of two reports says of itself."""

    task: str
    adapter: str
    version: str
    macro_f1: Share
    accuracy: Share
    ci95: list[Share]
    split: str
    mask: str
    leaky: list[str]
    seen_by_base: str | int
    seeds: list[int]
    n_test: int


class ComparedClass(Closed):
    """F1 of one label in both reports, on the rows that both judged."""

    label: str
    support: int
    a: Share
    b: Share
    difference: float


class EvaluateCompare(Closed):
    """Two reports on the same flows: difference of macro-F1 with its paired bootstrap interval."""

    a: ComparedReport
    b: ComparedReport
    n: int
    only_a: int
    only_b: int
    groups: int
    macro_f1: dict[str, Share]
    difference: float
    ci95: list[float]
    p: Share
    verdict: str
    agreement: Share
    per_class: list[ComparedClass]
