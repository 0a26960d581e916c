"""Closed shapes of what learning and judging commands print; see `shapes`."""

from __future__ import annotations

from typing import Any

from trafficllm.surface.docs.shapes import Counts, Quality
from trafficllm.surface.docs.shapes_lines import Closed, Share


class Baseline(Quality):
    """A baseline's score on the same rows, with its choice and cost."""

    params: dict[str, Any]
    seconds: float
    flows_per_s: float


class Cascade(Quality):
    """Trees answer the `share` of flows they are sure of, the adapter the rest; `first_error` of the trees' answers are wrong."""

    first: str
    share: Share
    first_error: Share
    flows_per_s: float
    llm_flows_per_s: float
    validation: dict[str, float | None]


class Tokens(Closed):
    """Mean tokens of a flow: plain readable text against the extension, and other forms for comparison."""

    plain: float
    extended: float
    ratio: float
    flows: int
    byte_fallback: float
    original_form: float
    original_form_extended: float
    exact: bool
    vocabulary: int


class TokenizerExtend(Closed):
    """A traffic base that was made."""

    out: str
    vocab_size: int
    tokens_added: int
    tokens_per_flow: Tokens | None
    base_sha256: str
    rows: int
    linked: int


class TokenizerRow(Closed):
    """What a flow costs under one tokenizer; `ratio` against the first, `native_ratio` against its own readable text."""

    tokenizer: str
    vocab_size: int
    traffic_tokens: int
    tokens_per_flow: float
    ratio: float
    readable: float
    native_ratio: float
    original_form: float
    exact: bool | None


class TokenizerTrain(Closed):
    """A vocabulary file that was written."""

    out: str
    size: int
    units: int
    records: int
    longest: int


class Pieces(Closed):
    """How a tokenizer reads a question."""

    ids: list[int]
    tokens: list[str]


class TokenizerShow(Closed):
    """A vocabulary file, or a base's tokenizer (which has the last four)."""

    name: str
    kind: str
    traffic_tokens: int
    units: int
    learnt: int
    mean_length: float
    longest: int
    codec_hash: str
    most_useful: list[str]
    vocab_size: int | None = None
    control: list[str] | None = None
    chat_template: bool | None = None
    text: Pieces | None = None


class TokenizerCompare(Closed):
    """Tokenizers side by side on the same held-out records."""

    part: str
    flows: int
    tokenizers: list[TokenizerRow]


class TuneMemory(Closed):
    """Bytes a process will need: base weights, state of the trained part, activations of the largest batch, the program."""

    weights: int
    states: int
    activations: int
    program: int
    total: int


class TunePlan(Closed):
    """What a tuning run will need; nothing was trained."""

    stage: str
    base: str
    method: str
    precision: str
    processes: int
    parameters: int
    trainable: int
    rows: int
    labels: int
    tokens_per_epoch: int
    longest: int
    steps: int
    tokens: int
    memory: TuneMemory
    seconds: float
    tokens_per_second: float
    readout_seconds: float


class Tune(Closed):
    """A finished tuning run."""

    stage: str
    steps: int
    tokens: int
    tokens_per_second: float
    seconds: float
    peak_bytes: int
    resumed_from: int | None
    validation: dict[str, float]
    trainable: int
    best_step: int
    precision: str = "float32"
    processes: int = 1
    readout: dict[str, float] | None = None
    reused: bool
    out: str
    plot: str | None = None


class TuneRun(Closed):
    """A tuning run inside a registration."""

    stage: str
    steps: int
    tokens: int
    tokens_per_second: float
    seconds: float
    peak_bytes: int
    resumed_from: int | None
    validation: dict[str, float]
    trainable: int
    best_step: int
    precision: str = "float32"
    processes: int = 1
    readout: dict[str, float] | None = None
    reused: bool


class Gate(Closed):
    """Scores before and after an update on old data, new data and routing; None where there was no update."""

    old: dict[str, Share] | None
    new: dict[str, Share] | None
    router: dict[str, Share] | None


class AdapterRegister(Closed):
    """A new version with its score, baselines, calibration and cost."""

    task: str
    version: str
    parent: str | None
    status: str
    path: str
    quality: Quality | None
    baselines: dict[str, Baseline]
    cascade: Cascade | None
    gate: Gate
    calibration: dict[str, Any]
    unknown: dict[str, Any]
    cost: dict[str, float]
    tuning: TuneRun
    seconds: float
    peak_bytes: int
    replayed: int


class AdapterUpdate(AdapterRegister):
    """A version made from the live one and new captures: what its gate saw, decided and why."""

    why: str
    transfer: dict[str, float]
    added_labels: list[str]
    dropped: Counts
    parent_seconds: float


class AdapterVerify(Closed):
    """A registry whose files are all as they were registered."""

    registry: str
    versions: int
    tasks: list[str]


class AdapterExport(Closed):
    """A version written for use elsewhere."""

    task: str
    version: str
    out: str
    merged: bool
    files: list[str]


class AdapterGc(Closed):
    """Versions that were removed, as task/version."""

    registry: str
    removed: list[str]


class AuditFinding(Closed):
    """A leak; `hidden`: the split or the masks of this data set keep it from a model."""

    kind: str
    field: str
    score: Share
    question: str
    hidden: bool


class AuditScore(Closed):
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


class AuditField(Closed):
    """What one unmasked field tells, cross-validated by group."""

    field: str
    label: Share
    umbrella: Share | None
    hidden: bool


class DataAudit(Closed):
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


class QuickstartTask(Closed):
    """One task of the quickstart."""

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


class Unseen(Closed):
    """A capture that nothing was trained on, and what was said of it."""

    file: str
    source: str
    truth: str
    question: str
    route: dict[str, Any] | None
    task: str
    flows: int
    labels: Counts
    unknown: int
    confidence: Share


class Quickstart(Closed):
    """The whole path."""

    size: str
    data: dict[str, Any]
    tasks: list[QuickstartTask]
    tokens_per_flow: Tokens
    family: dict[str, Any]
    routing: dict[str, Any]
    unseen: list[Unseen]
    generated: dict[str, Any]
    curves: dict[str, list[list[float]]]
    seconds: dict[str, float]
    reused: list[str]
    next: list[dict[str, str]]
    report: str
