"""What evaluation answers: the quality object wherever a score stands, baselines, shifts, drift, two reports compared."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from trafficllm.core.results import Result, Share


class ClassScore(Result):
    """One label, means over runs; `measurable` where its test part is large enough."""

    precision: Share
    recall: Share
    f1: Share
    support: int
    measurable: bool


class Confusion(Result):
    """Counts over all runs, a row a true label; the last column is any label outside `labels`."""

    labels: list[str]
    matrix: list[list[int]]


class UniqueScore(Result):
    """The scores where each masked content counts once a label."""

    macro_f1: Share
    accuracy: Share


class Quality(Result):
    """A score with everything that makes it honest: interval, split, masks, leaks, what the base had seen."""

    macro_f1: Share
    macro_f1_measurable: Share | None = None
    accuracy: Share
    ci95: list[Share] = Field(min_length=2, max_length=2)
    per_class: dict[str, ClassScore]
    confusion: Confusion
    n_test: int
    n_test_unique: int
    unique: UniqueScore
    groups: int
    scored_labels: list[str]
    not_measurable: dict[str, str]
    one_group: list[str] = Field(default_factory=list)
    split: str
    mask: str
    leaky: list[str]
    seen_by_base: str | int
    seeds: list[int]
    per_seed: list[Share]
    ece: Share | None = None
    brier: Share | None = None


class Baseline(Quality):
    """A baseline's score on the same rows, with its choice and cost."""

    params: dict[str, Any]
    seconds: float
    flows_per_s: float


class Perturbation(Result):
    """Macro-F1 of each scorer under one shift, with interval and change; `changed` share of flows, `lost` flows the reader lost."""

    name: str
    level: str
    changed: Share
    lost: int
    macro_f1: dict[str, Share]
    ci95: dict[str, list[Share]]
    delta: dict[str, float]


class Shifted(Result):
    """Scorers under shifts, the first row without one; mean loss of macro-F1 of each scorer."""

    perturbations: list[Perturbation]
    mean_loss: dict[str, float]


class ForgeTest(Result):
    """Macro-F1 before and after identifiers were rewritten in the judged rows."""

    before: Share
    after: Share
    delta: float
    relies_on_identifiers: bool


class PayloadTest(Result):
    """Macro-F1 before and after encrypted payload, and then all payload, became random bytes."""

    before: Share
    after: Share
    delta: float
    all_delta: float


class DriftField(Result):
    """A field that moved; `since` ns since the epoch, None where it did not stay moved."""

    field: str
    psi: float
    since: int | None


class Drift(Result):
    """Squared MMD with its permutation p, fields that moved, confidence and unknown share before and now."""

    score: float
    p: Share
    since: int | None
    fields: list[DriftField]
    before: dict[str, Share]
    now: dict[str, Share]
    update_due: bool


class Answers(Result):
    """Every judged row's name (file and uid), group, truth, and its answer in each run: what `evaluate compare` pairs."""

    rows: list[str]
    groups: list[str]
    truth: list[str]
    runs: list[list[str]]


class ComparedReport(Result):
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


class JudgedReport(ComparedReport):
    """A report of `evaluate run`, as far as a comparison reads it: what it says of itself, and its answers."""

    model_config = ConfigDict(extra="ignore")

    answers: Answers


class ComparedClass(Result):
    """F1 of one label in both reports, on the rows that both judged."""

    label: str
    support: int
    a: Share
    b: Share
    difference: float


class EvaluateCompare(Result):
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
