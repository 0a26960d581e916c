"""`trafficllm tokenizer`: train, extend, compare, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from trafficllm.surface.terminal.options import DataSet, Json, Out, Quiet, Seed

if TYPE_CHECKING:
    from trafficllm.lifecycle.bases.results import TokenizerCompare

app = typer.Typer(rich_markup_mode=None)
Size: TypeAlias = Annotated[int, typer.Option("--size", min=0, max=65536, help="Traffic tokens, the codec's single units included.")]


@app.command()
def train(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Data sets made by `data build` (their training split), captures or folders of them."),
    ],
    out: Out,
    size: Size = 4096,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Learn a traffic vocabulary and write it as a file: any amount of traffic in the same memory."""
    from trafficllm.lifecycle.bases import vocabulary
    from trafficllm.surface.terminal.output import emit, show_pairs
    from trafficllm.surface.terminal.progress import Bar

    with Bar(quiet=quiet, log=True) as bar:
        answer = vocabulary.train(paths, out, size=size, seed=seed, progress=bar)
    emit("tokenizer.train", answer, as_json=as_json, show=show_pairs)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A vocabulary file, a model folder, `plain` or `default`.")],
    limit: Annotated[int, typer.Option("--limit", min=0, help="Entries listed.")] = 20,
    text: Annotated[str | None, typer.Option("--text", metavar="TEXT", help="Also show how a question is cut into tokens.")] = None,
    as_json: Json = False,
) -> None:
    """Show a vocabulary file or a model's tokenizer: its traffic tokens, control tokens, and how it reads a text."""
    from trafficllm.lifecycle.bases import vocabulary
    from trafficllm.surface.terminal.output import emit, show_pairs

    emit("tokenizer.show", vocabulary.show(name, limit=limit, text=text), as_json=as_json, show=show_pairs)


@app.command()
def extend(
    base: Annotated[str, typer.Option("--base", metavar="B", help="A model folder, or `plain` (shipped).")],
    out: Out,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="D", help="A data set made by `data build`; only its training split is read.")
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", metavar="FILE", help="A file of `tokenizer train`, taken instead of learning.")
    ] = None,
    size: Size = 4096,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a traffic base: the model's folder with a traffic vocabulary; natural text tokenizes as before."""
    from trafficllm.lifecycle.bases import bases
    from trafficllm.surface.terminal.output import emit, show_pairs
    from trafficllm.surface.terminal.progress import Bar

    with Bar(quiet=quiet, log=True) as bar:
        answer = bases.extend(base, data, Path(out), size=size, seed=seed, progress=bar, vocabulary=vocabulary)
    emit("tokenizer.extend", answer, as_json=as_json, show=show_pairs)


@app.command()
def compare(
    data: DataSet,
    base: Annotated[
        list[str] | None, typer.Option("--base", metavar="B", help="Model folders, `plain` or `default`; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare what a flow costs in tokens: each tokenizer on the same held-out records."""
    from trafficllm.lifecycle.bases import bases
    from trafficllm.surface.terminal.output import emit

    emit("tokenizer.compare", bases.compare(data, base or ["plain", "default"]), as_json=as_json, show=_show)


def _show(answer: TokenizerCompare) -> None:
    from trafficllm.surface.terminal.output import show_table

    columns = ("vocabulary", "tokens per flow", "ratio", "readable text", "own ratio", "original form")
    rows = [
        [row.tokenizer, row.vocab_size, row.tokens_per_flow, row.ratio, row.readable, row.native_ratio, row.original_form]
        for row in answer.tokenizers
    ]
    show_table(("tokenizer", *columns), rows, right=columns)
