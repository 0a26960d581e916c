"""`trafficllm generate`: valid synthetic captures."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trafficllm.core.errors import UsageError
from trafficllm.lifecycle.generate.requests import MAX_FLOWS
from trafficllm.surface.terminal.options import Base, Config, Json, Quiet, Registry, Seed

if TYPE_CHECKING:
    from trafficllm.core.settings import Config as Settings
    from trafficllm.core.types import ProgressSink
    from trafficllm.lifecycle.generate.scenario.results import GenerateScenario
    from trafficllm.lifecycle.generate.synthesis import Scenario
    from trafficllm.lifecycle.workspace import Workspace


app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def generate(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PATH", help="Where the result goes; written whole or not at all.")
    ] = None,
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
    """Write a capture of synthetic flows (pcap, pcapng; .jsonl for their actions): documentation addresses only, every packet valid.

    `generate scenario` writes a whole labelled exercise instead.
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise UsageError("usage", "Missing option '--out' / '-o'.", hint="see `trafficllm generate --help`")
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
        body = made(workspace, scenario, out=out, progress=bar)
    emit("generate", body, as_json=as_json, show=show_pairs)


@app.command("scenario")
def scenario(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A scenario file (TOML), or a ready scenario by name.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder; written whole or not at all.")],
    seed: Seed = 0,
    merge: Annotated[
        Path | None,
        typer.Option("--merge", metavar="CAPTURE", help="Lay the events into this capture: its times, its hosts; no everyday traffic."),
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", metavar="X", min=0.01, max=1000.0, help="So many times the flows in the same time.")
    ] = 1.0,
    repeat: Annotated[int, typer.Option("--repeat", metavar="N", min=1, max=10_000, help="The whole scenario N times in a row.")] = 1,
    max_size: Annotated[
        int, typer.Option("--max-size", metavar="MIB", min=1, help="No flow begins once the capture has this size.")
    ] = 1024,
    blind: Annotated[bool, typer.Option("--blind", help="Also write exercise.pcapng: the capture without labels.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Let tshark, Suricata and Zeek look at the result, where they are installed.")
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="ID", help="Let this task's adapter solve it, and show the score; may be repeated."),
    ] = None,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a labelled exercise: capture, answers, Zeek's conn.log, briefing, rule test, timeline.

    Ready scenarios: office-beacon, lab-dns-tunnel, shop-web-attack, streaming-vpn.
    """
    from trafficllm.lifecycle.generate.scenario.scenario import Wish, generate_scenario
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    workspace = Workspace(base=base, registry=registry, config=config)
    wish = Wish(seed, rate, repeat, max_size << 20, merge, blind, verify, tuple(task or ()))
    with Bar(quiet=quiet) as bar:
        body = generate_scenario(file, out=out, wish=wish, conn_log=_conn_log(workspace.config), workspace=workspace, progress=bar)
    emit("generate.scenario", body, as_json=as_json, show=_show_scenario)


def _conn_log(config: Settings) -> Callable[[Path, Path], None]:
    """Writes Zeek's conn.log of a capture."""
    from trafficllm.lifecycle.analyze import captures
    from trafficllm.surface.formats.columns import CONN
    from trafficllm.surface.formats.eve import flow_event
    from trafficllm.surface.formats.writers import writing

    def write(capture: Path, log: Path) -> None:
        with writing("zeek", str(log), CONN, path="conn", eve=flow_event) as writer:
            for rows in captures.conn_log([capture], config):
                writer.write(rows)

    return write


def _show_scenario(result: GenerateScenario) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    names = ("title", "capture", "answers", "labels", "conn_log", "briefing", "timeline", "rules", "flows", "packets", "bytes", "bounded")
    show_pairs(result, *names)
    rows: list[tuple[str, str, int, int, str]] = [
        (event.name, event.label, event.flows, event.packets, ", ".join(event.hosts)) for event in result.events
    ]
    rows += [("", part.label, part.flows, part.packets, part.source) for part in result.background]
    show_table(("event", "label", "flows", "packets", "hosts or source"), rows, right=("flows", "packets"))
    show_table(("check", "status", "detail"), [(check.name, check.status, check.detail) for check in result.checks])
    scores = [(score.task, score.version, score.correct, f"{score.false_alarms:,} of {score.background:,}") for score in result.scores]
    if scores:
        show_table(("task", "version", "answers found", "false alarms"), scores, right=("answers found",))


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
