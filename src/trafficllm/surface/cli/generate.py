"""`trafficllm generate`: valid synthetic captures."""

from __future__ import annotations

import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trafficllm.core.errors import UsageError
from trafficllm.lifecycle.generate.requests import MAX_FLOWS
from trafficllm.surface.terminal.options import Base, Config, Json, Out, Quiet, Registry, Seed

if TYPE_CHECKING:
    from trafficllm.core.types import ProgressSink
    from trafficllm.lifecycle.generate.synthesis import Scenario
    from trafficllm.lifecycle.workspace import Workspace


def generate(
    out: Out,
    task: Annotated[str, typer.Option("--task", metavar="ID", help="Generation task (see `task list`).")] = "",
    label: Annotated[str, typer.Option("--label", metavar="LABEL", help="The class to write.")] = "",
    flows: Annotated[int, typer.Option("--flows", min=1, max=MAX_FLOWS, help="How many flows.")] = 10,
    mix: Annotated[
        list[str] | None,
        typer.Option("--mix", metavar="LABEL=SHARE", help="Several classes on one timeline; TASK/LABEL for other tasks. May be repeated."),
    ] = None,
    question: Annotated[str, typer.Option("--question", "-q", metavar="TEXT", help='In words: "give me 50 flows of Neris".')] = "",
    start: Annotated[
        str, typer.Option("--start", metavar="TIME", help="First moment, ISO 8601 or seconds since 1970; default 2026-01-01.")
    ] = "",
    duration: Annotated[
        float | None, typer.Option("--duration", metavar="S", min=0.0, max=1e9, help="Seconds over which flows begin; default one a flow.")
    ] = None,
    seed: Seed = 0,
    temperature: Annotated[float, typer.Option("--temperature", min=0.05, max=2.0, help="Sampling temperature.")] = 1.0,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a capture of synthetic flows (pcap, pcapng; .jsonl for their actions): documentation addresses only, every packet valid."""
    from trafficllm.lifecycle.generate.synthesis import START, Scenario, parts
    from trafficllm.lifecycle.generate.synthesis import generate as made
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit, show_pairs
    from trafficllm.surface.terminal.progress import Bar

    workspace, begin = Workspace(base=base, registry=registry, config=config), _moment(start)
    wanted = parts(workspace, task=task, label=label, mix=mix or (), question=question, flows=flows)
    length = None if duration is None else round(duration * 1e9)
    scenario = Scenario(wanted, seed, temperature, START if begin is None else begin, length)
    with Bar(quiet=quiet) as bar:
        if str(out) == "-":
            _to_stdout(workspace, scenario, bar)
            return
        body = made(workspace, scenario, out=Path(out), progress=bar)
    emit("generate", body, as_json=as_json, show=show_pairs)


def _moment(text: str) -> int | None:
    """ns since the epoch; times without a zone are UTC."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise UsageError(
                "usage.start", "not a time", input="--start", where=text, hint="2026-03-01T12:00:00 or seconds since 1970"
            ) from error
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds < 1 << 32:
        raise UsageError("usage.start", "a pcap cannot hold this time", input="--start", where=text, hint="between 1970 and 2106")
    return round(seconds * 1e9)


def _to_stdout(workspace: Workspace, scenario: Scenario, bar: ProgressSink) -> None:
    """The capture itself on stdout, once it is whole and checked."""
    from trafficllm.lifecycle.generate.synthesis import generate as made

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "generated.pcap"
        made(workspace, scenario, out=out, progress=bar)
        with out.open("rb") as stream:
            shutil.copyfileobj(stream, sys.stdout.buffer)
        sys.stdout.buffer.flush()
