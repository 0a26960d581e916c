"""`trafficllm evaluate`: run, compare, robust, transfer, drift, openworld, generation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficllm.surface.terminal.options import Base, Config, DataSet, Json, Profile, Quiet, Ray, Registry, Seed, Task, Tasks

if TYPE_CHECKING:
    from trafficllm.evaluate.results import EvaluateCompare, Quality
    from trafficllm.lifecycle.studies.results import (
        EvaluateDrift,
        EvaluateGeneration,
        EvaluateOpenworld,
        EvaluateRobust,
        EvaluateRun,
        EvaluateTransfer,
    )

app = typer.Typer(rich_markup_mode=None)

Part = Annotated[str, typer.Option("--part", metavar="PART", help="test; val for trials: settings are chosen there, so it prints LEAKY.")]
Most = Annotated[int, typer.Option("--most", metavar="N", min=0, help="Judge at most N flows, evenly thinned; 0: all.")]
Budget = Annotated[float, typer.Option("--budget", metavar="S", min=1.0, help="Seconds of estimated work for each baseline's search.")]
Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="FILE", help="Weights of TabICL, which is then a baseline too (extra `tabicl`).")
]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write the report as one self-contained page.")]


@app.command()
def run(
    data: Annotated[list[Path], typer.Argument(metavar="D", help="A data set made by `data build`; several are folds of one.")],
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter",
            metavar="A",
            help="An adapter folder; repeat it for several seeds, or one for each fold. Default: the task's live version.",
        ),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Score the baselines on the same input too, or only the commonest answer.")
    ] = True,
    checkpoint: Checkpoint = None,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Also probe the base's frozen representation: k-NN, linear probe, a map.")
    ] = False,
    html: Html = None,
    part: Part = "test",
    most: Most = 0,
    budget: Budget = 120.0,
    ray: Ray = "",
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score adapters on a data set's test split, with interval, baselines, cost and plots.

    With --ray the nodes of a cluster score the adapters' rows; baselines are learnt here.
    """
    from trafficllm.lifecycle.cluster.scoring import scores_over
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.studies.run import evaluate
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, config=config)
    with Bar(quiet=quiet, log=True) as bar, scores_over(ray, workspace, bar) as score:
        result = evaluate(
            workspace,
            data,
            adapters=adapter or [],
            baselines=baselines,
            embedding=embedding,
            options=EvalOptions(part=part, most=most, seed=seed, budget_s=budget, checkpoint=checkpoint),
            html=html,
            progress=bar,
            score=score,
        )
    emit("evaluate.run", result, as_json=as_json, show=_show)


def _show(result: EvaluateRun) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    cost = result.cost
    rows = [["adapter", *_cells(result), cost.get("train_seconds"), cost["flows_per_second"]]]
    rows += [[name, *_cells(row), None, None] for name, row in (result.embedding.probes if result.embedding else {}).items()]
    rows += [[name, *_cells(row), row.seconds, row.flows_per_s] for name, row in result.baselines.items()]
    if result.cascade:
        rows.append(["cascade", *_cells(result.cascade), None, result.cascade.flows_per_s])
    columns = ("macro-F1", "95 %", "unique", "accuracy", "training s", "flows/s")
    show_table(("", *columns), rows, right=columns)
    if sets := result.labels_90:
        print(f"labels_90 holds the label of {sets.coverage:.1%} of flows (captures alike {sets.coverage_of_captures:.1%}; 90 % promised)")
        print(f"and names {sets.mean_size:.1f} labels on average")
    show_pairs(result, "n_test", "n_test_unique", "split", "mask", "leaky", "seen_by_base", "seeds", "not_measurable")


