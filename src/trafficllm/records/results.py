"""What `data build` and `data check` answer."""

from __future__ import annotations

from typing import Literal, TypeAlias

from typing_extensions import TypedDict

from trafficllm.core.results import Counts, Result, Share, closed


class Duplicates(Result):
    """Shares of records: that equal another, that equal one of another label; the accuracy no answer to contents can pass."""

    share: Share
    conflicting: Share
    ceiling: Share


class Artefact(Result):
    """A field that was masked because it tells how the data were captured, and its score as a probe."""

    field: str
    score: Share


class Split(Result):
    """By what unit records were split, and why; groups, records of each part and those reserved."""

    unit: str
    why: str
    groups: int
    parts: Counts
    reserved: int
    notes: list[str]


State: TypeAlias = Literal["shown", "hidden", "instead"]


@closed
class TokenState(TypedDict):
    """A token, "shown" to a model, "hidden" by the masks, or put "instead"."""

    token: str
    state: State


class Sample(Result):
    """A record as a model sees it, token by token what the masks took away, and which fields they hide."""

    label: str
    record: str
    tokens: list[TokenState]
    masked: list[str]


class DataBuild(Result):
    """What a data set holds, what was dropped and masked, and how it was split."""

    records: int
    classes: dict[str, Counts]
    dropped: Counts
    normalised: Counts
    malformed: list[str]
    groups: int
    split: Split
    split_files: list[str]
    mask: str
    masked_fields: list[str]
    artefact_masked: list[Artefact]
    leaky: list[str]
    duplicates: Duplicates
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
    duplicates: dict[str, Share]
    samples: list[Sample]
    parts: Counts
