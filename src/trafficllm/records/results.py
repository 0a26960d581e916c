"""What `data build` and `data check` answer."""

from __future__ import annotations

from typing import Any, Literal

from trafficllm.core.results import Counts, Result


class DataBuild(Result):
    """What a data set holds, what was dropped and masked, and how it was split."""

    records: int
    classes: dict[str, Counts]
    dropped: Counts
    normalised: Counts
    malformed: list[str]
    groups: int
    split: dict[str, Any]
    split_files: list[str]
    mask: str
    masked_fields: list[str]
    artefact_masked: list[dict[str, Any]]
    leaky: list[str]
    duplicates: dict[str, Any]
    dataset_sha256: str
    out: str
    reused: bool


class DataFinding(Result):
    """One thing that is wrong, or worth a look, in captures or a data set."""

    kind: str
    level: Literal["error", "warning", "info"]
    where: str
    message: str


class DataCheck(Result):
    """What stands in the way of learning from captures or a data set."""

    ready: bool
    findings: list[DataFinding]
    classes: dict[str, Counts]
    duplicates: dict[str, Any]
    samples: list[Any]
    parts: Counts
