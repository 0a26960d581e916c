"""What `data audit` answers."""

from __future__ import annotations

from typing import Any

from trafficllm.core.results import Counts, Result, Share


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
    per_class: dict[str, dict[str, Any]]
    n_test: int
    n_test_unique: int
    unique: dict[str, Share]
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


class DataAudit(Result):
    """Shortcuts found in a data set, and the score that may be believed.

    `honest` and `leaky` are the macro-F1 of `per_packet`, where their quality objects stand with split, masks and interval.
    """

    findings: list[AuditFinding]
    not_checked: list[str]
    flows: int
    classes: dict[str, Counts]
    not_measurable: dict[str, str]
    duplicates: dict[str, Any]
    shared_groups: int
    shared: Counts
    identifier_probe: Share | None
    artefact_probe: dict[str, Any]
    fields: list[AuditField]
    baselines: dict[str, AuditScore]
    honest: Share
    leaky: Share
    per_packet: dict[str, AuditScore]
    forge: dict[str, Any]
    payload: dict[str, Any]
    judged: str
    split: str
    mask: str
    cap: dict[str, int | None]
    masked_fields: list[str]
    artefact_masked: list[dict[str, Any]]
    causal: dict[str, str]
    task: str
    dataset_sha256: str
    dropped: Counts
    leaky_options: list[str]
    verdict: str
