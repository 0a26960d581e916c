"""`trafficllm evaluate`: run and compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trafficllm.surface.options import Base, Json, Quiet, Registry, Seed

app = typer.Typer(rich_markup_mode=None)

Part = Annotated[
    str, typer.Option("--part", metavar="PART", help="test; val for trials: settings are chosen there, so it prints LEAKY.")
]
Most = Annotated[int, typer.Option("--most", metavar="N", min=0, help="Judge at most N flows, evenly thinned; 0: all.")]
Budget = Annotated[
    float, typer.Option("--budget", metavar="S", min=1.0, help="Seconds of estimated work for each baseline's search.")
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write the report as one self-contained page.")
]


@app.command()
def run(
    data: Annotated[
        list[Path], typer.Argument(metavar="D", help="A data set made by `data build`; several are folds of one.")
    ],
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter", metavar="A",
            help="An adapter folder; repeat it for several seeds, or one for each fold. Default: the task's live version.",
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines/--no-baselines", help="Score the baselines on the same input too, or only the commonest answer."),
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
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score adapters on a data set's test split, with interval, baselines, cost and plots."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.surface.output import emit
    from trafficllm.surface.progress import Bar

    application = Application(base=base, registry=registry)
    with Bar(quiet=quiet) as bar:
        body = application.evaluate(
            data, adapters=adapter or [], baselines=baselines, embedding=embedding, part=part, most=most, budget_s=budget,
            html=html, seed=seed, progress=bar,
        )  # fmt: skip
    emit("evaluate.run", body, as_json=as_json, show=_show)


def _show(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import show_pairs, show_table

    probes = (body["embedding"] or {"probes": {}})["probes"]
    cost = {"seconds": body["cost"].get("train_seconds"), "flows_per_s": body["cost"]["flows_per_second"]}
    joint = [("cascade", body["cascade"])] if body["cascade"] else []
    rows = [("adapter", {**body, **cost}), *probes.items(), *body["baselines"].items(), *joint]
    columns = ("macro-F1", "95 %", "unique", "accuracy", "training s", "flows/s")
    show_table(("", *columns), ([name, *_cells(row)] for name, row in rows), right=columns)
    show_pairs(
        {key: body[key] for key in ("n_test", "n_test_unique", "split", "mask", "leaky", "seen_by_base", "seeds", "not_measurable")}
    )


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
    from trafficllm.lifecycle.shift_pages import compare_page, report_of
    from trafficllm.surface.output import emit

    body = compared(report_of(a), report_of(b), seed=seed)
    if html is not None:
        compare_page(body, html)
    emit("evaluate.compare", body, as_json=as_json, show=_show_compare)


def _show_compare(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import show_pairs, show_table

    names = ("adapter", "macro_f1", "ci95", "split", "mask", "leaky", "seeds", "n_test")
    show_table(("", *names), ([side, *(body[side][name] for name in names)] for side in ("a", "b")), right=("macro_f1",))
    columns = ("support", "a", "b", "difference")
    rows = ([row["label"], *(row[name] for name in columns[:3]), f"{row['difference']:+.3f}"] for row in body["per_class"])
    show_table(("class", *columns), rows, right=columns)
    said = {"difference": f"{body['difference']:+.3f}", "95 %": f"{body['ci95'][0]:+.3f} to {body['ci95'][1]:+.3f}"}
    show_pairs({**said, **{key: body[key] for key in ("p", "n", "only_a", "only_b", "groups", "agreement", "verdict")}})
