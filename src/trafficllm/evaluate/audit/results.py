"""What `data audit` answers."""

from __future__ import annotations

from typing import Any

from trafficllm.core.results import Counts, Result, Share
from trafficllm.evaluate.results import ClassScore, ForgeTest, PayloadTest, UniqueScore
from trafficllm.records.results import Artefact, Duplicates


class AuditFinding(Result):
    """A leak; `hidden`: the split or the masks of this data set keep it from a model."""

    kind: str
    field: str
    score: Share
    question: str
    hidden: bool


class AuditScore(Result):
    """A quality object without its confusion matrix; a baseline's with its choice and cost."""

    macro_f1: Share
    macro_f1_measurable: Share | None
    accuracy: Share
    ci95: list[Share]
    per_class: dict[str, ClassScore]
    n_test: int
    n_test_unique: int
    unique: UniqueScore
    groups: int
    not_measurable: dict[str, str]
    one_group: list[str]
    split: str
    mask: str
    leaky: list[str]
    seen_by_base: str | int
    seeds: list[int]
    ece: Share | None = None
    brier: float | None = None
    params: dict[str, Any] | None = None
    seconds: float | None = None
    flows_per_s: float | None = None


class AuditField(Result):
    """What one unmasked field tells, cross-validated by group."""

    field: str
    label: Share
    umbrella: Share | None
    hidden: bool


class ForgeOfBest(ForgeTest):
    """The forge test of the best tree (`by`); `limit` is the change that says it relies on identifiers."""

    by: str
    limit: float


class PayloadOfBest(PayloadTest):
    """The payload test of the best tree (`by`)."""

    by: str


class FieldProbe(Result):
    """What one field alone tells of the label, and of the umbrella question where the task has one."""

    label: Share
    umbrella: Share | None


class AuditFacts(Result):
    """What was found in the rows of a data set.

    `honest` and `leaky` are the macro-F1 of `per_packet`, where their quality objects stand with split, masks and interval.
    """

    findings: list[AuditFinding]
    not_checked: list[str]
    flows: int
    classes: dict[str, Counts]
    not_measurable: dict[str, str]
    duplicates: Duplicates
    shared_groups: int
    shared: Counts
    identifier_probe: Share | None
    artefact_probe: dict[str, FieldProbe]
    fields: list[AuditField]
    baselines: dict[str, AuditScore]
    honest: Share
    leaky: Share
    per_packet: dict[str, AuditScore]
    forge: ForgeOfBest
    payload: PayloadOfBest
    judged: str
    split: str
    mask: str
    cap: dict[str, int | None]


class AuditedRows(AuditFacts):
    """The facts, and the verdict on them in plain sentences."""

    verdict: str


class DataAudit(AuditedRows):
    """Shortcuts found in a data set, the score that may be believed, and what the data set was built with."""

    masked_fields: list[str]
    artefact_masked: list[Artefact]
    causal: dict[str, str]
    task: str
    dataset_sha256: str
    dropped: Counts
    leaky_options: list[str]
