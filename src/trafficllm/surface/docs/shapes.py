"""The closed shape of everything that other programs read: keys may be added here, never renamed or dropped."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trafficllm.surface.docs.shapes_lines import Closed, Share, Verdict

Counts = dict[str, int]


class Quality(Closed):
    """A score with everything that makes it honest: interval, split, masks, leaks, what the base had seen."""

    macro_f1: Share
    macro_f1_measurable: Share | None = None
    accuracy: Share
    ci95: list[Share] = Field(min_length=2, max_length=2)
    per_class: dict[str, dict[str, Any]]
    confusion: dict[str, Any]
    n_test: int
    n_test_unique: int
    unique: dict[str, Share]
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


class Failure(Closed):
    """What went wrong, where, and what to do."""

    code: str
    input: str
    where: str
    message: str
    hint: str


class Probability(Closed):
    """A task and how likely the question asks for it."""

    id: str
    probability: Share


class CaptureCounts(Closed):
    """Counts of captures; `first` and `last` in seconds since the Unix epoch."""

    packets: int
    bytes: int
    first: float | None
    last: float | None
    link_types: Counts
    truncated: int
    malformed: Counts
    non_ip: int
    non_flow: int
    flows: int
    evicted: int


class CaptureInfo(CaptureCounts):
    """Counts of captures, and the inputs among several that could not be read."""

    failed: list[Failure] = Field(default_factory=list)


class CaptureCheck(Closed):
    """Validity of every packet."""

    valid: bool
    packets: int
    malformed: Counts
    bad_checksums: int
    bad_lengths: int
    tcp_violations: list[str]
    tcp_unseen: int
    unchecked: int


class CaptureConvert(Closed):
    """A capture in another container."""

    file: str
    format: Literal["pcap", "pcapng"]
    packets: int


class CaptureAnonymize(CaptureConvert):
    """A capture with every host under another name; `dropped` frames by the reason."""

    payload: Literal["zero", "cut", "keep"]
    hosts: int
    dropped: Counts


class Analyze(Closed):
    """The summary of `analyze --json`."""

    flows: int
    tasks: list[str]
    route: dict[str, Any] | None
    verdicts: dict[str, Counts]
    above: dict[str, Counts] = Field(default_factory=dict)
    notable: list[Verdict]
    interrupted: bool = False
    capture: CaptureCounts
    failed: list[Failure] = Field(default_factory=list)


class DataBuild(Closed):
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


class DataFinding(Closed):
    """One thing that is wrong, or worth a look, in captures or a data set."""

    kind: str
    level: Literal["error", "warning", "info"]
    where: str
    message: str


class DataCheck(Closed):
    """What stands in the way of learning from captures or a data set."""

    ready: bool
    findings: list[DataFinding]
    classes: dict[str, Counts]
    duplicates: dict[str, Any]
    samples: list[Any]
    parts: Counts


class TaskRow(Closed):
    """A task of the catalogue; `live` is its adapter's version."""

    id: str
    title: str
    kind: str
    granularity: str
    labels: list[str]
    live: str | None


class TaskList(Closed):
    """The catalogue."""

    tasks: list[TaskRow]


class TaskShow(TaskRow):
    """One task."""

    instruction: str
    umbrella_question: str
    umbrella: dict[str, str]
    causal: dict[str, str]
    housekeeping: bool
    dataset: str
    notes: str


class TaskRoute(Closed):
    """Which tasks a question asks for."""

    tasks: list[Probability]
    none: Share


class AdapterRow(Closed):
    """A version in the registry."""

    task: str
    version: str
    status: Literal["live", "candidate", "rejected"]
    parent: str | None
    macro_f1: Share | None
    path: str


class AdapterList(Closed):
    """All versions."""

    registry: str
    adapters: list[AdapterRow]


class AdapterShow(Closed):
    """A version with its manifest."""

    task: str
    version: str
    status: Literal["live", "candidate", "rejected"]
    parent: str | None
    path: str
    manifest: dict[str, Any]


class AdapterChange(Closed):
    """A version after `promote` or `rollback`."""

    task: str
    version: str
    status: Literal["live", "candidate", "rejected"]
    parent: str | None
    quality: Quality | None
    baselines: dict[str, Any] | None


class Setting(Closed):
    """The whole configuration in force."""

    source: str
    config: dict[str, Any]


class Finding(Closed):
    """One thing that `doctor` looked at."""

    name: str
    status: Literal["ok", "optional", "missing"]
    detail: str
    hint: str


class Doctor(Closed):
    """What is here, what is missing and how to get it."""

    ready: bool
    findings: list[Finding]


class GeneratedPart(Closed):
    """Flows of one label in a synthetic capture."""

    task: str
    label: str
    flows: int


class Generate(Closed):
    """A synthetic capture and what the model had wrong before the grammar and the compiler put it right.

    `valid` is null where actions were written instead of packets.
    """

    task: str
    label: str
    version: str
    parts: list[GeneratedPart]
    file: str
    flows: int
    packets: int
    prevented: Counts
    repairs: Counts
    addresses_outside_documentation: int
    valid: bool | None
    sha256: str
    seed: int


class ErrorEnvelope(Closed):
    """What every command prints with `--json` when it fails."""

    schema_: Literal["trafficllm.error/1"] = Field(alias="schema")
    ok: Literal[False]
    error: Failure
