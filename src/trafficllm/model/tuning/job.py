"""Dual-stage tuning on any base: stage 1 (instruction -> task), stage 2 (traffic -> label), and generation (label -> record).

All three are one machine: prompts, answers, an adapter, `transformers.Trainer` with our batches and loss. The same call again
resumes from the last checkpoint, and returns at once when the run is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import read_json, sha256_bytes, sweep, write_json
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import NONE, ProgressSink, Record, Silent
from trafficllm.model.base.load import Base
from trafficllm.model.results import TuneReport
from trafficllm.model.tuning.options import CHECKPOINTS, METRICS, REPORT, Job, TuneData, class_weights, peak_bytes

__all__ = [
    "CHECKPOINTS",
    "METRICS",
    "REPORT",
    "Job",
    "TuneData",
    "TuneReport",
    "class_weights",
    "peak_bytes",
    "tune_generation",
    "tune_instruct",
    "tune_task",
]
RUN = "run.json"
"""Beside the checkpoints: whose they are."""


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
    done = _read(out / REPORT)
    if done.get("fingerprint") == mark:
        return TuneReport(**{**done["report"], "reused": True})
    with processes.in_turn() as first:
        if first:
            _begin(out / CHECKPOINTS, mark, _settings(job))
    report = run(job)
    with processes.in_turn() as first:
        if first:
            facts = {"fingerprint": mark, "options": job.options.model_dump(mode="json"), "labels": list(job.data.labels)}
            write_json(out / REPORT, {**facts, "rows": len(job.data.answers), "report": report.as_dict()})
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return report


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that an earlier run left; empty where there is none or it is damaged: the work is then done again."""
    try:
        body = read_json(path)
    except InputError:
        return {}
    return body if isinstance(body, dict) else {}


def _begin(checkpoints: Path, mark: str, settings: str) -> None:
    """Drop the checkpoints of a run with other settings, and say whose the next ones are.

    Raises InputError where the settings are those of an interrupted run but its data or base has changed since: going on would mix two.
    """
    begun = _read(checkpoints / RUN)
    if begun.get("settings") == settings and begun.get("fingerprint") != mark and any(checkpoints.glob("checkpoint-*")):
        raise InputError(
            "input.changed",
            "the data, or the base, is not what it was when this run was interrupted",
            input=str(checkpoints.parent),
            hint="restore it to go on, or start again: remove the folder or name another",
        )
    if begun.get("fingerprint") != mark:
        shutil.rmtree(checkpoints, ignore_errors=True)
        write_json(checkpoints / RUN, {"fingerprint": mark, "settings": settings})
    sweep(checkpoints)
    sweep(checkpoints.parent)


def _settings(job: Job) -> str:
    """Hash of what was asked for, beside the data: stage, options and labels."""
    return sha256_bytes("\n".join([job.stage, job.options.model_dump_json(), repr(job.data.labels)]).encode())
