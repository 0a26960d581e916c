"""Captures or a data set -> a registered adapter; the same command again goes on where it was interrupted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import hash64, slug
from trafficllm.core.types import ProgressSink, Silent
from trafficllm.lifecycle.datasets import labels_of, own_task, with_notable

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.model.base.load import Base
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset

_WORK = ".work"


def _workdir(workspace: Workspace, folder: Path, task: str, facts: str) -> Path:
    """A folder of this command's own: beside the versions, so that it lies on the disk they will be copied to."""
    name = f"{folder.resolve()}\n{facts}"
    return workspace.registry_root / _WORK / f"{slug(task)}-{hash64(name.encode('utf-8', 'surrogatepass')):016x}"


def register(
    workspace: Workspace,
    folder: Path,
    task: str,
    *,
    profile: str = "",
    seed: int | None = None,
    max_seconds: float | None = None,
    trained: Path | None = None,
    notable: Sequence[str] = (),
    progress: ProgressSink | None = None,
) -> dict[str, Any]:
    """Captures or a data set -> a live, evaluated adapter (contract: `adapter register`).

    With `trained`, an adapter folder made elsewhere, nothing is tuned. The live router learns a task it does not know yet. `notable`
    are the labels of a task of the user's own that raise an event; a task of the catalogue says so itself.
    Raises InputError for data that cannot be learnt from, UsageError for a task's name, ArtifactError for an adapter that does not fit.
    """
    from trafficllm.lifecycle.adapters import learn
    from trafficllm.lifecycle.bases.tuning import tune_options
    from trafficllm.records.dataset.dataset import BuildOptions
    from trafficllm.records.record_shape import wanted_of

    chosen = _definition(workspace, folder, task, notable)
    if chosen.kind == "understanding":
        raise InputError(
            "input.task", f"task {chosen.id} is answered from decoded fields, it learns nothing", input=task, hint="see `task list`"
        )
    options = tune_options(workspace.config, seed=seed, max_seconds=max_seconds)
    work = _workdir(workspace, folder, chosen.id, f"{profile} {options.seed} {max_seconds} {workspace.base_name} {trained}")
    build, sink = BuildOptions.of(workspace.config, profile=profile, seed=options.seed), progress or Silent()
    opened = learn.open_dataset(folder, chosen, work / "data", options=build, progress=sink)
    remedy = "leave the setting out, or build the data set again with it: `trafficllm data build`"
    opened.shape.require(wanted_of(workspace.config, profile), whose=f"data set {folder}", remedy=remedy)
    if chosen.kind == "generation":
        if trained is not None:
            raise UsageError("usage.option", "--from takes adapters of detection tasks", input=task, hint="leave out --from")
        body = _register_generator(workspace, opened, chosen, work / "adapter", options=options, progress=sink)
    else:
        body = _register_detector(workspace, opened, chosen, work, trained=trained, options=options, progress=sink)
    shutil.rmtree(work, ignore_errors=True)
    return body


def tuning_base(workspace: Workspace) -> Base:
    """The base in the precision that the configuration asks for; the workspace's own where it leaves the choice to the machine."""
    from trafficllm.model.base.load import load_base

    precision = workspace.config.tune.precision
    return workspace.base if precision == "auto" else load_base(workspace.base_name, dtype=precision)


def _definition(workspace: Workspace, folder: Path, name: str, notable: Sequence[str]) -> Task:
    """The task to register; UsageError where its notable labels are not the user's to say, or no labels."""
    from trafficllm.records.catalog import load_tasks

    definition = own_task(name, workspace.tasks())
    if not notable:
        return definition
    if definition.id in load_tasks(workspace.extra_tasks):
        said = ", ".join(definition.notable) or "nothing"
        raise UsageError(
            "usage.option",
            f"the task file of {definition.id} says what is notable: {said}",
            input="--notable",
            hint="leave the option away, or register under a name of your own",
        )
    return with_notable(definition, notable, labels_of(folder))


def update(
    workspace: Workspace,
    folder: Path,
    task: str,
    *,
    seed: int | None = None,
    max_seconds: float | None = None,
    progress: ProgressSink | None = None,
) -> dict[str, Any]:
    """New captures into a live task (contract: `adapter update`); GateError where its gate refused them."""
    from trafficllm.lifecycle.adapters import gate
    from trafficllm.lifecycle.adapters.update import update as learn_more
    from trafficllm.lifecycle.bases.tuning import tune_options
    from trafficllm.records.record_shape import RecordShape, wanted_of

    chosen = workspace.task(task)
    live, options = workspace.registry.live(chosen.id), tune_options(workspace.config, seed=seed, max_seconds=max_seconds)
    remedy = "leave the setting out of the configuration, or register the task again with it"
    RecordShape.of(live.manifest).require(wanted_of(workspace.config), whose=f"adapter {chosen.id} {live.version}", remedy=remedy)
    facts = f"update {live.version} {options.seed} {max_seconds} {workspace.base_name}"
    work = _workdir(workspace, folder, chosen.id, facts)
    body = learn_more(
        folder,
        task=chosen,
        base=tuning_base(workspace),
        registry=workspace.registry,
        workdir=work / "adapter",
        options=options,
        progress=progress or Silent(),
    )
    shutil.rmtree(work, ignore_errors=True)
    gate.raise_if_refused(body)
    return body


def _register_detector(
    workspace: Workspace, data: Dataset, task: Task, work: Path, *, trained: Path | None, options: TuneOptions, progress: ProgressSink
) -> dict[str, Any]:
    from trafficllm.lifecycle.adapters import learn
    from trafficllm.lifecycle.adapters.teach import teach

    base, registry = tuning_base(workspace), workspace.registry
    body = learn.register(
        data, task=task, base=base, registry=registry, workdir=work / "adapter", options=options, trained=trained, progress=progress
    )
    begun, labels = time.monotonic(), data.manifest["trainable"]
    learnt = teach(task, labels, base=base, registry=registry, out=work / "router", seed=options.seed, progress=progress)
    seconds = round(body["seconds"] + time.monotonic() - begun, 2)
    return {**body, "seconds": seconds, "gate": {**body["gate"], "router": learnt}}


def _register_generator(
    workspace: Workspace, data: Dataset, task: Task, work: Path, *, options: TuneOptions, progress: ProgressSink
) -> dict[str, Any]:
    """What a generator is worth is said by `evaluate generation`, not by a quality object."""
    from trafficllm.lifecycle.adapters.learn_generator import learn_generator

    registry = workspace.registry
    made = learn_generator(
        tuning_base(workspace),
        data,
        task=task,
        labels=data.manifest["trainable"],
        registry=registry,
        out=work,
        options=options,
        progress=progress,
    )
    version = registry.show(task.id, made["version"])
    none: dict[str, Any] = {"quality": None, "baselines": {}, "cascade": None, "calibration": {}, "unknown": {}, "cost": {}, "replayed": 0}
    gate = {"old": None, "new": None, "router": None}
    tuning = version.manifest["tuning"]
    kept = {"tuning": tuning, "peak_bytes": tuning["peak_bytes"], "seconds": made["seconds"], "path": str(version.path)}
    return {**version.as_dict(), **none, **kept, "gate": gate}
