"""`trafficllm tune`: base, instruct, task. The same command again resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trafficllm.surface.options import Base, Config, DataSet, Json, MaxSeconds, Out, Quiet, Seed, Tasks

app = typer.Typer(rich_markup_mode=None)


@app.command("base")
def base_(
    data: DataSet,
    base: Base,
    out: Out,
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a traffic base's embeddings and layers on a data set's training records (language-model loss)."""
    from trafficllm.lifecycle import bases
    from trafficllm.surface.output import emit, show_pairs
    from trafficllm.surface.progress import Bar

    with Bar(quiet=quiet) as bar:
        body = bases.tune_base(data, base, Path(out), max_seconds=max_seconds, seed=seed, progress=bar)
    emit("tune.base", body, as_json=as_json, show=show_pairs)


@app.command()
def instruct(
    base: Base,
    out: Out,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="ID", help="Tasks to route to; default: the whole catalogue."),
    ] = None,
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    extra: Tasks = None,
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Stage 1: learn which task a question asks for (a router adapter)."""
    from trafficllm.lifecycle import tuning
    from trafficllm.surface.output import emit, show_pairs
    from trafficllm.surface.progress import Bar

    with Bar(quiet=quiet) as bar:
        body = tuning.tune_instruct(
            base,
            Path(out),
            tasks=tasks or (),
            max_seconds=max_seconds,
            seed=seed,
            extra=extra or (),
            config=config,
            progress=bar,
        )
    emit("tune.instruct", body, as_json=as_json, show=show_pairs)


@app.command()
def task(
    data: DataSet,
    base: Base,
    out: Out,
    max_seconds: MaxSeconds = None,
    seed: Seed = 0,
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Stage 2: learn a task's labels from a data set (a task adapter)."""
    from trafficllm.lifecycle import tuning
    from trafficllm.surface.output import emit, show_pairs
    from trafficllm.surface.progress import Bar

    with Bar(quiet=quiet) as bar:
        body = tuning.tune_task(
            data, base, Path(out), max_seconds=max_seconds, seed=seed, config=config, progress=bar
        )
    emit("tune.task", body, as_json=as_json, show=show_pairs)
