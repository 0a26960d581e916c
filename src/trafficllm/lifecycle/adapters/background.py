"""The background that an adapter learns beside its labels: which folders, read as its records are, none of it labelled too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import UsageError
from trafficllm.core.types import ProgressSink

if TYPE_CHECKING:
    from trafficllm.core.settings import Config
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.records.sources.background import Background


@dataclass(frozen=True, slots=True)
class Beside:
    """Which background to learn: folders of the user's own, and whether the package's captures too."""

    folders: Sequence[Path] = ()
    packaged: bool = False

    def __bool__(self) -> bool:
        return bool(self.folders) or self.packaged

    @property
    def name(self) -> str:
        """What tells this background from another, for the name of a working folder."""
        return "\n".join([*(str(folder.resolve()) for folder in self.folders), *(["packaged"] if self.packaged else [])])


NOTHING = Beside()


def chosen(task: Task, config: Config, stated: Sequence[Path] | None, *, packaged: bool = True) -> Beside:
    """The background to learn: folders `stated` by a command, else the configuration's; beside them the packaged captures, unless the
    configuration or `packaged` says no.

    Tasks that ask no umbrella question learn the package's captures never: their labels may be what these hold. Raises UsageError for a
    folder stated for a task that gives no verdicts, InputError for one that is missing or holds no captures, before any work.
    """
    from trafficllm.records.sources.background import require_captures

    folders = [Path(name).expanduser() for name in config.learn.background] if stated is None else list(stated)
    if task.kind != "detection":
        if stated:
            hint = "leave --background out"
            raise UsageError("usage.option", f"task {task.id} gives no verdicts, so it learns no background", input=task.id, hint=hint)
        return NOTHING
    for folder in folders:
        require_captures(folder)
    return Beside(folders, packaged and config.learn.packaged and bool(task.positive))


def read_for(dataset: Dataset, labelled: Sequence[Path], beside: Beside, *, progress: ProgressSink) -> Background | None:
    """The background's flows, cut as the data set's; None where there is none to learn.

    Captures of the packaged background that the data set labels too are left out; in folders of the user's own they are refused with
    InputError. `labelled` are captures that were learnt without being rows of the data set.
    """
    from trafficllm.records.sources.background import packaged, read_background, refuse_shared, shared_captures

    parts = []
    if beside.folders:
        parts.append(read_background(beside.folders, options=dataset.shape.capture, progress=progress))
        refuse_shared(parts[0], dataset, labelled)
    if beside.packaged:
        background = read_background([packaged()], options=dataset.shape.capture, progress=progress)
        shared = {row.name for row in shared_captures(background, dataset, labelled)}
        mine = {file.sha256 for part in parts for file in part.files}
        parts.append(background.where(lambda file: file.name not in shared and file.sha256 not in mine))
    return parts[0].plus(parts[1]) if len(parts) > 1 else parts[0] if parts else None
