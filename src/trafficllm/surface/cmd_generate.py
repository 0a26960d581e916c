"""`trafficllm generate`: valid synthetic captures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trafficllm.surface.options import Base, Json, Out, Quiet, Registry, Seed, Task


def generate(
    task: Task,
    label: Annotated[str, typer.Option("--label", metavar="LABEL", help="The class to write.")],
    out: Out,
    flows: Annotated[int, typer.Option("--flows", min=1, max=100_000, help="How many flows.")] = 10,
    seed: Seed = 0,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.05, max=2.0, help="Sampling temperature.")
    ] = 1.0,
    base: Base = "",
    registry: Registry = "",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a capture of synthetic flows: documentation addresses only, every packet valid."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.surface.output import emit, show_pairs
    from trafficllm.surface.progress import Bar

    application = Application(base=base, registry=registry)
    with Bar(quiet=quiet) as bar:
        body = application.generate(
            task, label, flows=flows, seed=seed, out=Path(out), temperature=temperature, progress=bar
        )
    emit("generate", body, as_json=as_json, show=show_pairs)
