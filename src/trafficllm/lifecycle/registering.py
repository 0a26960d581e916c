"""Captures or a data set -> a registered adapter; the same command again goes on where it was interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError
from trafficllm.core.files import hash64, slug
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.datasets import build, is_data_set, own_task

if TYPE_CHECKING:
    from trafficllm.lifecycle.application import Application

_WORK = ".work"


def _workdir(application: Application, folder: Path, task: str, facts: str) -> Path:
    """A folder of this command's own: beside the versions, so that it lies on the disk they will be copied to."""
    name = f"{folder.resolve()}\n{facts}"
    return (
        application.registry_root
        / _WORK
        / f"{slug(task)}-{hash64(name.encode('utf-8', 'surrogatepass')):016x}"
    )


def register(
    application: Application,
    folder: Path,
    task: str,
    *,
    profile: str,
    seed: int,
    max_seconds: float | None,
    progress: ProgressSink,
) -> dict[str, Any]:
    """Build (unless `folder` is a data set), tune, calibrate, evaluate, register; see `Application.register`."""
    from trafficllm.lifecycle import learn, learn_generator
    from trafficllm.lifecycle.tuning import tune_options
    from trafficllm.records.dataset import load
    from trafficllm.records.inputs import scan

    ready = is_data_set(folder)
    labels = () if ready else scan(folder).labels
    chosen = own_task(task, application.tasks(), labels)
    if chosen.kind == "understanding":
        raise InputError(
            "input.task",
            f"task {chosen.id} is answered from decoded fields, it learns nothing",
            input=task,
            hint="see `task list`",
        )
    work = _workdir(application, folder, chosen.id, f"{profile} {seed} {max_seconds} {application.base_name}")
    data = folder if ready else work / "data"
    if not ready:
        build(
            folder,
            data,
            task=chosen,
            profile=profile or application.config.records.profile,
            seed=seed,
            progress=progress,
        )
    options = tune_options(application.config, seed=seed, max_seconds=max_seconds)
    base, registry = application.base, application.registry
    if chosen.kind == "generation":
        opened = load(data)
        trainable = [label for label in opened.labels if label in opened.manifest["trainable"]]
        made = learn_generator.learn_generator(
            base,
            opened,
            task=chosen,
            labels=trainable,
            registry=registry,
            out=work / "tune",
            options=options,
            progress=progress,
        )
        body = {
            **registry.show(chosen.id, made["version"]).as_dict(),
            "seconds": made["seconds"],
            "quality": None,
            "baselines": {},
        }
    else:
        body = learn.register(
            data,
            task=chosen,
            base=base,
            registry=registry,
            options=options,
            workdir=work / "tune",
            progress=progress,
        )
    shutil.rmtree(work, ignore_errors=True)
    return body
