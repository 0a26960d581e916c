"""`trafficllm evaluate`: run, compare, robust, transfer, drift, generation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trafficllm.surface.terminal.options import Base, Config, DataSet, Json, Quiet, Registry, Seed

app = typer.Typer(rich_markup_mode=None)

Part = Annotated[str, typer.Option("--part", metavar="PART", help="test; val for trials: settings are chosen there, so it prints LEAKY.")]
Most = Annotated[int, typer.Option("--most", metavar="N", min=0, help="Judge at most N flows, evenly thinned; 0: all.")]
Budget = Annotated[float, typer.Option("--budget", metavar="S", min=1.0, help="Seconds of estimated work for each baseline's search.")]
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
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Also probe the base's frozen representation: k-NN, linear probe, a map.")
    ] = False,
    html: Html = None,
    part: Part = "test",
    most: Most = 0,
    budget: Budget = 120.0,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score adapters on a data set's test split, with interval, baselines, cost and plots."""
    from trafficllm.lifecycle.studies.run import evaluate
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, config=config)
    with Bar(quiet=quiet) as bar:
        body = evaluate(
            workspace,
            data,
            adapters=adapter or [],
            baselines=baselines,
            embedding=embedding,
            part=part,
            most=most,
            budget_s=budget,
            html=html,
            seed=seed,
            progress=bar,
        )
    emit("evaluate.run", body, as_json=as_json, show=_show)