def _cells(row: Quality) -> list[Any]:
    return [row.macro_f1, f"{row.ci95[0]:.3f}-{row.ci95[1]:.3f}", row.unique.macro_f1, row.accuracy]


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A report: `evaluate run --json > a.json`.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one on the same flows.")],
    html: Html = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Two reports side by side, flow by flow: the difference of macro-F1 with its paired bootstrap interval."""
    from trafficllm.evaluate.comparison import compare as compare_reports
    from trafficllm.lifecycle.reports.study_pages import compare_page, report_of
    from trafficllm.surface.terminal.output import emit

    result = compare_reports(report_of(a), report_of(b), seed=seed)
    if html is not None:
        compare_page(result, html)
    emit("evaluate.compare", result, as_json=as_json, show=_show_compare)


def _show_compare(result: EvaluateCompare) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    names = ("adapter", "macro_f1", "ci95", "split", "mask", "leaky", "seeds", "n_test")
    sides = (("a", result.a), ("b", result.b))
    show_table(("", *names), ([side, *(getattr(report, name) for name in names)] for side, report in sides), right=("macro_f1",))
    columns = ("support", "a", "b", "difference")
    rows = ([row.label, row.support, row.a, row.b, f"{row.difference:+.3f}"] for row in result.per_class)
    show_table(("class", *columns), rows, right=columns)
    show_pairs({"difference": f"{result.difference:+.3f}", "95 %": f"{result.ci95[0]:+.3f} to {result.ci95[1]:+.3f}"})
    show_pairs(result, "p", "n", "only_a", "only_b", "groups", "agreement", "verdict")


Adapter = Annotated[Path | None, typer.Option("--adapter", metavar="A", help="An adapter folder; default: the task's live version.")]
CapturesOf = Annotated[
    Path | None, typer.Option("--captures", metavar="DIR", help="The folder D was built from: shifts then act on its packets, read again.")
]


@app.command()
def robust(
    data: DataSet,
    adapter: Adapter = None,
    captures: CapturesOf = None,
    html: Html = None,
    part: Part = "test",
    most: Most = 0,
    budget: Budget = 60.0,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score under shifts: loss, reordering, jitter, MTU, snap length, first packets, VLAN, GRE, IPv6, NAT, forged identifiers."""
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.studies.robust import robust as study
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, config=config)
    with Bar(quiet=quiet, log=True) as bar:
        options = EvalOptions(part=part, most=most, seed=seed, budget_s=budget)
        result = study(workspace, data, adapter=adapter, captures=captures, options=options, html=html, progress=bar)
    emit("evaluate.robust", result, as_json=as_json, show=_show_robust)


def _show_robust(result: EvaluateRobust) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    names = list(result.mean_loss)
    columns = ("changed", "lost", *(cell for name in names for cell in (name, "change")))
    rows = []
    for row in result.perturbations:
        pairs = (cell for n in names for cell in (row.macro_f1[n], f"{row.delta[n]:+.3f}"))
        rows.append([row.name, row.level, row.changed, row.lost, *pairs])
    show_table(("shift", "on", *columns), rows, right=columns)
    show_pairs(result, "mean_loss", "goal", "forge", "payload", "n_test", "split", "mask", "leaky", "seen_by_base")


@app.command()
def transfer(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="The data set that the adapter was trained on.")],
    test: Annotated[Path, typer.Argument(metavar="TEST", help="A data set of another source, or of another task.")],
    adapter: Adapter = None,
    shots: Annotated[list[int] | None, typer.Option("--shots", metavar="K", min=1, help="Flows a class to learn from; repeat it.")] = None,
    draws: Annotated[int, typer.Option("--draws", metavar="N", min=1, help="Draws of each size.")] = 3,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", metavar="S", min=0.0, help="Also tune an adapter on each draw for S seconds; 0: none.")
    ] = 0.0,
    checkpoint: Checkpoint = None,
    html: Html = None,
    part: Part = "test",
    most: Most = 0,
    budget: Budget = 60.0,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """One source to another, and few-shot curves beside LightGBM with the same shots."""
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.studies.transfer import FewShot
    from trafficllm.lifecycle.studies.transfer import transfer as study
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, config=config)
    with Bar(quiet=quiet, log=True) as bar:
        result = study(
            workspace,
            train,
            test,
            adapter=adapter,
            few=FewShot(shots or (), draws, max_seconds, checkpoint),
            options=EvalOptions(part=part, most=most, seed=seed, budget_s=budget),
            html=html,
            progress=bar,
        )
    emit("evaluate.transfer", result, as_json=as_json, show=_show_transfer)


def _show_transfer(result: EvaluateTransfer) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    if result.direct:
        rows = [["adapter", result.macro_f1, result.ci95], *([n, r.macro_f1, r.ci95] for n, r in result.baselines.items())]
        show_table(("as they are", "macro-F1", "95 %"), rows, right=("macro-F1",))
    sizes = [str(row.shots) for row in result.shots]
    names = list(result.shots[-1].rows)
    show_table(("flows a class", *sizes), ([n, *(row.rows[n].macro_f1 for row in result.shots)] for n in names), right=sizes)
    show_pairs(result, "gain_at_20", "n_test", "split", "mask", "leaky", "seen_by_base")


