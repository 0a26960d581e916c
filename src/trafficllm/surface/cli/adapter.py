"""`trafficllm adapter`: register, update, list, show, promote, rollback, sign, verify, export, gc."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficllm.core.errors import UsageError
from trafficllm.surface.terminal.options import (
    Background,
    Base,
    Config,
    FalsePositives,
    Folder,
    Json,
    MaxSeconds,
    NoBackground,
    Out,
    Positives,
    Profile,
    Quiet,
    Registry,
    Task,
    Tasks,
    TuneSeed,
)

if TYPE_CHECKING:
    from trafficllm.evaluate.results import Quality
    from trafficllm.lifecycle.adapters.results import AdapterChange, AdapterList, AdapterRegister, AdapterRow, AdapterUpdate
    from trafficllm.lifecycle.studies.results import CascadeScore
    from trafficllm.lifecycle.workspace import Workspace

app = typer.Typer(rich_markup_mode=None)
TaskArgument = Annotated[str, typer.Argument(metavar="TASK")]


@app.command()
def register(
    folder: Folder,
    task: Task,
    base: Base = "",
    registry: Registry = "",
    profile: Profile = "",
    seed: TuneSeed = None,
    max_seconds: MaxSeconds = None,
    trained: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="ADAPTER", help="Take this trained adapter folder; nothing is tuned. Repeated: one a member."),
    ] = None,
    members: Annotated[
        int,
        typer.Option("--members", metavar="N", min=1, max=9, help="Adapters tuned from N seeds that answer together: N times the cost."),
    ] = 1,
    notable: Annotated[
        list[str] | None, typer.Option("--notable", metavar="LABEL", help="Label of your own task that raises an event; may be repeated.")
    ] = None,
    background: Background = None,
    no_background: NoBackground = False,
    positives: Positives = None,
    false_positives: FalsePositives = None,
    extra: Tasks = None,
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train, evaluate, calibrate and version an adapter from labelled captures or a data set.

    A task id that the catalogue does not know makes a task of your own, with the folder's labels; a live router learns to route to it.
    Which of its labels are notable is said by --notable, or asked on a terminal.
    """
    from trafficllm.lifecycle.adapters.register import register as made
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, extra_tasks=extra or (), config=config)
    events = notable or ([] if as_json or quiet else _ask_notable(workspace, folder, task))
    with Bar(quiet=quiet, log=True) as bar:
        answer = made(
            workspace,
            folder,
            task,
            profile=profile,
            seed=seed,
            max_seconds=max_seconds,
            trained=trained or (),
            members=members,
            notable=events,
            background=background or None,
            packaged=not no_background,
            positives=positives or (),
            false_positives=false_positives,
            progress=bar,
        )
    emit("adapter.register", answer, as_json=as_json, show=_show_registered)


def _ask_notable(workspace: Workspace, folder: Path, task: str) -> list[str]:
    """The labels of a new task that are to raise an event, asked for where a person sits at the terminal."""
    from trafficllm.core.escape import for_terminal
    from trafficllm.lifecycle.datasets import is_own, labels_of

    if not (sys.stdin.isatty() and sys.stderr.isatty()) or not is_own(task, workspace.tasks()):
        return []
    labels = labels_of(folder)
    typer.echo(f"{task} is a task of your own. Its labels: {for_terminal(', '.join(labels))}", err=True)
    answer = typer.prompt("Which of them are notable (raise an event)? commas between them; Enter for none", default="", err=True)
    return [label.strip() for label in answer.split(",") if label.strip()]


def _show_registered(answer: AdapterRegister) -> None:
    from trafficllm.surface.terminal.output import note, show_pairs, show_table

    if answer.quality is not None:  # generators are scored by `evaluate generation`
        rows = [["this adapter", *_score(answer.quality)]]
        rows += [[name.replace("_", " "), *_score(row)] for name, row in answer.baselines.items()]
        rows += [[_cascade_name(answer.cascade), *_score(answer.cascade)]] if answer.cascade else []
        title = f"{answer.task} on {answer.quality.n_test} held-out flows"
        show_table(("", "macro-F1", "95 %"), rows, title=title, right=("macro-F1", "95 %"))
        if thin := answer.quality.not_measurable:
            note(f"too few to measure, so the interval says little: {'; '.join(f'{name} ({why})' for name, why in thin.items())}")
    show_pairs(answer, "task", "version", "parent", "status", "seconds", "peak_bytes")


