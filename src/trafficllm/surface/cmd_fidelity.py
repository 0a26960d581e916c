"""`trafficllm evaluate generation`: generated captures against held-out real ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trafficllm.surface.options import Json, Quiet, Seed


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
    labels: Annotated[
        list[str] | None, typer.Option("--label", metavar="LABEL", help="Compare only this label; may be repeated.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write the report as one self-contained page.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Compare generated with real flows, field by field: distances beside their floor and beside three baselines, and what a
    detector trained on one kind is worth on the other."""
    from trafficllm.lifecycle.fidelity_report import evaluate
    from trafficllm.surface.output import emit
    from trafficllm.surface.progress import Bar

    with Bar(quiet=quiet) as bar:
        body = evaluate(
            real, synthetic, train=train, part=part, captured=captured, labels=labels or (), seed=seed, html=html, progress=bar
        )
    emit("evaluate.generation", body, as_json=as_json, show=_show)


def _show(body: Mapping[str, Any]) -> None:
    from trafficllm.lifecycle.fidelity_report import COLUMNS, table
    from trafficllm.surface.output import show_pairs, show_table

    fields = [[name, *row.values()] for name, row in body["fields"].items()]
    show_table(("field, JSD", *next(iter(body["fields"].values()))), fields, right=tuple(next(iter(body["fields"].values()))))
    show_table(COLUMNS, table(body), right=COLUMNS[1:])
    show_pairs({key: body[key] for key in ("tstr", "trts", "trtr", "copies", "overlap", "valid", "cuts", "not_compared")})
