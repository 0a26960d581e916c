"""Folders of labelled captures -> data sets, and the task that a folder is for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import read_json, slug
from trafficllm.core.types import NONE, UNKNOWN, ProgressSink

if TYPE_CHECKING:
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import BuildOptions, BuildReport
    from trafficllm.records.dataset.nodes import Spread


def new_task(name: str) -> Task:
    """A detection task of the user's own, named by its id."""
    from trafficllm.records.catalog import Task

    slug(name)
    return Task(id=name, title=name, kind="detection", instruction="label", housekeeping=True, notes="made from a folder of captures")


def is_own(name: str, catalogue: Mapping[str, Task]) -> bool:
    """Whether the name is a task of the user's own, not one of the catalogue's."""
    return name not in catalogue and name.upper() not in catalogue


def own_task(name: str, catalogue: Mapping[str, Task]) -> Task:
    """The catalogue's task, or a new one; UsageError for a name that is one edit away from a task's: a typo."""
    if not is_own(name, catalogue):
        return catalogue.get(name) or catalogue[name.upper()]
    if name.casefold() in {UNKNOWN, NONE}:
        hint = "choose another name"
        raise UsageError("usage.task", f"a task cannot be called '{name}'", input="--task", where=name, hint=hint)
    near = next((task for task in catalogue if one_edit_apart(name.upper(), task.upper())), None)
    if near:
        hint = f"did you mean '{near}'? a task of your own needs a name that differs from it in more than one letter"
        raise UsageError("usage.task", f"no task '{name}'", input="--task", where=name, hint=hint)
    return new_task(name)


def one_edit_apart(a: str, b: str) -> bool:
    """Whether one letter inserted, left out, replaced or swapped with its neighbour makes one word the other.

    >>> one_edit_apart("MDT", "MTD"), one_edit_apart("MTDD", "MTD"), one_edit_apart("WILD", "FIELD")
    (True, True, False)
    """
    if a == b or abs(len(a) - len(b)) > 1:
        return False
    if len(a) != len(b):
        long, short = (a, b) if len(a) > len(b) else (b, a)
        return any(long[:k] + long[k + 1 :] == short for k in range(len(long)))
    differ = [k for k in range(len(a)) if a[k] != b[k]]
    swapped = len(differ) == 2 and differ[1] == differ[0] + 1 and (a[differ[0]], a[differ[1]]) == (b[differ[1]], b[differ[0]])
    return len(differ) == 1 or swapped


def labels_of(folder: Path) -> tuple[str, ...]:
    """Labels of a data set or of a folder of captures, sorted; empty where they stand inside files of another form.

    Raises InputError where the folder holds nothing to learn from.
    """
    from trafficllm.records.sources import rows as sources

    if is_data_set(folder):
        return tuple(read_json(folder / "manifest.json")["labels"])
    return tuple(sorted({file.label for file in sources.find(folder).files} - {""}))


def with_notable(task: Task, notable: Sequence[str], labels: Sequence[str]) -> Task:
    """A task of the user's own whose `notable` labels raise an event.

    UsageError for a name that is no label of the data (where `labels` is empty, nothing is checked).
    """
    for name in notable:
        if labels and name not in labels:
            near = difflib.get_close_matches(name, labels, n=1, cutoff=0.0)
            hint = f"did you mean '{near[0]}'? labels are {', '.join(labels)}"
            raise UsageError("usage.label", f"no label '{name}' in the data", input="--notable", where=name, hint=hint)
    return task.model_copy(update={"notable": tuple(dict.fromkeys(notable))})


def task_of_folder(folder: Path, catalogue: Mapping[str, Task]) -> Task:
    """The task a folder's name begins with (`MTD_ustc2016`), or a new one named after the folder."""
    name = folder.resolve().name
    first = name.split("_")[0].upper()
    return catalogue[first] if first in catalogue else new_task(name or "captures")


def is_data_set(folder: Path) -> bool:
    """Whether the folder was made by `data build`."""
    return (folder / "manifest.json").is_file() and (folder / "records.parquet").is_file()


def pick_task(folder: Path, task: str, extra: Sequence[Path]) -> Task:
    """The task for a folder of captures: the catalogue's or a new one by name, or by the folder's name."""
    from trafficllm.records.catalog import load_tasks

    catalogue = load_tasks(extra)
    return own_task(task, catalogue) if task else task_of_folder(folder, catalogue)


def build(folder: Path, out: Path, *, task: Task, options: BuildOptions, progress: ProgressSink, on: Spread | None = None) -> BuildReport:
    """Build a data set (contract: `data build`), `on` a cluster where there is one.

    Raises UsageError and InputError for options that name nothing, before any work.
    """
    from trafficllm.records.dataset.dataset import build_dataset
    from trafficllm.records.dataset.splits import UNITS

    if options.split not in {"auto", *UNITS}:
        raise UsageError("usage.split", f"no split unit '{options.split}'", input="--split", hint=f"auto, {', '.join(UNITS)}")
    if options.split_from is not None and (options.split != "auto" or options.folds):
        hint = "the file names the parts: leave --split and --folds away"
        raise UsageError("usage.split", "a split file and a split at once", input="--split-from", hint=hint)
    if options.reserved is not None and not Path(options.reserved).is_file():
        raise InputError("input.missing", "no such file", input=str(options.reserved), hint="check --reserved")
    return build_dataset(folder, task=task, out=out, options=options, progress=progress, on=on)
