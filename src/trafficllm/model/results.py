"""What tuning and tokenizers report. Nothing here loads torch, so that a page or a schema can name it."""

from __future__ import annotations

from trafficllm.core.results import Result, Share


class ReadoutFit(Result):
    """What a readout was fitted on, the weight it was given beside the LLM, and the seconds it took."""

    rows: int
    features: int
    weight: float
    seconds: float


class TuneReport(Result):
    """A finished run: steps, tokens seen, seconds, memory, validation scores, the step whose weights were kept, the threads at its end."""

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
    threads: int = 1
    readout: ReadoutFit | None = None
    reused: bool


class Imported(Result):
    """A GGUF file that became a folder, and what was checked: sizes, rope base frequency, whether input and output embeddings are one,
    `english_loss` in nats a token, a greedy `sentence`, whether the tokenizer cuts that sentence as the model wrote it, and warnings."""

    architecture: str
    parameters: int
    vocabulary: int
    licence: str
    rope_theta: float | None
    tied: bool
    digits_apart: bool
    english_loss: float
    sentence: str
    reads_back: bool
    warnings: list[str]


class TuneMemory(Result):
    """Bytes of one process: `weights` of the base, `states` of the trained part (weights, gradients, two moments),
    `activations` of the largest batch, `program` what the process holds already, `gathered` whole parameters while they are computed with,
    where they are sharded; `total` their sum."""

    weights: int
    states: int
    activations: int
    program: int
    total: int
    gathered: int = 0


class Forecast(Result):
    """What a tuning run will need. `tokens` over the whole run, without padding; `seconds` of training on this machine, or the time
    budget where less; `readout_seconds` come on top, for a task's readout, budget or not. Both are those of the machine as it is at
    present: of its processor time this process gets `share`. `idle_seconds` is the training with the cores to itself."""

    parameters: int
    trainable: int
    rows: int
    tokens_per_epoch: int
    longest: int
    steps: int
    tokens: int
    memory: TuneMemory
    seconds: float
    tokens_per_second: float
    readout_seconds: float
    idle_seconds: float = 0.0
    share: Share = 1.0


class Tokens(Result):
    """Mean tokens of a flow over `flows` records in each form, to two decimals; `ratio` is plain / extended, `exact` whether all
    records came back."""

    plain: float
    extended: float
    ratio: float
    flows: int
    byte_fallback: float
    original_form: float
    original_form_extended: float
    exact: bool
    vocabulary: int
