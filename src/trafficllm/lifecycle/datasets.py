"""Folders of labelled captures -> data sets, and the task that a folder is for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import slug
from trafficllm.core.types import ProgressSink

if TYPE_CHECKING:
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset import BuildReport

_NEAR = 0.6
"""Names this alike (difflib ratio) are taken for a typo of a known task rather than a new one: MDT, MTDD, mtd2."""


def new_task(name: str) -> Task:
    """A detection task of the user's own, named by its id."""
    from trafficllm.records.catalog import Task

    slug(name)
    return Task(
        id=name,
        title=name,
        kind="detection",
        instruction="label",
        housekeeping=True,
        notes="made from a folder of captures",
    )


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
    seed: int = 0,
    progress: ProgressSink,
) -> BuildReport:
    """Build a data set (contract: `data build`)."""
    from trafficllm.records.dataset import build_dataset
    from trafficllm.records.splits import UNITS

    if split not in {"auto", *UNITS}:
        raise UsageError(
            "usage.split", f"no split unit '{split}'", input="--split", hint=f"auto, {', '.join(UNITS)}"
        )
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
        progress=progress,
    )


def check(folder: Path, task: Task) -> dict[str, Any]:
    """What is wrong with labelled captures, or with a data set built from them: `ready` when nothing stands in the way."""
    from trafficllm.records.lint import check_data

    body = _check_data_set(folder) if is_data_set(folder) else check_data(folder, task=task)
    return {
        "ready": all(row["level"] != "error" for row in body["findings"]),
        "duplicates": {},
        "samples": [],
        "parts": {},
        **body,
    }


def _check_data_set(folder: Path) -> dict[str, Any]:
    """Hash and codec (an ArtifactError), shared groups and contents, classes that cannot be learnt or measured."""
    from trafficllm.records.dataset import PARTS, load

    opened = load(folder)
    rows = {part: opened.indices(part) for part in PARTS}
    findings = [
        _finding("leaky", reason, "loosened when it was built") for reason in opened.manifest["leaky"]
    ]
    for kind, of in (("shared_group", opened.groups), ("shared_content", opened.hashes)):
        values = {part: set(of(rows[part])) for part in PARTS}
        shared = sum(
            len(values[a] & values[b]) for a, b in (("train", "val"), ("train", "test"), ("val", "test"))
        )
        if shared:
            findings.append(_finding(kind, "parts", f"{shared} lie in more than one part", level="error"))
    for label, counts in sorted(opened.manifest["classes"].items()):
        for part, why in (("train", "cannot be learnt"), ("test", "cannot be measured")):
            if not counts[part]:
                findings.append(_finding("label_small", label, f"no {part} records: it {why}"))
    classes = opened.manifest["classes"]
    return {
        "findings": findings,
        "classes": classes,
        "duplicates": opened.manifest["duplicates"],
        "parts": {p: len(rows[p]) for p in PARTS},
    }


def _finding(kind: str, where: str, message: str, *, level: str = "warning") -> dict[str, str]:
    return {"kind": kind, "level": level, "where": where, "message": message}


def audit(data: Path, *, captures: Path | None, judged: str, seed: int) -> dict[str, Any]:
    """Shortcuts in a data set (contract: `data audit`)."""
    from trafficllm.evaluate.audit import audit as audit_dataset
    from trafficllm.records.dataset import load

    if judged not in {"test", "val"}:
        raise UsageError("usage.part", f"no part '{judged}' to judge", input="--judged", hint="test or val")
    return audit_dataset(load(data), captures=captures, judged=judged, seed=seed)
