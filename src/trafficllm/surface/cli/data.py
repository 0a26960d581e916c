"""`trafficllm data`: build, check, audit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from trafficllm.core.errors import InputError
from trafficllm.surface.terminal.options import Config, Folder, Json, Out, Profile, Quiet, Ray, Tasks, TuneSeed

if TYPE_CHECKING:
    from trafficllm.evaluate.audit.results import DataAudit
    from trafficllm.records.results import DataBuild, DataCheck, TokenState

app = typer.Typer(rich_markup_mode=None)

Unknown: TypeAlias = Annotated[
    list[str] | None, typer.Option("--unknown", metavar="LABEL", help="Never learn this label, only test it; may be repeated.")
]
FewShot: TypeAlias = Annotated[
    list[int] | None,
    typer.Option(
        "--few-shot", metavar="N", min=1, help="Learn from N records a label; repeated: a split file a size, each within the next."
    ),
]
Folds: TypeAlias = Annotated[int, typer.Option("--folds", metavar="K", min=0, max=20, help="Also write K cross-validation folds.")]
SplitFrom: TypeAlias = Annotated[
    Path | None, typer.Option("--split-from", metavar="JSON", help="Take the parts from a split file (split.json).")
]
Workers: TypeAlias = Annotated[int, typer.Option("--workers", metavar="N", min=0, help="Processes; 0: one a core.")]


@app.command()
def build(
    folder: Folder,
    out: Out,
    task: Annotated[str, typer.Option("--task", metavar="ID", help="Task id; default: a task named after the folder.")] = "",
    profile: Profile = "",
    split: Annotated[
        str, typer.Option("--split", metavar="UNIT", help="What may not cross a split: auto, capture, host, time, session or flow.")
    ] = "auto",
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="FIELD", help="Do not mask FIELD although it looks like an artefact (prints LEAKY)."),
    ] = None,
    reserved: Annotated[
        Path | None, typer.Option("--reserved", metavar="CSV", help="Files kept for scoring; default: reserved.csv in or above DIR.")
    ] = None,
    cap: Annotated[int | None, typer.Option("--cap", min=2, help="At most this many training records a label.")] = None,
    unknown: Unknown = None,
    few_shot: FewShot = None,
    folds: Folds = 0,
    split_from: SplitFrom = None,
    workers: Workers = 0,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels", metavar="LOG", help="Label the flows by another sensor's logs (EVE, Zeek, CSV, Parquet); may be repeated."
        ),
    ] = None,
    label_field: Annotated[
        str, typer.Option("--label-field", metavar="NAME", help="The log's column that holds the label; default: the first known one.")
    ] = "",
    ray: Ray = "",
    seed: TuneSeed = None,
    extra: Tasks = None,
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build a leak-safe data set from labelled captures: masked records, a split by group, a card.

    With --ray files are read by a cluster, to the same data set: a file that cannot be read is left out, and the same command again goes
    on from what is done.
    """
    from trafficllm.core.settings import load_config
    from trafficllm.lifecycle import datasets
    from trafficllm.lifecycle.analyze.captures import skipping, unread
    from trafficllm.lifecycle.cluster.building import spread_over
    from trafficllm.records.dataset.dataset import BuildOptions
    from trafficllm.records.sources.rows import LabelLogs
    from trafficllm.surface.terminal.output import ToldError, emit, tell
    from trafficllm.surface.terminal.progress import Bar

    options = BuildOptions.of(
        load_config(config),
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
        labels=LabelLogs(tuple(labels), label_field) if labels else None,
    )
    definition = datasets.pick_task(folder, task, extra or ())
    skipped = skipping(tell)
    with Bar(quiet=quiet, log=True) as bar, spread_over(ray, skipped) as on:
        report = datasets.build(folder, Path(out), task=definition, options=options, progress=bar, on=on)
    result = report.result()
    emit("data.build", result, as_json=as_json, show=_show)
    if labels:
        _say_unlabelled(result)
    if failure := unread(skipped):
        raise ToldError(failure) if as_json else failure


def _say_unlabelled(result: DataBuild) -> None:
    from trafficllm.surface.terminal.output import note

    total = result.records + sum(result.dropped.values())
    missing, conflicts = result.dropped.get("no label", 0), result.dropped.get("labels that disagree", 0)
    share = missing / total if total else 0.0
    note(f"{missing:,} of {total:,} flows have no label in the logs ({share:.1%}), {conflicts:,} have labels that disagree: left out")


def _show(result: DataBuild) -> None:
    from trafficllm.surface.terminal.output import note, show_pairs, show_table

    rows = [[label, *(counts[part] for part in ("train", "val", "test"))] for label, counts in sorted(result.classes.items())]
    show_table(("class", "train", "val", "test"), rows, right=("train", "val", "test"))
    show_pairs({key: value for key, value in result.given().items() if key not in {"classes", "split", "groups"}})
    split = result.split
    show_pairs({"split by": f"{split.unit}: {split.why}", "groups": split.groups, "reserved": split.reserved, "notes": split.notes})
    for field in result.leaky:
        note(f"LEAKY: {field}")