@app.command()
def drift(
    data: DataSet,
    live: Annotated[
        list[Path], typer.Argument(metavar="LIVE", help="Live captures, a folder of them (by label where known), or a data set.")
    ],
    adapter: Adapter = None,
    captures: Annotated[
        Path | None, typer.Option("--captures", metavar="DIR", help="The folder D was built from: LIVE is then read through the same cut.")
    ] = None,
    learnt: Annotated[
        list[Path] | None,
        typer.Option("--learnt", metavar="DIR", help="Labelled captures that an update has taught the adapter: baselines learn them too."),
    ] = None,
    html: Html = None,
    part: Part = "test",
    most: Annotated[int, typer.Option("--most", metavar="N", min=0, help="Compare at most N flows a side; 0: all.")] = 2000,
    budget: Budget = 60.0,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Is live traffic still what the adapter was trained on: which fields moved, since when, is an update due."""
    from trafficllm.lifecycle.studies.drift import drift as study
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, config=config)
    with Bar(quiet=quiet, log=True) as bar:
        result = study(
            workspace,
            data,
            live,
            adapter=adapter,
            captures=captures,
            learnt=learnt or (),
            options=EvalOptions(part=part, most=most, seed=seed, budget_s=budget),
            html=html,
            progress=bar,
        )
    emit("evaluate.drift", result, as_json=as_json, show=_show_drift)


def _show_drift(result: EvaluateDrift) -> None:
    from trafficllm.lifecycle.reports.study_pages import drift_marks, when
    from trafficllm.surface.terminal.output import show_pairs, show_table

    moved, live = result.drift, result.live
    show_table(("field", "PSI", "since"), ([row.field, row.psi, when(row.since)] for row in moved.fields), right=("PSI",))
    rows = _beside("where it was trained", result, result.baselines) + (_beside("live", live, live.baselines) if live else [])
    show_table(("flows", "row", "macro-F1", "95 %"), rows, right=("macro-F1",))
    show_pairs(moved, "score", "p", "before", "now", "update_due")
    show_pairs({"since": when(moved.since), "flows": result.flows, "cut": result.cut, "leaky": drift_marks(result)})


def _beside(side: str, ours: Quality, baselines: Mapping[str, Quality]) -> list[list[Any]]:
    return [[side, name, row.macro_f1, row.ci95] for name, row in (("adapter", ours), *baselines.items())]


@app.command()
def openworld(
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA", help="Data sets, or folders with one sub-folder of captures a label: one or several.")
    ],
    task: Task = "",
    background: Annotated[
        list[Path] | None,
        typer.Option("--background", metavar="DIR", help="A folder of captures that are negatives, whatever its layout; may be repeated."),
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option("--sources", metavar="CSV", help="Columns file,source: where each capture, or all of a folder, comes from."),
    ] = None,
    source_level: Annotated[
        int, typer.Option("--source-level", metavar="N", min=0, help="Folder level below DATA that names the source; 1 is the label's.")
    ] = 0,
    profile: Profile = "",
    folds: Annotated[int, typer.Option("--folds", metavar="K", min=0, help="Leave sources out in K groups; 0: one by one.")] = 0,
    seeds: Annotated[list[int] | None, typer.Option("--seeds", metavar="N", min=0, help="A seed; repeat it. Default: 0.")] = None,
    rate: Annotated[
        float, typer.Option("--rate", metavar="R", help="Wanted false-positive rate of flows, mean over left-out sources.")
    ] = 0.01,
    worst_factor: Annotated[
        float, typer.Option("--worst-factor", metavar="F", min=0.0, help="No left-out source above F times the rate either; 0: no limit.")
    ] = 0.0,
    learner: Annotated[str, typer.Option("--learner", metavar="NAME", help="Ours: frozen (the base's states under a readout).")] = "frozen",
    part: Annotated[
        str, typer.Option("--part", metavar="PART", help="all: flows that no list keeps for scoring; test: the kept ones are judged.")
    ] = "all",
    most: Annotated[
        int, typer.Option("--most", metavar="N", min=0, help="Judge at most N flows of each side of a source, evenly thinned; 0: all.")
    ] = 2000,
    work: Annotated[
        Path | None, typer.Option("--work", metavar="DIR", help="Keep data sets and scores of folds here; default: only until the end.")
    ] = None,
    html: Html = None,
    base: Base = "",
    registry: Registry = "",
    extra: Tasks = None,
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Leave every source out: false positives, recall and AUROC on laboratories that nobody learnt from, beside trees with the same."""
    from trafficllm.lifecycle.studies.openworld import OpenOptions
    from trafficllm.lifecycle.studies.openworld import openworld as study
    from trafficllm.lifecycle.studies.openworld_rows import RowOptions
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, extra_tasks=extra or (), config=config)
    rows = RowOptions(sources=sources, level=source_level, part=part, most=most)
    chosen = tuple(dict.fromkeys(seeds or [0]))
    options = OpenOptions(folds=folds, seeds=chosen, rate=rate, worst_factor=worst_factor, learner=learner, rows=rows)
    with Bar(quiet=quiet, log=True) as bar:
        result = study(
            workspace, data, task=task, background=background or (), profile=profile, options=options, work=work, html=html, progress=bar
        )
    emit("evaluate.openworld", result, as_json=as_json, show=_show_openworld)


