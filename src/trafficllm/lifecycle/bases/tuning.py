"""Stages 1 and 2 on their own: the plumbing under `adapter register`. What a run will need, the run, its curve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import UsageError
from trafficllm.core.settings import Config, load_config
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.adapters.learn_router import instruct_data
from trafficllm.lifecycle.bases.results import StageEstimate, Tune, TunePlan

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.core.types import StageTime
    from trafficllm.model.base.load import Base
    from trafficllm.model.results import Forecast
    from trafficllm.model.tuning.job import TuneData
    from trafficllm.records.dataset.dataset import Dataset

PLOT = "loss.svg"
_SERVED = ("lora", "rslora", "dora", "qlora")


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """What the options of a `tune` command share: base name, budget in seconds, seed, configuration file."""

    base: str = ""
    max_seconds: float | None = None
    seed: int | None = None
    config: Path | None = None

    def settings(self) -> Config:
        """The configuration in force."""
        return load_config(self.config)

    def options(self) -> TuneOptions:
        """The tuner's options."""
        return tune_options(self.settings(), seed=self.seed, max_seconds=self.max_seconds, alone=True)

    def open(self) -> Base:
        """The base, where this process tunes. A run that shards it starts in main memory and moves it part by part."""
        from trafficllm.model.base.load import load_base
        from trafficllm.model.tuning import processes

        tune = self.settings().tune
        return load_base(self.base or "default", dtype=tune.precision, device="cpu" if tune.shard else processes.device())


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage with its data: `name` is "instruct", "task" or "generation"; `dataset` is what the last two are made from."""

    name: str
    data: TuneData
    dataset: Dataset | None = None


def tune_options(config: Config, *, seed: int | None, max_seconds: float | None, alone: bool = False) -> TuneOptions:
    """The tuner's options from the configuration and the command line.

    Raises UsageError for a method whose result the engine does not serve, unless the run stands `alone`.
    """
    tune = config.tune
    if not alone and tune.method not in _SERVED:
        raise UsageError(
            "usage.method",
            f"an adapter tuned by '{tune.method}' cannot be served beside others on one base",
            input="tune.method",
            hint=f"register with one of {', '.join(_SERVED)}; `tune task` alone takes any method",
        )
    return tune.options(seed=tune.seed if seed is None else seed, max_seconds=max_seconds or tune.max_seconds)


def instruct_stage(tasks: Sequence[str], extra: Sequence[Path]) -> Stage:
    """Stage 1 over some tasks or the whole catalogue."""
    from trafficllm.records import instructions
    from trafficllm.records.catalog import get_task, load_tasks

    ids = {get_task(name, extra).id for name in tasks} or set(load_tasks(extra))
    if len(ids) < 2:
        raise UsageError(
            "usage.task", "a router needs two tasks or more", input="--task", hint="name another, or none for the whole catalogue"
        )
    return Stage("instruct", instruct_data(ids, instructions.load("train")))


def task_stage(data: Path) -> Stage:
    """Stage 2 over a data set."""
    from trafficllm.lifecycle.adapters import learn
    from trafficllm.records.dataset.dataset import load

    opened = load(data)
    return Stage("generation" if opened.task.kind == "generation" else "task", learn.tune_data(opened), opened)


def plan(stage: Stage, request: TuneRequest) -> TunePlan:
    """What the run will need (contract: `tune plan`); the base's weights are not read."""
    from trafficllm.model.base.load import precision_for, resolve
    from trafficllm.model.tuning import plan as planning
    from trafficllm.model.tuning import processes

    setting = request.settings().tune.precision
    precision = precision_for(resolve(request.base or "default")) if setting == "auto" else setting
    options = request.options()
    forecast = planning.plan_data(request.base or "default", stage.data, options, precision=precision, world=processes.world())
    times = _stage_times(stage, request, forecast)
    return TunePlan(
        stage=stage.name,
        base=request.base or "default",
        method=options.method,
        precision=precision,
        processes=processes.world(),
        labels=len(stage.data.labels),
        stages=[StageEstimate(stage=each.stage, seconds=round(each.seconds or 0.0, 1), bounded=bool(each.note)) for each in times],
        total_seconds=round(sum(each.seconds or 0.0 for each in times), 1),
        **dict(forecast),
    )


def _stage_times(stage: Stage, request: TuneRequest, tuning: Forecast) -> list[StageTime]:
    """What `adapter register` would do with a data set, the packaged background beside it."""
    from trafficllm.core.types import Silent
    from trafficllm.lifecycle.adapters import learn, teach
    from trafficllm.lifecycle.adapters.background import chosen, read_for
    from trafficllm.lifecycle.bases import forecast
    from trafficllm.model.base.load import resolve
    from trafficllm.records.catalog import load_tasks

    options = request.options()
    if stage.dataset is None:
        return [forecast.tune_stage(stage.name, tuning, options)]
    task = stage.dataset.task
    beside = chosen(task, request.settings(), None)
    background = read_for(stage.dataset, (), beside, progress=Silent()) if beside else None
    flows = len(background) if background is not None else 0
    search_s = max(learn.SEARCH_SECONDS, options.max_seconds or 0.0)
    router = 0 if task.id in load_tasks() or task.kind != "detection" else teach.TOKENS
    base = resolve(request.base or "default")
    return forecast.stages(forecast.Making(task, stage.dataset, stage.data, base, options, flows, search_s, router), tuning)


def tune(stage: Stage, request: TuneRequest, out: Path, *, start_from: Path | None, progress: ProgressSink) -> Tune:
    """Run a stage and draw its curve (contract: `tune instruct`, `tune task`)."""
    from trafficllm.model.tuning import job as tuner
    from trafficllm.model.tuning import processes

    options = request.options()
    if stage.name == "instruct":
        report = tuner.tune_instruct(request.open(), stage.data, out, options, progress)
    else:
        run = tuner.tune_generation if stage.name == "generation" else tuner.tune_task
        report = run(request.open(), stage.data, out, options, progress, start_from=start_from)
    with processes.in_turn() as first:
        plot = draw_curve(out) if first else None
    return Tune(**dict(report), out=str(out), plot=plot)


def first_process() -> bool:
    """Whether this process speaks for the run; of several, one does."""
    from trafficllm.model.tuning import processes

    return processes.rank() == 0


def draw_curve(out: Path) -> str | None:
    """Write `loss.svg` beside `metrics.jsonl`: training and validation loss over the tokens seen. Returns its path."""
    from trafficllm.core.files import atomic_write
    from trafficllm.lifecycle.reports.plots import curves
    from trafficllm.model.tuning.job import METRICS

    if not (out / METRICS).is_file():
        return None
    rows = [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]
    names = {"loss": "training loss", "val_loss": "validation loss", "val_macro_f1": "validation macro-F1"}
    lines = {title: [(row["tokens"], row[key]) for row in rows if key in row] for key, title in names.items()}
    atomic_write(out / PLOT, curves({title: points for title, points in lines.items() if points}, x="tokens", y="loss, F1"))
    return str(out / PLOT)