_TaskId = Annotated[str, typer.Option("--task", metavar="ID", help="Task id; default: a task named after the folder.")]
_STATES = {"hidden": "[-{}-]", "instead": "{{+{}+}}", "shown": "{}"}


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Labelled captures, or a data set made by `data build`.")],
    task: _TaskId = "",
    extra: Tasks = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Look before you train: labels too small, unreadable files, one capture a label, marks of the capture set-up.

    Shows three records token by token, [-hidden by the masks-] and {+put in its place+}. Exit code 3 when not ready to train.
    """
    from trafficllm.core.settings import load_config
    from trafficllm.lifecycle import datasets
    from trafficllm.lifecycle.studies import audit as auditing
    from trafficllm.records.dataset.dataset import BuildOptions
    from trafficllm.surface.terminal.output import emit

    options = BuildOptions.of(load_config(config))
    result = auditing.check(folder, datasets.pick_task(folder, task, extra or ()), options=options)
    emit("data.check", result, as_json=as_json, show=_show_check)
    if not result.ready:
        raise typer.Exit(InputError.exit_code)


def _show_check(result: DataCheck) -> None:
    from trafficllm.core.escape import for_terminal
    from trafficllm.surface.terminal.output import note, show_table

    show_table(("label", "holds"), sorted(result.classes.items()))
    show_table(("level", "kind", "where", "what"), ([row.level, row.kind, row.where, row.message] for row in result.findings))
    for sample in result.samples:
        print(f"{for_terminal(sample.label)}: {for_terminal(_marked(sample.tokens))}\n")
    note("ready to train" if result.ready else "not ready: see the errors above")


def _marked(tokens: Sequence[TokenState]) -> str:
    """Tokens as one line; runs of one state share a mark.

    >>> _marked([{"token": "a", "state": "hidden"}, {"token": "b", "state": "hidden"}, {"token": "c", "state": "shown"}])
    '[-a b-] c'
    """
    runs: list[tuple[str, list[str]]] = []
    for row in tokens:
        if not runs or runs[-1][0] != row["state"]:
            runs.append((row["state"], []))
        runs[-1][1].append(row["token"])
    return " ".join(_STATES[state].format(" ".join(words)) for state, words in runs)


@app.command()
def audit(
    data: Annotated[Path, typer.Argument(metavar="D", help="A data set made by `data build`, or a folder of labelled captures.")],
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write the audit as one self-contained page.")] = None,
    captures: Annotated[
        Path | None, typer.Option("--captures", metavar="DIR", help="Where D was built from, if D is old and keeps no capture marks.")
    ] = None,
    judged: Annotated[
        str,
        typer.Option(
            "--judged",
            metavar="PART",
            help="test; rest: leave the test part alone and split the others anew; auto: rest where flows are reserved.",
        ),
    ] = "auto",
    budget: Annotated[
        float, typer.Option("--budget", metavar="S", min=1.0, help="Seconds of estimated work for each baseline's search.")
    ] = 20.0,
    task: _TaskId = "",
    extra: Tasks = None,
    config: Config = None,
    seed: TuneSeed = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Look for shortcuts before training: shared flows and hosts, duplicates, marks of the capture, honest beside leaky scores."""
    from trafficllm.core.settings import load_config
    from trafficllm.lifecycle import datasets
    from trafficllm.lifecycle.studies import audit as auditing
    from trafficllm.records.dataset.dataset import BuildOptions
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    definition, options = datasets.pick_task(data, task, extra or ()), BuildOptions.of(load_config(config), seed=seed)
    with Bar(quiet=quiet, log=True) as bar:
        result = auditing.audit(
            data, definition, captures=captures, judged=judged, options=options, seed=options.seed, budget_s=budget, html=html, progress=bar
        )
    emit("data.audit", result, as_json=as_json, show=_show_audit)


def _show_audit(result: DataAudit) -> None:
    from trafficllm.core.escape import for_terminal
    from trafficllm.surface.terminal.output import show_pairs, show_table

    columns = ("kind", "field", "score", "question", "hidden")
    show_table(columns, ([getattr(row, name) for name in columns] for row in result.findings), right=("score",))
    names = ("macro-F1", "95 %", "split", "masks")
    rows = [*result.baselines.items(), *((f"packets: {way}", row) for way, row in result.per_packet.items())]
    show_table(("baseline", *names), ([name, row.macro_f1, row.ci95, row.split, row.mask] for name, row in rows), right=names[:2])
    show_pairs(result, "duplicates", "shared_groups", "honest", "leaky", "not_checked", "cap")
    print(for_terminal(result.verdict))
