"""Dual-stage tuning on any base: stage 1 (instruction -> task), stage 2 (traffic -> label), and generation (label -> record).

All three are one machine: prompts, answers, an adapter, `transformers.Trainer` with our batches and loss. The same call again
resumes from the last checkpoint, and returns at once when the run is complete.
"""

from __future__ import annotations

import random
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import read_json, sha256_bytes, write_json
from trafficllm.core.types import ProgressSink, Prompt, Record, Silent
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


def tune_task(
    base: Base,
    data: TuneData,
    out: str | Path,
    options: TuneOptions | None = None,
    progress: ProgressSink | None = None,
    *,
    start_from: str | Path | None = None,
) -> TuneReport:
    """Stage 2: learn to name a label for each prompt; writes a stock PEFT folder to `out`.

    `start_from` is an adapter to go on from (stage 1's, or the live version at an update). Raises InputError where the data
    cannot be learnt from.
    """
    return _run(Job("task", base, data, Path(out), options or TuneOptions(), progress or Silent(), start_from))


def tune_instruct(
    base: Base, data: TuneData, out: str | Path, options: TuneOptions | None = None, progress: ProgressSink | None = None
) -> TuneReport:
    """Stage 1: learn which task a question asks for; labels are task ids and "none"."""
    if NONE not in data.labels:
        raise InputError("input.labels", "stage 1 needs the label 'none'", hint="add instructions that ask for no task")
    return _run(Job("instruct", base, data, Path(out), options or TuneOptions(), progress or Silent()))


def tune_generation(
    base: Base,
    data: TuneData,
    out: str | Path,
    options: TuneOptions | None = None,
    progress: ProgressSink | None = None,
    *,
    start_from: str | Path | None = None,
) -> TuneReport:
    """Learn to write records: answers are unit strings, the loss is the language model's on them."""
    return _run(Job("generation", base, data, Path(out), options or TuneOptions(), progress or Silent(), start_from))


def class_weights(answers: Sequence[str], balance: float) -> dict[str, float]:
    """Loss weight of each label: inverse frequency to the power `balance`, mean 1 over the rows.

    >>> class_weights(["a", "a", "a", "b"], 0.0)
    {'a': 1.0, 'b': 1.0}
    """
    counts = Counter(answers)
    raw = {label: (len(answers) / (len(counts) * n)) ** balance for label, n in sorted(counts.items())}
    mean = sum(raw[label] * n for label, n in counts.items()) / len(answers)
    return {label: value / mean for label, value in raw.items()}


def _check(data: TuneData) -> None:
    rows = max(len(data.prompts), len(data.records))
    if not rows or rows != len(data.answers) or len(data.val_prompts) != len(data.val_answers):
        raise InputError(
            "input.rows",
            f"{rows} prompts and {len(data.answers)} answers do not make rows to learn from",
            hint="check the data set's training part",
        )
    if data.labels and (unknown := sorted((set(data.answers) | set(data.val_answers)) - set(data.labels))):
        raise InputError("input.labels", f"answers outside the label set: {', '.join(unknown[:5])}", hint="rebuild the data set")
    if data.labels and len(set(data.answers)) < 2:
        raise InputError("input.labels", "all rows have one label: nothing to learn", hint="add a second class")


def _check_options(options: TuneOptions) -> None:
    """UsageError for settings that exclude each other."""
    if options.method == "prefix" and options.gradient_checkpointing:
        raise UsageError(
            "usage.method",
            "a prefix lives in the attention cache, which gradient checkpointing drops",
            input="gradient_checkpointing",
            hint="tune with another method, or without gradient checkpointing",
        )
    if options.shard and options.method in {"qlora", "prefix"}:
        raise UsageError(
            "usage.method", f"method '{options.method}' cannot be sharded", input="shard", hint="use lora, rslora, dora or full"
        )


def _fingerprint(job: Job) -> str:
    """Hash of everything the result depends on: a run is resumed or reused only where it is the same."""
    data, start = job.data, job.start
    parts = [job.stage, str(job.base.manifest.get("base_sha256", job.base.path.name))]
    parts += [job.options.model_dump_json(), repr(data.labels)]
    parts += [repr(data.weights), sha256_bytes(repr(list(data.prompts)).encode("utf-8", "surrogatepass"))]
    parts += [sha256_bytes(repr(list(data.answers)).encode()), sha256_bytes(repr(_stable(data.records)).encode())]
    parts += [sha256_bytes(repr(list(data.val_prompts)).encode("utf-8", "surrogatepass"))]
    if start is not None and (Path(start) / REPORT).is_file():
        parts.append(str(read_json(Path(start) / REPORT).get("fingerprint")))
    return sha256_bytes("\n".join(parts).encode())


def _stable(records: Sequence[Record]) -> list[str]:
    """Records as text without set order, which differs between processes."""
    return [f"{r.kind}{r.dirs}{r.sizes}{r.iats}{r.payload}{r.text}{sorted(r.masked)}" for r in records]


def _run(job: Job) -> TuneReport:
    from trafficllm.model.tuning import processes
    from trafficllm.model.tuning.run import run

    _check(job.data)
    _check_options(job.options)
    processes.join(next(job.base.model.parameters()).device.type, shard=job.options.shard)
    out, mark = job.out, _fingerprint(job)
    done = read_json(out / REPORT) if (out / REPORT).is_file() else {}
    if done.get("fingerprint") == mark:
        return TuneReport(**{**done["report"], "reused": True})
    with processes.in_turn() as first:
        if first:
            _begin(out / CHECKPOINTS, mark)
    report = run(job)
    with processes.in_turn() as first:
        if first:
            facts = {"fingerprint": mark, "options": job.options.model_dump(mode="json"), "labels": list(job.data.labels)}
            write_json(out / REPORT, {**facts, "rows": len(job.data.answers), "report": report.as_dict()})
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return report


def _begin(checkpoints: Path, mark: str) -> None:
    """Drop the checkpoints of any other run, and say whose the next ones are."""
    begun = checkpoints / "run.json"
    if not begun.is_file() or read_json(begun).get("fingerprint") != mark:
        shutil.rmtree(checkpoints, ignore_errors=True)
        write_json(begun, {"fingerprint": mark})


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
