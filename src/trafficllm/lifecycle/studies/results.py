"""What `evaluate`, `embed` and the cascade answer. A score never stands without split, masks, interval and baselines."""

from __future__ import annotations

from pydantic import Field

from trafficllm.core.results import Captured, Result, Share
from trafficllm.evaluate.audit.results import AuditScore
from trafficllm.evaluate.by_source.results import Gain, OpenworldBaseline, OpenworldScores
from trafficllm.evaluate.fidelity.results import ClassFidelity, Overlap
from trafficllm.evaluate.results import Answers, Baseline, Drift, Perturbation, Quality

Baselines = dict[str, Baseline]


class Evaluated(Quality):
    """An adapter's score on one part of a data set of its task."""

    task: str
    title: str
    part: str
    adapter: str
    version: str


class EvaluatedAdapter(Result):
    """One run: an adapter, its version in the registry and the seed it was trained with."""

    name: str
    version: str
    seed: int | None


class Curves(Result):
    """Points of the reliability and risk-coverage plots."""

    reliability: list[dict[str, Share]]
    risk_coverage: list[dict[str, Share]]


class UnknownClasses(Result):
    """How well flows of classes that were never learnt are told from known ones."""

    labels: list[str]
    n: int
    auroc: Share
    fpr_at_tpr95: Share
    tpr_at_fpr05: Share
    called_unknown: Share


class LabelSets(Result):
    """What `labels_90` of the first adapter holds on the judged rows: share of rows whose label is among them (`coverage`; promised .9 for
    captures like those calibrated on), the same with captures alike, and how many labels they name on average."""

    coverage: Share
    coverage_of_captures: Share
    mean_size: float
    n: int


class Probe(Quality):
    """A probe on frozen vectors and the setting that validation chose."""

    setting: float


class VectorMap(Result):
    """Judged flows in two dimensions."""

    how: str
    points: list[list[float]]
    labels: list[str]


class Frozen(Result):
    """Probes on the base's frozen vectors, `width` numbers a flow, from `train` training rows."""

    base: str
    width: int
    train: int
    probes: dict[str, Probe] = Field(min_length=1)
    map: VectorMap


class CascadeScore(Quality):
    """Trees answer the `share` of flows they are sure of, the adapter the rest; `first_error` of the trees' answers are wrong."""

    first: str
    share: Share
    first_error: Share
    flows_per_s: float
    llm_flows_per_s: float
    validation: dict[str, float | None]


class Beside(Result):
    """What stands beside an adapter's score: every baseline's row, and the cascade of LightGBM and the adapter."""

    baselines: Baselines
    cascade: CascadeScore | None


class EvaluateRun(Evaluated):
    """Adapters' score on a data set's test part, with baselines on the same input; `baselines` is never empty."""

    adapters: list[EvaluatedAdapter]
    dataset_sha256: list[str]
    base_sha256: str
    masked_fields: list[str]
    artefact_masked: list[str]
    answers: Answers
    cost: dict[str, float]
    baselines: Baselines = Field(min_length=1)
    cascade: CascadeScore | None
    curves: dict[str, Curves]
    unknown: UnknownClasses | None
    labels_90: LabelSets | None = None
    embedding: Frozen | None


class Neighbour(Result):
    """A known flow and the cosine similarity of its vector."""

    uid: str
    label: str
    file: str
    similarity: float


class Neighbours(Result):
    """A flow's nearest known ones, nearest first."""

    uid: str
    nearest: list[Neighbour]


class Embed(Result):
    """Vectors that were made; `nearest` where known ones were named."""

    base_sha256: str
    pool: str
    task: str
    version: str
    flows: int
    width: int
    out: str
    nearest: list[Neighbours]


class Goal(Result):
    """Mean loss against LightGBM's: at most `share` is wanted; `ratio` None where LightGBM loses nothing."""

    share: Share
    ratio: float | None
    met: bool


class Forged(Result):
    """Change of macro-F1 where identifiers are rewritten; beyond `limit` the adapter relies on them."""

    delta: float
    limit: float
    relies_on_identifiers: bool


class RandomPayload(Result):
    """Change of macro-F1 where encrypted payload, and where all payload, is random bytes."""

    delta: float
    all_delta: float


class EvaluateRobust(Evaluated):
    """An adapter's score as it is, and under shifts beside LightGBM's; `on_wire`: packets were changed and read again."""

    baselines: Baselines = Field(min_length=1)
    perturbations: list[Perturbation] = Field(min_length=2)
    mean_loss: dict[str, float]
    goal: Goal
    forge: Forged
    payload: RandomPayload
    on_wire: bool


class ShotScore(AuditScore):
    """A quality object over draws, without its confusion matrix."""

    scored_labels: list[str]
    per_seed: list[Share]


class Shots(Result):
    """Learning from `shots` flows a class, means over `draws`; `fewest` training flows that a class has at all."""

    shots: int
    draws: int
    fewest: int
    rows: dict[str, ShotScore] = Field(min_length=2)


class EvaluateTransfer(Evaluated):
    """What an adapter of one source is worth on another (`direct`), and how few flows are enough to learn anew."""

    source: str
    baselines: Baselines
    direct: bool
    shots: list[Shots] = Field(min_length=1)
    gain_at_20: float | None
    same_data: bool


class ScoredBeside(Quality):
    """A score with the baselines that learnt from the same flows."""

    baselines: Baselines = Field(min_length=1)


class EvaluateDrift(Evaluated):
    """The adapter where it was trained, what live traffic has become, and its score there where labels are known."""

    baselines: Baselines = Field(min_length=1)
    drift: Drift
    cut: dict[str, int]
    flows: dict[str, int]
    live: ScoredBeside | None


class Validity(Result):
    """What `capture check` says of the generated captures."""

    valid: bool
    packets: int
    malformed: int
    bad_checksums: int
    bad_lengths: int
    tcp_violations: int


class CutShape(Result):
    """How the real captures were cut, and so the generated ones: bytes of a packet, of a flow; 0: whole."""

    snap: int
    flow: int


class EvaluateGeneration(ClassFidelity):
    """Generated captures against held-out real ones of the same classes: fidelity, validity, identifiers, and how both were cut."""

    valid: Validity
    overlap: Overlap
    cuts: dict[str, CutShape]
    part: str
    seed: int


class BackgroundFacts(Result):
    """The background that was learnt beside the data: folders, sources with their flows, captures and flows."""

    folders: list[str]
    sources: dict[Captured, int]
    captures: int
    flows: int


class EvaluateOpenworld(OpenworldScores):
    """A task's umbrella question on sources that nobody learnt from: every source judged by models of all others, baselines beside it.

    `learner` is ours (the embedded base's states under a readout, unless another is named). `gain` is its figures less the best
    baseline's. `flows` counts those learnt from and judged on each side; `dropped` what was left out and why. `leaky` marks masks that
    show what names the laboratory; `seen_by_base` how many judged contents the base was trained on.
    """

    task: str
    title: str
    question: str
    positive: list[str]
    negative: list[str]
    part: str
    learner: str
    profile: str
    mask: str
    split: str
    folds: int
    background: BackgroundFacts
    baselines: dict[str, OpenworldBaseline] = Field(min_length=1)
    gain: list[Gain]
    seeds: list[int]
    flows: dict[str, int]
    dropped: dict[Captured, int]
    leaky: list[str]
    seen_by_base: str
    dataset_sha256: list[str]
    base_sha256: str
    seconds: float