def _score(quality: Quality) -> list[Any]:
    low, high = quality.ci95
    return [quality.macro_f1, f"{low:.3f}-{high:.3f}"]


def _cascade_name(row: CascadeScore) -> str:
    """What the trees settle at which error, and how fast both are together."""
    return f"cascade ({row.share:.0%} by {row.first}, {row.first_error:.1%} of them wrong; {row.flows_per_s:.0f} flows/s)"


@app.command()
def update(
    folder: Folder,
    task: Task,
    base: Base = "",
    registry: Registry = "",
    seed: TuneSeed = None,
    max_seconds: MaxSeconds = None,
    background: Background = None,
    no_background: NoBackground = False,
    positives: Positives = None,
    false_positives: FalsePositives = None,
    extra: Tasks = None,
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Teach a live task new captures, also of new classes; promoted only if old data is answered as well as before.

    Starts from the live version and replays the records it kept. A refused update is kept as a rejected version
    and ends with exit code 5; too few records to tell leave a candidate.
    """
    from trafficllm.lifecycle.adapters.register import update as made
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, extra_tasks=extra or (), config=config)
    with Bar(quiet=quiet, log=True) as bar:
        answer = made(
            workspace,
            folder,
            task,
            seed=seed,
            max_seconds=max_seconds,
            background=background or None,
            packaged=not no_background,
            positives=positives or (),
            false_positives=false_positives,
            progress=bar,
        )
    emit("adapter.update", answer, as_json=as_json, show=_show_updated)


def _show_updated(answer: AdapterUpdate) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    sides = {"old data": answer.gate.old, "new data": answer.gate.new}
    rows = [[name, row.records, row.groups, row.before, row.after, row.lower] for name, row in sides.items() if row is not None]
    columns = ("", "records", "groups", "before", "after", "lower bound")
    show_table(columns, rows, title="macro-F1 on held-out records", right=columns[1:])
    show_pairs(answer, "task", "version", "parent", "status", "why", "added_labels", "replayed", "transfer")
    cost = f"{answer.tuning.seconds:.1f} s, the parent's {answer.parent_seconds:.1f} s"
    show_pairs({"tuning": cost, "seconds": answer.seconds, "peak_bytes": answer.peak_bytes})


@app.command("list")
def list_(registry: Registry = "", config: Config = None, as_json: Json = False) -> None:
    """List adapters and their versions."""
    from trafficllm.lifecycle.adapters import upkeep
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit, note_failed

    body = upkeep.list_adapters(Workspace(registry=registry, config=config))
    note_failed(body.failed)
    emit("adapter.list", body, as_json=as_json, show=_show_list)


def _standing(row: AdapterRow) -> str:
    return f"{row.status}, laboratory only" if row.laboratory_only else row.status


def _show_list(answer: AdapterList) -> None:
    from trafficllm.surface.terminal.output import note, show_table

    rows = [[row.task, row.version, _standing(row), row.source, row.macro_f1] for row in answer.adapters]
    show_table(("task", "version", "status", "source", "macro-F1"), rows, title=f"registry: {answer.registry}", right=("macro-F1",))
    if not rows and not answer.failed:
        note("no adapters yet: `trafficllm quickstart`, or `trafficllm adapter register DIR --task ID`")


@app.command()
def show(
    task: TaskArgument,
    version: Annotated[str, typer.Option("--version", metavar="V", help="Default: the live one.")] = "",
    registry: Registry = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show a version as a card: what it answers, how well, beside which baselines, from what it was made; --json: its manifest."""
    from trafficllm.lifecycle.adapters import upkeep
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.card import show_card
    from trafficllm.surface.terminal.output import emit

    emit("adapter.show", upkeep.show_adapter(Workspace(registry=registry, config=config), task, version), as_json=as_json, show=show_card)


@app.command()
def promote(
    task: TaskArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    registry: Registry = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a version live."""
    from trafficllm.lifecycle.adapters import upkeep
    from trafficllm.lifecycle.workspace import Workspace

    _changed("adapter.promote", upkeep.promote(Workspace(registry=registry, config=config), task, version), as_json=as_json)


@app.command()
def rollback(task: TaskArgument, registry: Registry = "", config: Config = None, as_json: Json = False) -> None:
    """Make the previously live version live again."""
    from trafficllm.lifecycle.adapters import upkeep
    from trafficllm.lifecycle.workspace import Workspace

    _changed("adapter.rollback", upkeep.rollback(Workspace(registry=registry, config=config), task), as_json=as_json)


def _changed(name: str, answer: AdapterChange, *, as_json: bool) -> None:
    from trafficllm.surface.terminal.output import emit, show_pairs

    score = answer.quality.macro_f1 if answer.quality else None
    shown = {"task": answer.task, "version": answer.version, "status": answer.status, "parent": answer.parent, "macro_f1": score}
    emit(name, answer, as_json=as_json, show=lambda _: show_pairs(shown))


@app.command()
def sign(
    task: TaskArgument,
    key: Annotated[Path, typer.Option("--key", metavar="PEM", help="Private Ed25519 key: openssl genpkey -algorithm ed25519.")],
    version: Annotated[str, typer.Option("--version", metavar="V", help="Default: the live one.")] = "",
    registry: Registry = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Sign a version: signature.json beside its manifest, which holds the hash of every other file."""
    from trafficllm.lifecycle.adapters import upkeep
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit, show_pairs

    emit(
        "adapter.sign",
        upkeep.sign(Workspace(registry=registry, config=config), task, key, version=version),
        as_json=as_json,
        show=show_pairs,
    )


@app.command()
def verify(
    task: Annotated[str, typer.Option("--task", metavar="ID", help="Default: all tasks.")] = "",
    key: Annotated[Path | None, typer.Option("--key", metavar="PEM", help="Each must be signed by this Ed25519 key.")] = None,
    registry: Registry = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Compare every file of the registry with the hashes it was registered with, and with --key the signatures."""
    from trafficllm.lifecycle.adapters import upkeep
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit, show_pairs

    emit("adapter.verify", upkeep.verify(Workspace(registry=registry, config=config), task, key=key), as_json=as_json, show=show_pairs)


@app.command()
def export(
    task: TaskArgument,
    out: Out,
    version: Annotated[str, typer.Option("--version", metavar="V", help="Default: the live one.")] = "",
    merged: Annotated[bool, typer.Option("--merged", help="The whole base with the adapter merged in.")] = False,
    server: Annotated[
        str, typer.Option("--for", metavar="SERVER", help="vllm: a LoRA folder a member, and serving.json for clients.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DATASET", help="With --for: calibrate answers without readouts on its validation part."),
    ] = None,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write a version as a folder that stock PEFT loads, or with `--for vllm` as LoRA folders for vLLM; kept records stay behind.

    Of a version of several members the folder is the first; the others lie in its folder `members`. They cannot be merged into one.
    """
    from trafficllm.lifecycle.adapters import upkeep
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit, note, show_pairs

    workspace = Workspace(base=base, registry=registry, config=config)
    if server not in {"", "vllm"} or (server and merged) or (data is not None and not server):
        hint = "--for vllm [--data DATASET], or --merged"
        raise UsageError("usage.option", "these do not go together", input="--for", hint=hint)
    if server:
        from trafficllm.lifecycle.serving.export import export_for_vllm

        answer = export_for_vllm(workspace, task, out, version=version, data=data)
        if data is None:
            note("no --data: temperature and unknown threshold are the version's own, fitted with its readout")
        emit("adapter.export", answer, as_json=as_json, show=show_pairs)
        return
    answer = upkeep.export(workspace, task, out, version=version, merged=merged)
    if answer.members > 1:
        note(f"{answer.members} members: PEFT loads the folder as the first of them alone; the others lie in members/2 and on")
    emit("adapter.export", answer, as_json=as_json, show=show_pairs)


@app.command()
def gc(
    task: Annotated[str, typer.Option("--task", metavar="ID", help="Default: all tasks.")] = "",
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=0, help="Latest versions to keep.")] = 3,
    registry: Registry = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Remove old versions: all but the live one, the latest, and those that were live last."""
    from trafficllm.lifecycle.adapters import upkeep
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit, show_pairs

    emit("adapter.gc", upkeep.gc(Workspace(registry=registry, config=config), task, keep=keep), as_json=as_json, show=show_pairs)
