"""`trafficllm data`: build, check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trafficllm.surface.options import DataSet, Folder, Json, Out, Profile, Quiet, Seed, Tasks

app = typer.Typer(rich_markup_mode=None)


@app.command()
def build(
    folder: Folder,
    out: Out,
    task: Annotated[
        str, typer.Option("--task", metavar="ID", help="Task id; default: a task named after the folder.")
    ] = "",
    profile: Profile = "",
    split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="UNIT",
            help="What may not cross a split: auto, capture, host, time, session or flow.",
        ),
    ] = "auto",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="FIELD",
            help="Do not mask FIELD although it looks like an artefact (prints LEAKY).",
        ),
    ] = None,
    reserved: Annotated[
        Path | None,
        typer.Option(
            "--reserved", metavar="CSV", help="Files kept for scoring; default: reserved.csv in or above DIR."
        ),
    ] = None,
    cap: Annotated[
        int | None, typer.Option("--cap", min=2, help="At most this many records a label.")
    ] = None,
    seed: Seed = 0,
    extra: Tasks = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build a leak-safe data set from labelled captures: masked records, a split by group, a card."""
    from trafficllm.lifecycle import datasets
    from trafficllm.surface.output import emit
    from trafficllm.surface.progress import Bar

    chosen = datasets.pick_task(folder, task, extra or ())
    with Bar(quiet=quiet) as bar:
        report = datasets.build(
            folder,
            Path(out),
            task=chosen,
            profile=profile,
            split=split,
            keep=tuple(keep or ()),
            reserved=reserved,
            cap=cap,
            seed=seed,
            progress=bar,
        )
    emit("data.build", report.as_dict(), as_json=as_json, show=_show)


def _show(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import note, show_pairs, show_table

    rows = [
        [label, *(counts[part] for part in ("train", "val", "test"))]
        for label, counts in sorted(body["classes"].items())
    ]
    show_table(("class", "train", "val", "test"), rows, right=("train", "val", "test"))
    show_pairs({key: value for key, value in body.items() if key not in {"classes", "split", "groups"}})
    split = body["split"]
    show_pairs(
        {
            "split by": f"{split['unit']}: {split['why']}",
            "groups": split["groups"],
            "reserved": split["reserved"],
            "notes": split["notes"],
        }
    )
    for field in body.get("leaky", ()):
        note(f"LEAKY: {field}")


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Labelled captures, or a data set made by `data build`.")
    ],
    task: Annotated[
        str, typer.Option("--task", metavar="ID", help="Task id; default: a task named after the folder.")
    ] = "",
    extra: Tasks = None,
    as_json: Json = False,
) -> None:
    """Look before you train: labels too small, one capture a label, marks of the capture set-up, parts that share flows."""
    from trafficllm.lifecycle import datasets
    from trafficllm.surface.output import emit

    chosen = datasets.pick_task(folder, task, extra or ())
    emit("data.check", datasets.check(folder, chosen), as_json=as_json, show=_show_check)


def _show_check(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import note, show_table

    show_table(("label", "holds"), sorted(body["classes"].items()))
    show_table(
        ("level", "kind", "where", "what"),
        ([row[key] for key in ("level", "kind", "where", "message")] for row in body["findings"]),
    )
    note("ready to train" if body["ready"] else "not ready: see the errors above")


@app.command()
def audit(
    data: DataSet,
    captures: Annotated[
        Path | None,
        typer.Option(
            "--captures", metavar="DIR", help="The folder it was built from: marks that no record carries."
        ),
    ] = None,
    judged: Annotated[
        str, typer.Option("--judged", metavar="PART", help="The part that is scored: test or val.")
    ] = "test",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Look for shortcuts before training: shared flows and hosts, duplicates, marks of the capture, honest beside leaky scores."""
    from trafficllm.lifecycle import datasets
    from trafficllm.surface.output import emit

    emit(
        "data.audit",
        datasets.audit(data, captures=captures, judged=judged, seed=seed),
        as_json=as_json,
        show=_show_audit,
    )


def _show_audit(body: Mapping[str, Any]) -> None:
    from trafficllm.core.escape import for_terminal
    from trafficllm.surface.output import show_pairs, show_table

    columns = ("kind", "field", "score")
    show_table(columns, ([row[name] for name in columns] for row in body["findings"]), right=("score",))
    show_table(
        ("baseline", "macro-F1"),
        ([name, row["macro_f1"]] for name, row in body["baselines"].items()),
        right=("macro-F1",),
    )
    show_pairs({key: body[key] for key in ("duplicates", "shared_groups", "honest", "leaky", "not_checked")})
    print(for_terminal(body["verdict"]))