def _show_openworld(result: EvaluateOpenworld) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    names = ("fpr_flow", "fpr_host", "recall", "auroc", "recall_at_fpr_01", "recall_at_fpr_001", "precision_at_1pct", "unknown_benign")
    each = [(result.learner, result), *result.baselines.items()]
    show_table(("mean over sources", *names), ([n, *(getattr(row.mean, key) for key in names)] for n, row in each), right=names)
    figures = ("fpr_flow", "recall", "auroc", "recall_at_fpr_01")
    show_table(("95 %, over sources", *figures), ([n, *(row.ci95.get(key) for key in figures)] for n, row in each))
    columns = ("captures", "flows", "hosts", "fpr_flow", "fpr_host", "recall", "auroc", "unknown")
    rows = ([row.source, row.side, *(getattr(row, key) for key in columns)] for row in result.sources)
    show_table(("source", "side", *columns), rows, right=columns)
    show_pairs(result, "worst", "operating", "flows", "skipped", "dropped", "split", "mask", "leaky", "seen_by_base", "seeds", "seconds")


@app.command()
def generation(
    real: Annotated[
        Path, typer.Argument(metavar="REAL", help="Held-out captures (a file, or a folder of one sub-folder a label), or a data set.")
    ],
    synthetic: Annotated[
        Path, typer.Argument(metavar="SYNTHETIC", help="Generated captures: a file, or a folder of one sub-folder a label.")
    ],
    train: Annotated[
        Path | None,
        typer.Option("--train", metavar="PATH", help="What was learnt from: captures or a data set; default: REAL's training part."),
    ] = None,
    part: Annotated[
        str, typer.Option("--part", metavar="PART", help="Part of a data set to compare with: test, or val while choosing.")
    ] = "test",
    captured: Annotated[
        Path | None,
        typer.Option("--captures", metavar="DIR", help="Folder that the data set was built from: flows are cut as its captures are."),
    ] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", metavar="LABEL", help="Compare only this label; may be repeated.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write the report as one self-contained page.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare generated with real flows, field by field: distances beside their floor and beside three baselines, and what a
    detector trained on one kind is worth on the other."""
    from trafficllm.lifecycle.studies.generation import evaluate
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    with Bar(quiet=quiet, log=True) as bar:
        result = evaluate(
            real, synthetic, train=train, part=part, captured=captured, labels=labels or (), seed=seed, html=html, progress=bar
        )
    emit("evaluate.generation", result, as_json=as_json, show=_show_generation)


def _show_generation(result: EvaluateGeneration) -> None:
    from trafficllm.lifecycle.studies.generation import COLUMNS, table
    from trafficllm.surface.terminal.output import show_pairs, show_table

    columns = tuple(next(iter(result.fields.values())).given())
    show_table(("field, JSD", *columns), ([name, *row.given().values()] for name, row in result.fields.items()), right=columns)
    show_table(COLUMNS, table(result), right=COLUMNS[1:])
    show_pairs(result, "tstr", "trts", "trtr", "copies", "overlap", "valid", "cuts", "not_compared")
