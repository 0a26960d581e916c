"""`trafficllm data`: build; check and audit live in `cmd_audit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from trafficllm.surface import cmd_audit
from trafficllm.surface.options import Folder, Json, Out, Profile, Quiet, Seed, Tasks

app = typer.Typer(rich_markup_mode=None)

Unknown: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--unknown", metavar="LABEL", help="Never learn this label, only test it; may be repeated."),
]
FewShot: TypeAlias = Annotated[
    list[int] | None,
    typer.Option(
        "--few-shot",
        metavar="N",
        min=1,
        help="Learn from N records a label; repeated: a split file a size, each within the next.",
    ),
]
Folds: TypeAlias = Annotated[
    int, typer.Option("--folds", metavar="K", min=0, max=20, help="Also write K cross-validation folds.")
]
SplitFrom: TypeAlias = Annotated[
    Path | None,
    typer.Option("--split-from", metavar="JSON", help="Take the parts from a split file (split.json)."),
]
Workers: TypeAlias = Annotated[
    int, typer.Option("--workers", metavar="N", min=0, help="Processes; 0: one a core.")
]


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
        int | None, typer.Option("--cap", min=2, help="At most this many training records a label.")
    ] = None,
    unknown: Unknown = None,
    few_shot: FewShot = None,
    folds: Folds = 0,
    split_from: SplitFrom = None,
    workers: Workers = 0,
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
            unknown=tuple(unknown or ()),
            few_shot=tuple(few_shot or ()),
            folds=folds,
            split_from=split_from,
            workers=workers,
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


app.command("check")(cmd_audit.check)
app.command("audit")(cmd_audit.audit)
