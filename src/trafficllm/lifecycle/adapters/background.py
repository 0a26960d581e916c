"""The background that an adapter learns beside its labels: which folders, read as its records are, none of it labelled too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import UsageError
from trafficllm.core.types import ProgressSink

if TYPE_CHECKING:
    from trafficllm.core.settings import Config
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.records.sources.background import Background


def folders_of(task: Task, config: Config, stated: Sequence[Path] | None) -> Sequence[Path] | None:
    """The folders to learn as background: `stated` by a command, else the configuration's; None stands for the packaged captures.

    An empty sequence is none at all, as for tasks that ask no umbrella question where nobody states a folder: their labels may be what
    the packaged captures hold. Raises UsageError for a folder stated for a task that gives no verdicts, InputError for one that is
    missing or holds no captures, before any work.
    """
    from trafficllm.records.sources.background import require_captures

    folders = [Path(name).expanduser() for name in config.learn.background] if stated is None else list(stated)
    if task.kind != "detection":
        if stated:
            hint = "leave --background out"
            raise UsageError("usage.option", f"task {task.id} gives no verdicts, so it learns no background", input=task.id, hint=hint)
        return ()
    for folder in folders:
        require_captures(folder)
    if stated is None and not folders:
        return None if task.positive else ()
    return folders


def read_for(dataset: Dataset, labelled: Sequence[Path], folders: Sequence[Path] | None, *, progress: ProgressSink) -> Background | None:
    """The background in these folders (None: the packaged captures), its flows cut as the data set's; None where there are no folders.

    Captures of the packaged background that the data set labels too are left out; in folders of the user's own they are refused with
    InputError. `labelled` are captures that were learnt without being rows of the data set.
    """
    from trafficllm.records.sources.background import packaged, read_background, refuse_shared, shared_captures

    if folders is None:
        background = read_background([packaged()], options=dataset.shape.capture, progress=progress)
        shared = {row.name for row in shared_captures(background, dataset, labelled)}
        return background.where(lambda file: file.name not in shared)
    if not folders:
        return None
    background = read_background(folders, options=dataset.shape.capture, progress=progress)
    refuse_shared(background, dataset, labelled)
    return background
