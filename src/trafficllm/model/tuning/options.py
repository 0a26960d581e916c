"""The values of a tuning run: its settings, the rows it learns from, the report it ends with."""

from __future__ import annotations

import random
import resource
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trafficllm.core.types import ProgressSink, Prompt, Record
from trafficllm.model.base.load import Base

REPORT = "tune.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
NONE = "none"
"""Stage 1's answer to a question that asks for no task."""


class TuneOptions(BaseModel):
    """Settings of one run. `batch_tokens` padded tokens a step; `warmup`, `first_look` shares of the budget; `looks` at validation
    over the run (0: none, the last weights are kept); `patience` looks without gain end it (0: never); `full_weight` of the
    whole-vocabulary loss beside the trie's; `balance` exponent of the inverse class frequency in the loss; `prefix_tokens` virtual
    tokens of method "prefix"; `readout` rows at most, a third of them changed copies, that the readout of pooled states is
    fitted on after training (see model.readout; 0: none); `clock` that `max_seconds` is read from ("processor": fair between runs on a
    machine that others use too, with one thread); `shard` the parameters over the processes (FSDP2) instead of copying them (DDP).

    Measured on the embedded base, malware families, 123 k tokens in all, macro-F1: 512 tokens a step at 2e-3 .81, at 3e-3 .77; 1024 at
    3e-3 .67; 2048 at 5e-3 .63, at 2e-3 .47; at 1e-2 it diverges. Steps cost no more for being small, so many small ones win; rank 32
    was worse than 16 (.55 against .63)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["lora", "rslora", "dora", "qlora", "prefix", "full"] = "lora"
    prefix_tokens: int = Field(16, ge=1, le=512)
    r: int = Field(16, ge=1, le=256)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    epochs: int = Field(8, ge=1)
    max_steps: int | None = Field(None, ge=1)
    max_seconds: float | None = Field(None, gt=0)
    clock: Literal["wall", "processor"] = "wall"
    batch_tokens: int = Field(512, ge=1)
    max_grad_norm: float = Field(1.0, gt=0)
    full_weight: float = Field(0.1, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    balance: float = Field(0.5, ge=0, le=1)
    looks: int = Field(8, ge=0)
    first_look: float = Field(0.4, ge=0, le=1)
    patience: int = Field(0, ge=0)
    val_limit: int = Field(400, ge=1)
    save_steps: int = Field(100, ge=1)
    logging_steps: int = Field(10, ge=1)
    gradient_checkpointing: bool = False
    readout: int = Field(6000, ge=0)
    shard: bool = False
    report_to: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TuneData:
    """What to learn: prompts with their answers, and the closed label set (empty for generation).

    With `records` and `prompt_of`, prompts are made anew each epoch from `augment(record, random)`; `prompts` may then be empty.
    `weights` maps a label to its weight in the loss (default: balanced by `TuneOptions.balance`).
    """

    prompts: Sequence[Prompt]
    answers: Sequence[str]
    labels: tuple[str, ...] = ()
    val_prompts: Sequence[Prompt] = ()
    val_answers: Sequence[str] = ()
    weights: dict[str, float] | None = None
    records: Sequence[Record] = ()
    prompt_of: Callable[[Record], Prompt] | None = None
    augment: Callable[[Record, random.Random], Record] | None = None


@dataclass(frozen=True, slots=True)
class TuneReport:
    """A finished run; keys of CONTRACTS `tune task` and what the model card needs."""

    stage: str
    steps: int
    tokens: int
    tokens_per_second: float
    seconds: float
    peak_bytes: int
    resumed_from: int | None
    trainable: int
    best_step: int
    precision: str = "float32"
    processes: int = 1
    validation: dict[str, float] = field(default_factory=dict)
    readout: dict[str, float] | None = None
    reused: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Job:
    """All that one run needs; `start` is an adapter folder to go on from."""

    stage: str
    base: Base
    data: TuneData
    out: Path
    options: TuneOptions
    progress: ProgressSink
    start: str | Path | None = None


def class_weights(answers: Sequence[str], balance: float) -> dict[str, float]:
    """Loss weight of each label: inverse frequency to the power `balance`, mean 1 over the rows.

    >>> class_weights(["a", "a", "a", "b"], 0.0)
    {'a': 1.0, 'b': 1.0}
    """
    counts = Counter(answers)
    raw = {label: (len(answers) / (len(counts) * n)) ** balance for label, n in sorted(counts.items())}
    mean = sum(raw[label] * n for label, n in counts.items()) / len(answers)
    return {label: value / mean for label, value in raw.items()}


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
