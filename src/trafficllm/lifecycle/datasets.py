"""Folders of labelled captures -> data sets, and the task that a folder is for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import slug
from trafficllm.core.types import ProgressSink

if TYPE_CHECKING:
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import BuildReport

_NEAR = 0.6
"""Names this alike (difflib ratio) are taken for a typo of a known task rather than a new one: MDT, MTDD, mtd2."""


def new_task(name: str) -> Task:
    """A detection task of the user's own, named by its id."""
    from trafficllm.records.catalog import Task

    slug(name)
    return Task(id=name, title=name, kind="detection", instruction="label", housekeeping=True, notes="made from a folder of captures")


def own_task(name: str, known: dict[str, Task]) -> Task:
    """The catalogue's task, or a new one; UsageError for a name that looks like a typo of a known one."""
    if name in known or name.upper() in known:
        return known.get(name) or known[name.upper()]
    near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=_NEAR)
    if near:
        hint = f"did you mean '{near[0]}'? a task of your own needs a name less alike"
        raise UsageError("usage.task", f"no task '{name}'", input="--task", where=name, hint=hint)
    return new_task(name)


def task_of_folder(folder: Path, known: dict[str, Task]) -> Task:
    """The task a folder's name begins with (`MTD_ustc2016`), or a new one named after the folder."""
    name = folder.resolve().name
    first = name.split("_")[0].upper()
    return known[first] if first in known else new_task(name or "captures")


def is_data_set(folder: Path) -> bool:
    """Whether the folder was made by `data build`."""
    return (folder / "manifest.json").is_file() and (folder / "records.parquet").is_file()


def pick_task(folder: Path, task: str, extra: Sequence[Path]) -> Task:
    """The task for a folder of captures: the catalogue's or a new one by name, or by the folder's name."""
    from trafficllm.records.catalog import load_tasks

    known = load_tasks(extra)
    if not task:
        return task_of_folder(folder, known)
    return own_task(task, known)


def build(
    folder: Path,
    out: Path,
    *,
    task: Task,
    profile: str = "",
    split: str = "auto",
    keep: tuple[str, ...] = (),
    reserved: Path | None = None,
    cap: int | None = None,
    unknown: tuple[str, ...] = (),
    few_shot: tuple[int, ...] = (),
    folds: int = 0,
    split_from: Path | None = None,
    workers: int = 0,
    seed: int = 0,
    progress: ProgressSink,
) -> BuildReport:
    """Build a data set (contract: `data build`)."""
    from trafficllm.records.dataset.dataset import build_dataset
    from trafficllm.records.dataset.splits import UNITS

    if split not in {"auto", *UNITS}:
        raise UsageError("usage.split", f"no split unit '{split}'", input="--split", hint=f"auto, {', '.join(UNITS)}")
    if split_from is not None and (split != "auto" or folds):
        hint = "the file names the parts: leave --split and --folds away"
        raise UsageError("usage.split", "a split file and a split at once", input="--split-from", hint=hint)
    if reserved is not None and not reserved.is_file():
        raise InputError("input.missing", "no such file", input=str(reserved), hint="check --reserved")
    return build_dataset(
        folder,
        task=task,
        out=out,
        profile=profile or "strict",
        seed=seed,
        split=split,
        keep=keep,
        reserved=reserved,
        cap=cap,
        unknown=unknown,
        few_shot=few_shot,
        folds=folds,
        split_from=split_from,
        workers=workers,
        progress=progress,
    )
