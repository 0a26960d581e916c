"""`trafficllm tokenizer`: extend, compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trafficllm.surface.options import DataSet, Json, Out, Quiet, Seed

app = typer.Typer(rich_markup_mode=None)


@app.command()
def extend(
    base: Annotated[str, typer.Option("--base", metavar="B", help="A model folder, or `plain` (shipped).")],
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="D", help="A data set made by `data build`; only its training split is read."
        ),
    ],
    out: Out,
    size: Annotated[
        int,
        typer.Option(
            "--size", min=0, max=65536, help="Traffic tokens to add, the codec's single units included."
        ),
    ] = 4096,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a traffic base: the model's folder with a traffic vocabulary; natural text tokenizes as before."""
    from trafficllm.lifecycle import bases
    from trafficllm.surface.output import emit, show_pairs
    from trafficllm.surface.progress import Bar

    with Bar(quiet=quiet) as bar:
        body = bases.extend(base, data, Path(out), size=size, seed=seed, progress=bar)
    emit("tokenizer.extend", body, as_json=as_json, show=show_pairs)


@app.command()
def compare(
    data: DataSet,
    base: Annotated[
        list[str] | None,
        typer.Option("--base", metavar="B", help="Model folders, `plain` or `default`; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare what a flow costs in tokens: each tokenizer on the same held-out records."""
    from trafficllm.lifecycle import bases
    from trafficllm.surface.output import emit

    emit(
        "tokenizer.compare",
        bases.compare(data, base or ["plain", "default"]),
        as_json=as_json,
        show=_show,
    )


def _show(body: Mapping[str, Any]) -> None:
    from trafficllm.surface.output import show_table

    rows = [
        [row["tokenizer"], row["vocab_size"], row["tokens_per_flow"], row["ratio"]]
        for row in body["tokenizers"]
    ]
    show_table(
        ("tokenizer", "vocabulary", "tokens per flow", "ratio"),
        rows,
        right=("vocabulary", "tokens per flow", "ratio"),
    )