def _show(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    probes = (body["embedding"] or {"probes": {}})["probes"]
    cost = {"seconds": body["cost"].get("train_seconds"), "flows_per_s": body["cost"]["flows_per_second"]}
    joint = [("cascade", body["cascade"])] if body["cascade"] else []
    rows = [("adapter", {**body, **cost}), *probes.items(), *body["baselines"].items(), *joint]
    columns = ("macro-F1", "95 %", "unique", "accuracy", "training s", "flows/s")
    show_table(("", *columns), ([name, *_cells(row)] for name, row in rows), right=columns)
    show_pairs({key: body[key] for key in ("n_test", "n_test_unique", "split", "mask", "leaky", "seen_by_base", "seeds", "not_measurable")})


def _cells(row: Mapping[str, Any]) -> list[Any]:
    interval = f"{row['ci95'][0]:.3f}-{row['ci95'][1]:.3f}"
    return [row["macro_f1"], interval, row["unique"]["macro_f1"], row["accuracy"], row.get("seconds"), row.get("flows_per_s")]


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A report: `evaluate run --json > a.json`.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one on the same flows.")],
    html: Html = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Two reports side by side, flow by flow: the difference of macro-F1 with its paired bootstrap interval."""
    from trafficllm.evaluate.comparison import compare as compared
    from trafficllm.lifecycle.reports.study_pages import compare_page, report_of
    from trafficllm.surface.terminal.output import emit

    body = compared(report_of(a), report_of(b), seed=seed)
    if html is not None:
        compare_page(body, html)
    emit("evaluate.compare", body, as_json=as_json, show=_show_compare)


def _show_compare(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    names = ("adapter", "macro_f1", "ci95", "split", "mask", "leaky", "seeds", "n_test")
    show_table(("", *names), ([side, *(body[side][name] for name in names)] for side in ("a", "b")), right=("macro_f1",))
    columns = ("support", "a", "b", "difference")
    rows = ([row["label"], *(row[name] for name in columns[:3]), f"{row['difference']:+.3f}"] for row in body["per_class"])
    show_table(("class", *columns), rows, right=columns)
    said = {"difference": f"{body['difference']:+.3f}", "95 %": f"{body['ci95'][0]:+.3f} to {body['ci95'][1]:+.3f}"}
    show_pairs({**said, **{key: body[key] for key in ("p", "n", "only_a", "only_b", "groups", "agreement", "verdict")}})


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
    from trafficllm.lifecycle.studies.robust import robust as judged
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, config=config)
    with Bar(quiet=quiet) as bar:
        body = judged(
            workspace, data, adapter=adapter, captures=captures, part=part, most=most, seed=seed, budget_s=budget, html=html, progress=bar
        )
    emit("evaluate.robust", body, as_json=as_json, show=_show_robust)


def _show_robust(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    names = list(body["mean_loss"])
    columns = ("changed", "lost", *(cell for name in names for cell in (name, "change")))
    rows = []
    for row in body["perturbations"]:
        pairs = (cell for n in names for cell in (row["macro_f1"][n], f"{row['delta'][n]:+.3f}"))
        rows.append([row["name"], row["level"], row["changed"], row["lost"], *pairs])
    show_table(("shift", "on", *columns), rows, right=columns)
    show_pairs({key: body[key] for key in ("mean_loss", "goal", "forge", "payload", "n_test", "split", "mask", "leaky", "seen_by_base")})


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
    from trafficllm.lifecycle.studies.transfer import transfer as judged
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, config=config)
    with Bar(quiet=quiet) as bar:
        body = judged(
            workspace,
            train,
            test,
            adapter=adapter,
            shots=shots or (),
            draws=draws,
            max_seconds=max_seconds,
            part=part,
            most=most,
            seed=seed,
            budget_s=budget,
            html=html,
            progress=bar,
        )
    emit("evaluate.transfer", body, as_json=as_json, show=_show_transfer)


def _show_transfer(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    if body["direct"]:
        rows = [["adapter", body["macro_f1"], body["ci95"]], *([n, r["macro_f1"], r["ci95"]] for n, r in body["baselines"].items())]
        show_table(("as they are", "macro-F1", "95 %"), rows, right=("macro-F1",))
    sizes = [str(row["shots"]) for row in body["shots"]]
    names = list(body["shots"][-1]["rows"])
    show_table(("flows a class", *sizes), ([n, *(row["rows"][n]["macro_f1"] for row in body["shots"])] for n in names), right=sizes)
    show_pairs({key: body[key] for key in ("gain_at_20", "n_test", "split", "mask", "leaky", "seen_by_base")})


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
    from trafficllm.lifecycle.studies.drift import drift as judged
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, config=config)
    with Bar(quiet=quiet) as bar:
        body = judged(
            workspace,
            data,
            live,
            adapter=adapter,
            captures=captures,
            learnt=learnt or (),
            part=part,
            most=most,
            seed=seed,
            budget_s=budget,
            html=html,
            progress=bar,
        )
    emit("evaluate.drift", body, as_json=as_json, show=_show_drift)


def _show_drift(body: Mapping[str, Any]) -> None:
    from trafficllm.lifecycle.reports.study_pages import drift_marks, when
    from trafficllm.surface.terminal.output import show_pairs, show_table

    found, live = body["drift"], body["live"]
    show_table(("field", "PSI", "since"), ([r["field"], r["psi"], when(r["since"])] for r in found["fields"]), right=("PSI",))
    said = {key: found[key] for key in ("score", "p", "before", "now", "update_due")} | {"since": when(found["since"])}
    sides = {"where it was trained": body} | ({"live": live} if live else {})
    rows = ([side, "adapter", part["macro_f1"], part["ci95"]] for side, part in sides.items())
    beside = ([side, n, row["macro_f1"], row["ci95"]] for side, part in sides.items() for n, row in part["baselines"].items())
    show_table(("flows", "row", "macro-F1", "95 %"), [*rows, *beside], right=("macro-F1",))
    show_pairs({**said, "flows": body["flows"], "cut": body["cut"], "leaky": drift_marks(body)})


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

    with Bar(quiet=quiet) as bar:
        body = evaluate(real, synthetic, train=train, part=part, captured=captured, labels=labels or (), seed=seed, html=html, progress=bar)
    emit("evaluate.generation", body, as_json=as_json, show=_show_generation)


def _show_generation(body: Mapping[str, Any]) -> None:
    from trafficllm.lifecycle.studies.generation import COLUMNS, table
    from trafficllm.surface.terminal.output import show_pairs, show_table

    fields = [[name, *row.values()] for name, row in body["fields"].items()]
    show_table(("field, JSD", *next(iter(body["fields"].values()))), fields, right=tuple(next(iter(body["fields"].values()))))
    show_table(COLUMNS, table(body), right=COLUMNS[1:])
    show_pairs({key: body[key] for key in ("tstr", "trts", "trtr", "copies", "overlap", "valid", "cuts", "not_compared")})
