"""`trafficllm tune`: plan, base, instruct, task. The same command again resumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from trafficllm.surface.terminal.options import Base, Config, DataSet, Json, MaxSeconds, Out, Quiet, Seed, Tasks, TuneSeed

if TYPE_CHECKING:
    from trafficllm.lifecycle.bases.results import TunePlan
    from trafficllm.lifecycle.bases.tuning import Stage, TuneRequest

app = typer.Typer(rich_markup_mode=None)

RouteTo: TypeAlias = Annotated[
    list[str] | None, typer.Option("--task", metavar="ID", help="Tasks to route to; default: the whole catalogue.")
]
StartFrom: TypeAlias = Annotated[
    Path | None, typer.Option("--start-from", metavar="A", help="Adapter to go on from, stage 1's for instance; default: the base.")
]


@app.command("base")
def base_(
    data: DataSet, base: Base, out: Out, max_seconds: MaxSeconds = None, seed: Seed = 0, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Train a traffic base's embeddings and layers on a data set's training records (language-model loss)."""
    from trafficllm.lifecycle.bases import bases
    from trafficllm.surface.terminal.output import emit, show_pairs
    from trafficllm.surface.terminal.progress import Bar

    with Bar(quiet=quiet, log=True) as bar:
        answer = bases.tune_base(data, base, Path(out), max_seconds=max_seconds, seed=seed, progress=bar)
    emit("tune.base", answer, as_json=as_json, show=show_pairs)


@app.command()
def plan(
    base: Base,
    data: Annotated[
        Path | None, typer.Argument(metavar="[D]", help="A data set made by `data build`: stage 2; without one: stage 1.")
    ] = None,
    tasks: RouteTo = None,
    max_seconds: MaxSeconds = None,
    seed: TuneSeed = None,
    extra: Tasks = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what a run will need before it starts: parameters, tokens, memory, time. Nothing is trained."""
    from trafficllm.lifecycle.bases import tuning
    from trafficllm.surface.terminal.output import emit

    stage = tuning.task_stage(data) if data is not None else tuning.instruct_stage(tasks or (), extra or ())
    answer = tuning.plan(stage, tuning.TuneRequest(base, max_seconds, seed, config))
    emit("tune.plan", answer, as_json=as_json, show=_show_plan)


_BUSY = 0.8
"""Share of its cores below which a plan says that the machine is busy."""


def _show_plan(answer: TunePlan) -> None:
    """The run's needs, then every stage of `adapter register` with its time."""
    from trafficllm.surface.terminal.output import note, show_pairs, show_table
    from trafficllm.surface.terminal.progress import lasting

    show_pairs(answer, *(name for name in answer.as_dict() if name != "stages"))
    rows = [[each.stage, lasting(each.seconds), "--max-seconds" if each.bounded else ""] for each in answer.stages]
    title = f"Making the adapter takes about {lasting(answer.total_seconds)} when nothing else runs"
    show_table(("stage", "takes about", "bounded by"), rows, title=title, right=("takes about",))
    if answer.share < _BUSY:
        slower = lasting(answer.total_seconds / max(answer.share, 0.01))
        note(f"busy: other programs take the cores, this process gets {answer.share:.0%} of its own; at that pace about {slower}")


@app.command()
def instruct(
    base: Base,
    out: Out,
    tasks: RouteTo = None,
    max_seconds: MaxSeconds = None,
    seed: TuneSeed = None,
    extra: Tasks = None,
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Stage 1: learn which task a question asks for (a router adapter)."""
    from trafficllm.lifecycle.bases import tuning

    stage = tuning.instruct_stage(tasks or (), extra or ())
    _run(stage, tuning.TuneRequest(base, max_seconds, seed, config), out, quiet=quiet, as_json=as_json)


@app.command()
def task(
    data: DataSet,
    base: Base,
    out: Out,
    start_from: StartFrom = None,
    max_seconds: MaxSeconds = None,
    seed: TuneSeed = None,
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Stage 2: learn a task's labels from a data set (a task adapter)."""
    from trafficllm.lifecycle.bases import tuning

    request = tuning.TuneRequest(base, max_seconds, seed, config)
    _run(tuning.task_stage(data), request, out, start_from=start_from, quiet=quiet, as_json=as_json)


def _run(stage: Stage, request: TuneRequest, out: Path, *, start_from: Path | None = None, quiet: bool, as_json: bool) -> None:
    from trafficllm.lifecycle.bases import tuning
    from trafficllm.surface.terminal.output import emit, show_pairs
    from trafficllm.surface.terminal.progress import Bar

    with Bar(quiet=quiet, log=True) as bar:
        answer = tuning.tune(stage, request, Path(out), start_from=start_from, progress=bar)
    if tuning.first_process():
        command = "tune.instruct" if stage.name == "instruct" else "tune.task"
        emit(command, answer, as_json=as_json, show=show_pairs)
