"""The values of a tuning run: its settings, the rows it learns from, the report it ends with."""

from __future__ import annotations

import random
import resource
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import ProgressSink, Prompt, Record
from trafficllm.model.base.load import Base

REPORT = "tune.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"


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
