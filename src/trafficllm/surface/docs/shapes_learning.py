"""Closed shapes of what learning commands print; see `shapes`."""

from __future__ import annotations

from typing import Any

from trafficllm.core.results import Counts, Result, Share
from trafficllm.evaluate.results import Baseline, Quality
from trafficllm.lifecycle.studies.results import CascadeScore


class Tokens(Result):
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


class TokenizerExtend(Result):
    """A traffic base that was made."""

    out: str
    vocab_size: int
    tokens_added: int
    tokens_per_flow: Tokens | None
    base_sha256: str
    rows: int
    linked: int


class TokenizerRow(Result):
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


class TokenizerTrain(Result):
    """A vocabulary file that was written."""

    out: str
    size: int
    units: int
    records: int
    longest: int


class Pieces(Result):
    """How a tokenizer reads a question."""

    ids: list[int]
    tokens: list[str]


class TokenizerShow(Result):
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


class TokenizerCompare(Result):
    """Tokenizers side by side on the same held-out records."""

    part: str
    flows: int
    tokenizers: list[TokenizerRow]


class TuneMemory(Result):
    """Bytes a process will need: base weights, state of the trained part, activations of the largest batch, the program."""

    weights: int
    states: int
    activations: int
    program: int
    total: int


class TunePlan(Result):
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


class Tune(Result):
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


class TuneRun(Result):
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


class Gate(Result):
    """Scores before and after an update on old data, new data and routing; None where there was no update."""

    old: dict[str, Share] | None
    new: dict[str, Share] | None
    router: dict[str, Share] | None


class AdapterRegister(Result):
    """A new version with its score, baselines, calibration and cost."""

    task: str
    version: str
    parent: str | None
    status: str
    path: str
    quality: Quality | None
    baselines: dict[str, Baseline]
    cascade: CascadeScore | None
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


class AdapterVerify(Result):
    """A registry whose files are all as they were registered."""

    registry: str
    versions: int
    tasks: list[str]


class AdapterExport(Result):
    """A version written for use elsewhere."""

    task: str
    version: str
    out: str
    merged: bool
    files: list[str]


class AdapterGc(Result):
    """Versions that were removed, as task/version."""

    registry: str
    removed: list[str]


class QuickstartTask(Result):
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


class Unseen(Result):
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


class Quickstart(Result):
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
