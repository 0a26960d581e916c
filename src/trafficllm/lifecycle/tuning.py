"""Stages 1 and 2 on their own: the plumbing under `adapter register`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.config import Config, load_config
from trafficllm.core.errors import UsageError
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.learn_router import instruct_data

if TYPE_CHECKING:
    from trafficllm.model.tune import TuneOptions


def tune_options(config: Config, *, seed: int, max_seconds: float | None) -> TuneOptions:
    """The tuner's options from the configuration and the command line."""
    from trafficllm.model.tune import TuneOptions

    chosen = config.tune.model_dump(exclude={"seed", "max_seconds", "epochs"})
    return TuneOptions(
        **chosen,
        epochs=max(1, round(config.tune.epochs)),
        seed=seed,
        max_seconds=max_seconds or config.tune.max_seconds,
    )


def tune_instruct(
    base: str,
    out: Path,
    *,
    tasks: Sequence[str],
    max_seconds: float | None,
    seed: int,
    extra: Sequence[Path],
    config: Path | None,
    progress: ProgressSink,
) -> dict[str, Any]:
    """Stage 1: a router adapter in `out` (contract: `tune instruct`)."""
    from trafficllm.model import tune
    from trafficllm.model.load import load_base
    from trafficllm.records import instructions
    from trafficllm.records.catalog import get_task, load_tasks

    chosen = [get_task(name, extra).id for name in tasks] or list(load_tasks(extra))
    if len(set(chosen)) < 2:
        raise UsageError(
            "usage.task",
            "a router needs two tasks or more",
            input="--task",
            hint="name another, or none for the whole catalogue",
        )
    rows = instructions.load("train")
    options = tune_options(load_config(config), seed=seed, max_seconds=max_seconds)
    report = tune.tune_instruct(
        load_base(base or "default"), instruct_data(set(chosen), rows), out, options, progress
    )
    return {**report.as_dict(), "out": str(out)}


def tune_task(
    data: Path,
    base: str,
    out: Path,
    *,
    max_seconds: float | None,
    seed: int,
    config: Path | None,
    progress: ProgressSink,
) -> dict[str, Any]:
    """Stage 2: a task adapter in `out` from a data set (contract: `tune task`)."""
    from trafficllm.lifecycle import learn
    from trafficllm.model import tune
    from trafficllm.model.load import load_base
    from trafficllm.records.dataset import load

    opened = load(data)
    options = tune_options(load_config(config), seed=seed, max_seconds=max_seconds)
    run = tune.tune_generation if opened.task.kind == "generation" else tune.tune_task
    report = run(load_base(base or "default"), learn.tune_data(opened), out, options, progress)
    return {**report.as_dict(), "out": str(out)}
