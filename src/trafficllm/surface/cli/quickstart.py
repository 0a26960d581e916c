"""`trafficllm quickstart`: the whole path on real captures, with a report at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trafficllm.surface.terminal.options import Json, Quiet, Seed

if TYPE_CHECKING:
    from trafficllm.lifecycle.quickstart.results import Quickstart

_BASELINES = ("majority", "identifier_probe", "artefact_probe", "knn", "lightgbm", "random_forest")


def quickstart(
    workdir: Annotated[
        Path, typer.Option("--workdir", metavar="W", help="Where data sets, adapters and the report go; what is done there is reused.")
    ] = Path("work"),
    seed: Seed = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Small: under two minutes, for CI.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the whole path on real captures: data, tokens, adapters, results, unseen captures, generation, report."""
    from trafficllm.lifecycle.quickstart.quickstart import run
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    with Bar(quiet=quiet, log=True) as bar:
        result = run(workdir, seed=seed, quick=quick, progress=bar)
    emit("quickstart", result, as_json=as_json, show=_show)


def _show(result: Quickstart) -> None:
    for part in (_show_data, _show_scores, _show_tokens, _show_routing, _show_unseen, _show_generated, _show_end):
        part(result)


def _show_data(result: Quickstart) -> None:
    """What was split, dropped and masked, and why: a short paragraph a data set."""
    from trafficllm.core.escape import for_terminal

    for name, data in result.data.items():
        parts = ", ".join(f"{part} {count:,}" for part, count in data.split.parts.items())
        print(f"{name:<18}{parts} flows; split by {data.split.unit} ({data.split.groups} groups): {data.split.why}")
        dropped = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in data.dropped.items())
        print(f"{'':<18}dropped: {dropped or 'nothing'}")
        artefacts = ", ".join(f"{row.field} (alone {row.score:.2f})" for row in data.artefact_masked)
        print(f"{'':<18}masked: {data.mask}{', and as artefacts ' + artefacts if artefacts else ', no artefact found'}")
        for note in data.split.notes:
            print(f"{'':<18}note: {for_terminal(note)}")
    print()


def _show_scores(result: Quickstart) -> None:
    from trafficllm.surface.terminal.output import show_table

    rows = []
    for task in result.tasks:
        low, high = task.quality.ci95
        scores = [row.macro_f1 if (row := task.baselines.get(name)) else None for name in _BASELINES]
        rows.append([task.task, task.quality.n_test, task.quality.macro_f1, f"{low:.3f}-{high:.3f}", *scores])
    columns = ("task", "flows", "adapter", "95 %", *(name.replace("_", " ") for name in _BASELINES))
    title = "Macro-F1 on reserved flows, the same masked input for all (the identifier probe sees what the others may not)"
    show_table(columns, rows, title=title, right=columns[1:])


def _show_tokens(result: Quickstart) -> None:
    tokens = result.tokens_per_flow
    print(f"tokens per flow   plain {tokens.plain:.1f}, extended {tokens.extended:.1f}: {tokens.ratio:.2f} times fewer")


def _show_routing(result: Quickstart) -> None:
    routing = result.routing
    print(
        f"routing           {routing.accuracy:.3f} of {routing.n} questions by authors never read, all tasks and no other "
        f"(commonest answer {routing.majority:.3f}, none AUROC {routing.none_auroc:.3f})"
    )
    alone = f"{routing.alone.accuracy:.3f} (none AUROC {routing.alone.none_auroc:.3f})"
    print(f"{'':<18}the model alone, without the wording beside it: {alone}")


def _show_unseen(result: Quickstart) -> None:
    from trafficllm.surface.terminal.output import show_table

    rows = [[row.file, row.source, row.task, row.labels, row.unknown, row.truth] for row in result.unseen]
    show_table(("file", "source", "task", "labels", "unknown", "truth"), rows, title="Captures that nothing was trained on, right or wrong")


def _show_generated(result: Quickstart) -> None:
    from trafficllm.core.escape import for_terminal

    made = result.generated
    print(f"generated         {for_terminal(made.file)}: {made.packets} packets, {'valid' if made.valid else 'NOT valid'}")


def _show_end(result: Quickstart) -> None:
    from trafficllm.core.escape import for_terminal
    from trafficllm.surface.terminal.output import note

    print(f"seconds           {', '.join(f'{name} {value:.0f}' for name, value in result.seconds.items())}")
    print(f"reused            {', '.join(result.reused) or 'nothing'}")
    print(f"report            {for_terminal(result.report)}")
    note(f"next: export TRAFFICLLM_REGISTRY={Path(result.report).parent / 'registry'}")
    for step in result.next:
        note(f"next: {step.text}: {step.command}")
