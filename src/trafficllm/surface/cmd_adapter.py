"""`trafficllm adapter`: register, list, show, promote, rollback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from trafficllm.surface.options import (
    Base,
    Config,
    Folder,
    Json,
    MaxSeconds,
    Profile,
    Quiet,
    Registry,
    Seed,
    Task,
    Tasks,
)

app = typer.Typer(rich_markup_mode=None)
TaskArgument = Annotated[str, typer.Argument(metavar="TASK")]


@app.command()
def register(
    folder: Folder,
    task: Task,
    base: Base = "",
    registry: Registry = "",
    profile: Profile = "",
    seed: Seed = 0,
    max_seconds: MaxSeconds = None,
    extra: Tasks = None,
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train, evaluate, calibrate and version an adapter from labelled captures or a data set.

    A task id that the catalogue does not know makes a task of your own, with the folder's labels.
    """
    from trafficllm.lifecycle.application import Application
    from trafficllm.surface.output import emit
    from trafficllm.surface.progress import Bar

    application = Application(base=base, registry=registry, extra_tasks=extra or (), config=config)
    with Bar(quiet=quiet) as bar:
        body = application.register(
            folder, task, profile=profile, seed=seed, max_seconds=max_seconds, progress=bar
        )
    emit("adapter.register", body, as_json=as_json, show=_show_registered)


def _show_registered(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import show_pairs, show_table

    quality = body["quality"]
    low, high = quality["ci95"]
    rows = [["this adapter", quality["macro_f1"], f"{low:.3f}-{high:.3f}"]]
    rows += [
        [name.replace("_", " "), row["macro_f1"], f"{row['ci95'][0]:.3f}-{row['ci95'][1]:.3f}"]
        for name, row in body["baselines"].items()
    ]
    show_table(
        ("", "macro-F1", "95 %"),
        rows,
        title=f"{body['task']} on {quality['n_test']} held-out flows",
        right=("macro-F1", "95 %"),
    )
    show_pairs(
        {key: body.get(key) for key in ("task", "version", "parent", "status", "seconds", "peak_bytes")}
    )


@app.command("list")
def list_(registry: Registry = "", as_json: Json = False) -> None:
    """List adapters and their versions."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.surface.output import emit

    emit("adapter.list", Application(registry=registry).adapters(), as_json=as_json, show=_show_list)


def _show_list(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import note, show_table

    rows = [
        [row["task"], row["version"], row["status"], row["macro_f1"], row["path"]] for row in body["adapters"]
    ]
    show_table(("task", "version", "status", "macro-F1", "path"), rows, right=("macro-F1",))
    if not rows:
        note("no adapters yet: `trafficllm quickstart`, or `trafficllm adapter register DIR --task ID`")


@app.command()
def show(
    task: TaskArgument,
    version: Annotated[str, typer.Option("--version", metavar="V", help="Default: the live one.")] = "",
    registry: Registry = "",
    as_json: Json = False,
) -> None:
    """Show a version's manifest: base, data, masks, quality beside its baselines, calibration."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.surface.output import emit, show_pairs

    emit(
        "adapter.show",
        Application(registry=registry).adapter(task, version),
        as_json=as_json,
        show=show_pairs,
    )


@app.command()
def promote(
    task: TaskArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    registry: Registry = "",
    as_json: Json = False,
) -> None:
    """Make a version live."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.surface.output import emit

    emit(
        "adapter.promote",
        Application(registry=registry).promote(task, version),
        as_json=as_json,
        show=_show_change,
    )


@app.command()
def rollback(task: TaskArgument, registry: Registry = "", as_json: Json = False) -> None:
    """Make the previously live version live again."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.surface.output import emit

    emit(
        "adapter.rollback", Application(registry=registry).rollback(task), as_json=as_json, show=_show_change
    )


def _show_change(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import show_pairs

    show_pairs(
        {
            **{key: body[key] for key in ("task", "version", "status", "parent")},
            "macro_f1": (body["quality"] or {}).get("macro_f1"),
        }
    )
