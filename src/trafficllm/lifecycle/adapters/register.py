"""Captures or a data set -> a registered adapter; the same command again goes on where it was interrupted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import hash64, slug
from trafficllm.core.types import ProgressSink, Silent
from trafficllm.lifecycle.adapters.background import chosen, read_for
from trafficllm.lifecycle.adapters.results import AdapterRegister, AdapterUpdate, Gate
from trafficllm.lifecycle.adapters.training import Training
from trafficllm.lifecycle.bases import forecast
from trafficllm.lifecycle.datasets import labels_of, own_task, with_notable
from trafficllm.registry.members import MOST

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.model.base.load import Base
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.records.sources.background import Background
    from trafficllm.registry.versions import Version

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
    trained: Sequence[Path] = (),
    members: int = 1,
    notable: Sequence[str] = (),
    background: Sequence[Path] | None = None,
    packaged: bool = True,
    positives: Sequence[Path] = (),
    false_positives: float | None = None,
    progress: ProgressSink | None = None,
) -> AdapterRegister:
    """Captures or a data set -> a live, evaluated adapter (contract: `adapter register`).

    With `trained`, an adapter folder made elsewhere or one for each member, nothing is tuned; else `members` adapters are, from as many
    seeds, and answer together: `members` times the cost of tuning and of every verdict. The live router learns a task it does not know
    yet. `notable` are the labels of a task of the user's own that raise an event; a task of the catalogue says so itself. `background` are
    folders of everyday captures learnt beside the labels (None: the configuration's); `packaged`: beside them those of the package;
    `positives` are folders of captures of the umbrella's positive side (malware, VPN) that no label names.
    `false_positives` is the share of harmless flows of other sources that may be called positive.
    Raises InputError for data that cannot be learnt from, UsageError for a task's name, ArtifactError for an adapter that does not fit.
    """
    from trafficllm.lifecycle.adapters import learn
    from trafficllm.lifecycle.bases.tuning import tune_options
    from trafficllm.records.dataset.dataset import BuildOptions
    from trafficllm.records.record_shape import wanted_of

    definition = _definition(workspace, folder, task, notable)
    if definition.kind == "understanding":
        raise InputError(
            "input.task", f"task {definition.id} is answered from decoded fields, it learns nothing", input=task, hint="see `task list`"
        )
    options = tune_options(workspace.config, seed=seed, max_seconds=max_seconds)
    beside = chosen(definition, workspace.config, background, packaged=packaged, positives=positives)
    made_of = " ".join(map(str, trained)) if trained else "None" if members == 1 else f"{members} members"
    facts = f"{profile} {options.seed} {max_seconds} {workspace.base_name} {made_of} {beside.name}"
    work = _workdir(workspace, folder, definition.id, facts)
    build, sink = BuildOptions.of(workspace.config, profile=profile, seed=options.seed), progress or Silent()
    data = learn.open_dataset(folder, definition, work / "data", options=build, progress=sink)
    remedy = "leave the setting out, or build the data set again with it: `trafficllm data build`"
    data.shape.require(wanted_of(workspace.config, profile), whose=f"data set {folder}", remedy=remedy)
    _check_members(definition, trained, members)
    training = replace(_training(workspace, work, options, sink, false_positives), members=members)
    if definition.kind == "generation":
        forecast.tell(sink, lambda: _making(data, definition, training, None))
        answer = _register_generator(data, definition, training)
    else:
        learnt = read_for(data, (), beside, progress=sink)
        if not trained:
            forecast.tell(sink, lambda: _making(data, definition, training, learnt))
        answer = _register_detector(data, definition, training, work / "router", trained=trained, background=learnt)
    shutil.rmtree(work, ignore_errors=True)
    return answer


def _check_members(task: Task, trained: Sequence[Path], count: int) -> None:
    """UsageError where the task is not answered by such members, or there are too many of them."""
    if task.kind == "generation" and (trained or count > 1):
        what, option = ("--from takes", "--from") if trained else ("--members takes", "--members")
        raise UsageError("usage.option", f"{what} adapters of detection tasks", input=task.id, hint=f"leave out {option}")
    if trained and count not in (1, len(trained)):
        hint = "name --from once for each member, and leave out --members"
        raise UsageError("usage.option", f"{count} members, but {len(trained)} adapters", input="--members", hint=hint)
    if not 1 <= count <= MOST:
        raise UsageError("usage.option", f"{count} members", input="--members", hint=f"1 to {MOST}")


def _making(data: Dataset, task: Task, training: Training, background: Background | None) -> forecast.Making:
    """What is to be made, for a forecast of its stages."""
    from trafficllm.lifecycle.adapters import learn, teach

    search_s = max(learn.SEARCH_SECONDS, training.options.max_seconds or 0.0)
    router = teach.TOKENS if task.kind == "detection" and teach.is_new(task, training) else 0
    examples = learn.tune_data(data, augment=False, task=task)
    flows = len(background) if background is not None else 0
    return forecast.Making(task, data, examples, training.base.path, training.options, flows, search_s, router, training.members)


def _training(workspace: Workspace, work: Path, options: TuneOptions, progress: ProgressSink, false_positives: float | None) -> Training:
    """How the adapter is made, below `work`; `false_positives` as the command states it, else as the configuration does."""
    rate = workspace.config.learn.false_positives if false_positives is None else false_positives
    return Training(tuning_base(workspace), workspace.registry, work / "adapter", options, progress, false_positives=rate)


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
        labels = ", ".join(definition.notable) or "nothing"
        raise UsageError(
            "usage.option",
            f"the task file of {definition.id} says what is notable: {labels}",
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
    background: Sequence[Path] | None = None,
    packaged: bool = True,
    positives: Sequence[Path] = (),
    false_positives: float | None = None,
    progress: ProgressSink | None = None,
) -> AdapterUpdate:
    """New captures into a live task (contract: `adapter update`); GateError where its gate refused them. `background`: see `register`."""
    from trafficllm.lifecycle.adapters import gate
    from trafficllm.lifecycle.adapters.update import update as learn_more
    from trafficllm.lifecycle.bases.tuning import tune_options
    from trafficllm.records.record_shape import RecordShape, wanted_of

    definition = workspace.task(task)
    live, options = _own(workspace, definition.id), tune_options(workspace.config, seed=seed, max_seconds=max_seconds)
    remedy = "leave the setting out of the configuration, or register the task again with it"
    RecordShape.of(live.manifest).require(wanted_of(workspace.config), whose=f"adapter {definition.id} {live.version}", remedy=remedy)
    beside = chosen(definition, workspace.config, background, packaged=packaged, positives=positives)
    facts = f"update {live.version} {options.seed} {max_seconds} {workspace.base_name} {beside.name}"
    work = _workdir(workspace, folder, definition.id, facts)
    training = _training(workspace, work, options, progress or Silent(), false_positives)
    answer = learn_more(folder, training, task=definition, background=beside)
    shutil.rmtree(work, ignore_errors=True)
    gate.raise_if_refused(answer)
    return answer


def _own(workspace: Workspace, task: str) -> Version:
    """The live version of a task; a shipped one is copied into the registry first, where an update can build on it."""
    live = workspace.registry.live(task)
    return workspace.registry.adopt(task, live.version) if live.source == "shipped" else live


def _register_detector(
    data: Dataset, task: Task, training: Training, router: Path, *, trained: Sequence[Path], background: Background | None
) -> AdapterRegister:
    from trafficllm.lifecycle.adapters import learn
    from trafficllm.lifecycle.adapters.teach import teach

    answer = learn.register(data, training, task=task, trained=trained, background=background)
    start = time.monotonic()
    routing = teach(task, data.manifest["trainable"], replace(training, workdir=router))
    seconds = round(answer.seconds + time.monotonic() - start, 2)
    return answer.model_copy(update={"seconds": seconds, "gate": answer.gate.model_copy(update={"router": routing})})


def _register_generator(data: Dataset, task: Task, training: Training) -> AdapterRegister:
    """Generators are scored by `evaluate generation`; here `quality` is null."""
    from trafficllm.lifecycle.adapters.learn_generator import learn_generator

    version, report = learn_generator(data, training, task=task, labels=data.manifest["trainable"])
    return AdapterRegister(
        **version.as_dict(),
        path=str(version.path),
        quality=None,
        baselines={},
        cascade=None,
        gate=Gate(old=None, new=None, router=None),
        calibration={},
        unknown={},
        cost={},
        tuning=report,
        seconds=report.seconds,
        peak_bytes=report.peak_bytes,
        replayed=0,
    )
