"""`trafficllm evaluate`: run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trafficllm.surface.options import Base, DataSet, Json, Quiet, Registry, Seed

app = typer.Typer(rich_markup_mode=None)


@app.command()
def run(
    data: DataSet,
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", metavar="A", help="An adapter folder; default: the task's live version."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Score the baselines on the same input too.")
    ] = True,
    base: Base = "",
    registry: Registry = "",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score an adapter on a data set's test split, with interval and baselines."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.surface.output import emit
    from trafficllm.surface.progress import Bar

    application = Application(base=base, registry=registry)
    with Bar(quiet=quiet) as bar:
        body = application.evaluate(data, adapter=adapter, baselines=baselines, seed=seed, progress=bar)
    emit("evaluate.run", body, as_json=as_json, show=_show)


def _show(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.cmd_adapter import cascade_rows
    from trafficllm.surface.output import show_pairs, show_table

    rows = [["adapter", body["macro_f1"], body["accuracy"], f"{body['ci95'][0]:.3f}-{body['ci95'][1]:.3f}"]]
    rows += [
        [name, row["macro_f1"], row["accuracy"], f"{row['ci95'][0]:.3f}-{row['ci95'][1]:.3f}"]
        for name, row in body.get("baselines", {}).items()
    ]
    rows += [[what, f1, body["cascade"]["accuracy"], interval] for what, f1, interval in cascade_rows(body.get("cascade"))]
    show_table(("", "macro-F1", "accuracy", "95 %"), rows, right=("macro-F1", "accuracy", "95 %"))
    show_pairs(
        {key: body[key] for key in ("n_test", "n_test_unique", "split", "mask", "leaky", "seen_by_base")}
    )
