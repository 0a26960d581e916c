"""The background that an adapter learns beside its labels: which folders, read as its records are, none of it labelled too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.types import ProgressSink

if TYPE_CHECKING:
    from trafficllm.core.settings import Config
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.records.sources.background import Background

POSITIVES = 400
"""Flows at most of a capture of the positive side: most of an infected host's flows are housekeeping, which is not learnt as malicious."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Which background to learn: folders of the user's own, and whether the package's captures too; `positives` are folders of captures of
    the umbrella's positive side, and `others` the package's folder of such ("": none)."""

    folders: Sequence[Path] = ()
    packaged: bool = False
    positives: Sequence[Path] = ()
    others: str = ""

    def __bool__(self) -> bool:
        return bool(self.folders) or self.packaged

    @property
    def name(self) -> str:
        """What tells this background from another, for the name of a working folder."""
        mine = [*(str(folder.resolve()) for folder in self.folders), *(["packaged"] if self.packaged else [])]
        return "\n".join([*mine, *(f"positive {folder.resolve()}" for folder in self.positives), *([self.others] if self.others else [])])


NOTHING = Beside()


def chosen(task: Task, config: Config, stated: Sequence[Path] | None, *, packaged: bool = True, positives: Sequence[Path] = ()) -> Beside:
    """The background to learn: folders `stated` by a command, else the configuration's; beside them the packaged captures, unless the
    configuration or `packaged` says no. `positives` are folders of captures of the umbrella's positive side that no label names.

    Tasks that ask no umbrella question learn the package's captures never: their labels may be what these hold. Raises UsageError for a
    folder stated for a task that gives no verdicts, or for positives of a task without an umbrella question or without any background;
    InputError for one that is missing or holds no captures, before any work.
    """
    from trafficllm.records.sources.background import require_captures

    folders = [Path(name).expanduser() for name in config.learn.background] if stated is None else list(stated)
    if task.kind != "detection":
        if stated:
            hint = "leave --background out"
            raise UsageError("usage.option", f"task {task.id} gives no verdicts, so it learns no background", input=task.id, hint=hint)
        return NOTHING
    with_packaged = packaged and config.learn.packaged and bool(task.positive)
    if positives and not (task.positive and (folders or with_packaged)):
        why = "learns no background" if task.positive else "asks no umbrella question"
        raise UsageError("usage.option", f"task {task.id} {why}, so it learns no positives", input="--positives", hint="leave it out")
    for folder in (*folders, *positives):
        require_captures(folder)
    return Beside(folders, with_packaged, tuple(positives), task.others if with_packaged else "")


def read_for(dataset: Dataset, labelled: Sequence[Path], beside: Beside, *, progress: ProgressSink) -> Background | None:
    """The background's flows, cut as the data set's, with those of the positive side; None where there is none to learn.

    Captures of the package that the data set labels too are left out, and so are those that a folder of the user's own holds; in folders
    of the user's own labelled captures are refused with InputError, and so is a capture given for both sides. `labelled` are captures that
    were learnt without being rows of the data set.
    """
    package = "background" if beside.packaged else ""
    negative = _read(dataset, labelled, beside.folders, package, frozenset(), options={"progress": progress})
    if negative is None:
        return None
    own = frozenset(file.sha256 for file in negative.files)
    options = {"per_capture": POSITIVES, "progress": progress}
    positive = _read(dataset, labelled, beside.positives, beside.others, own, options=options)
    return replace(negative, positive=positive if positive else None)


def _read(
    dataset: Dataset, labelled: Sequence[Path], folders: Sequence[Path], package: str, taken: frozenset[str], *, options: dict[str, Any]
) -> Background | None:
    """The flows of the user's `folders` and of a folder of the package for one side; `taken` are hashes of the other side's captures,
    `options` those of reading."""
    from trafficllm.records.sources.background import packaged, read_background, refuse_shared, shared_captures

    parts = []
    if folders:
        parts.append(read_background(folders, options=dataset.shape.capture, **options))
        refuse_shared(parts[0], dataset, labelled)
        if both := [file.name for file in parts[0].files if file.sha256 in taken]:
            hint = "a capture is background or of the positive side: take it out of one of the folders"
            raise InputError("input.background", f"{len(both)} captures are given for both sides", input=both[0], hint=hint)
    if package:
        background = read_background([packaged(package)], options=dataset.shape.capture, **options)
        shared = {row.name for row in shared_captures(background, dataset, labelled)}
        mine = taken.union(file.sha256 for part in parts for file in part.files)
        parts.append(background.where(lambda file: file.name not in shared and file.sha256 not in mine))
    return parts[0].plus(parts[1]) if len(parts) > 1 else parts[0] if parts else None
