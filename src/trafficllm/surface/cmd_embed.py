"""`trafficllm embed`: vectors of flows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trafficllm.surface.options import Base, Json, Quiet, Registry


def embed(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Captures (files, folders, globs), or one data set made by `data build`."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Parquet file: flow columns, label where known, vector.")
    ] = None,
    task: Annotated[
        str, typer.Option("--task", metavar="ID", help="Vectors as this task's live adapter sees flows; default: the bare base.")
    ] = "",
    pool: Annotated[
        str,
        typer.Option(
            "--pool", metavar="HOW",
            help="mean over the record's tokens (default without --task), the state at the answer (default with it), or "
            "layers: mean and maximum of several layers, for classifiers.",
        ),
    ] = "",
    known: Annotated[
        Path | None, typer.Option("--known", metavar="FILE", help="Vectors made before: name each flow's nearest ones among them.")
    ] = None,
    neighbours: Annotated[int, typer.Option("--neighbours", metavar="K", min=1, help="How many nearest known flows.")] = 5,
    base: Base = "",
    registry: Registry = "",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Frozen representation of each flow, and the known flows nearest to it."""
    from trafficllm.core.errors import UsageError
    from trafficllm.lifecycle.application import Application
    from trafficllm.lifecycle.embedding import embed as made
    from trafficllm.surface.output import emit
    from trafficllm.surface.progress import Bar

    if out is None and known is None:
        raise UsageError("usage.output", "nowhere to put the vectors", input="--out", hint="name -o vectors.parquet, or --known")
    application = Application(base=base, registry=registry)
    with Bar(quiet=quiet) as bar:
        body = made(application, files, out=out, task=task, pool=pool, known=known, neighbours=neighbours, progress=bar)
    emit("embed", body, as_json=as_json, show=_show)


def _show(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import show_pairs, show_table

    if body["nearest"]:
        rows = [[row["uid"], n["similarity"], n["label"], n["uid"], n["file"]] for row in body["nearest"] for n in row["nearest"]]
        show_table(("flow", "similarity", "label", "known flow", "file"), rows, right=("similarity",))
    show_pairs({key: body[key] for key in ("flows", "width", "pool", "out")})
