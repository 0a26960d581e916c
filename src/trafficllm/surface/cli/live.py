"""`trafficllm live`: verdicts on the flows of a network interface, while it is captured."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from trafficllm.core.errors import TrafficLLMError, UnreadError
from trafficllm.core.escape import for_terminal
from trafficllm.surface.cli.analyze import blanks
from trafficllm.surface.terminal.options import Base, Config, Quiet, Registry
from trafficllm.surface.terminal.output import note

if TYPE_CHECKING:
    from trafficllm.capture.live.process import Capturing
    from trafficllm.core.types import FlowWriter
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.analyze.live import Live

_ANSWERS = 12  # verdicts that the last line counts
_ANSWER = 0.3  # seconds in which the capturing program answers how much it has dropped


def live(
    interface: Annotated[str, typer.Argument(metavar="IFACE", help="The interface to capture, or any.")],
    question: Annotated[str, typer.Option("--question", "-q", metavar="TEXT", help="What you want to know, in plain language.")] = "",
    task: Annotated[str, typer.Option("--task", metavar="ID", help="The task, when you know it.")] = "",
    form: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="table (a line a flow), jsonl, csv, parquet, zeek or eve; default: by the ending of --out.",
        ),
    ] = "",
    out: Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="A file, or - for stdout.")] = "-",
    rotate: Annotated[int, typer.Option("--rotate", metavar="S", min=0, help="A new file every S seconds, named by its time.")] = 0,
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=0, help="Of such files keep the newest N; 0: all.")] = 0,
    every: Annotated[float, typer.Option("--every", metavar="S", min=1.0, help="Seconds between lines of counts on stderr.")] = 10.0,
    seconds: Annotated[int, typer.Option("--seconds", metavar="S", min=0, help="End after so long; 0: when it is stopped.")] = 0,
    expression: Annotated[str, typer.Option("--filter", metavar="BPF", help="Capture only these packets, as tcpdump says it.")] = "",
    min_confidence: Annotated[float, typer.Option("--min-confidence", min=0.0, max=1.0, help="Leave out less certain verdicts.")] = 0.0,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="LABEL", help="Only these verdicts (label, unknown, malicious...).")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say which packets and fields each verdict rests on.")] = False,
    alert: Annotated[bool, typer.Option("--alert", help="With -f eve: notable verdicts are alerts, of severity 3.")] = False,
    program: Annotated[str, typer.Option("--with", metavar="PROGRAM", help="tcpdump or dumpcap; default: the one that may capture.")] = "",
    user: Annotated[str, typer.Option("--user", metavar="NAME", help="Started by root: give its rights up for this user's.")] = "",
    buffer: Annotated[int, typer.Option("--buffer", metavar="MIB", min=1, max=2047, help="The kernel's buffer for packets.")] = 32,
    backlog: Annotated[int, typer.Option("--backlog", metavar="N", min=0, help="Flows that may wait for a verdict; 0: 20,000.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 8 when packets were dropped or flows left out.")] = False,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    quiet: Quiet = False,
) -> None:
    """Judge the flows of a network interface as they end; Ctrl-C ends the capture and judges what is left."""
    from trafficllm.capture.live.process import Capturing
    from trafficllm.capture.live.programs import Source, become, check_user
    from trafficllm.lifecycle.analyze.live import watch
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.formats.writers import format_for

    form = format_for(form or ("jsonl" if out == "-" and not sys.stdout.isatty() else ""), out)
    check_user(user)
    with Capturing(Source(interface, expression, seconds, buffer), program=program, user=user) as capturing, ending(capturing):
        if user:
            become(user)
        elif os.geteuid() == 0:
            note("verdicts are made with root's rights: --user NAME gives them up")
        workspace = Workspace(base=base, registry=registry, config=config)
        watched = watch(workspace, capturing, task=task, question=question, explain=explain, backlog=backlog)
        watched.analysis.check_labels(only or ())
        answers: Counter[str] = Counter()
        with _writer(form, out, watched.analysis, seconds=rotate, keep=keep, alert=alert) as writer, _telling(watched, every, quiet=quiet):
            for rows in watched.analysis.batches:
                answers.update(f"{row['task']} {row['umbrella'] or row['label']}" for row in rows)
                writer.write([row for row in rows if row["confidence"] >= min_confidence and _is_asked(watched.analysis, row, only or ())])
        failure = capturing.ended()
    _end(watched, answers, strict=strict, failure=failure)


def _is_asked(analysis: Analysis, row: VerdictRow, only: Sequence[str]) -> bool:
    return not only or bool(analysis.names(row) & set(only))


@contextmanager
def ending(capturing: Capturing) -> Iterator[None]:
    """Ctrl-C or SIGTERM in here ends the capture, and what it saw is judged; a second one ends at once.

    Where Ctrl-C is ignored (a job in a shell's background) it stays so.
    """

    def stop(_number: int, _: object) -> None:
        if capturing.stopping:
            raise KeyboardInterrupt
        capturing.stop()

    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _writer(form: str, out: str, analysis: Analysis, *, seconds: int, keep: int, alert: bool) -> Iterator[FlowWriter]:
    """Where verdicts go: stdout, a file, or files that follow each other."""
    from trafficllm.lifecycle.analyze.alerts import Alerts
    from trafficllm.surface.formats.columns import VERDICT
    from trafficllm.surface.formats.eve import verdict_event
    from trafficllm.surface.formats.pieces import Pieces
    from trafficllm.surface.formats.writers import Lines, make_writer

    events = partial(verdict_event, alerts=Alerts(analysis, always=alert))

    def make(stream: BinaryIO) -> FlowWriter:
        return Lines(stream, _line) if form == "table" else make_writer(form, stream, VERDICT, path="trafficllm", eve=events)

    writer = make(sys.stdout.buffer) if out == "-" else Pieces(make, Path(out), seconds=seconds, keep=keep)
    try:
        yield writer
    except BaseException:
        with suppress(TrafficLLMError, OSError, ValueError):
            writer.close()
        raise
    writer.close()


def _line(row: Mapping[str, Any]) -> str:
    """A verdict as a line for a terminal: when the flow began, what it is and how sure that is, its ends."""
    from trafficllm.capture.flows.rows import endpoint
    from trafficllm.core.times import iso_time

    answer = f" ({row['umbrella']})" if row["umbrella"] not in {None, row["label"]} else ""
    ends = f"{endpoint(row['orig_h'], row['orig_p'])} -> {endpoint(row['resp_h'], row['resp_p'])}"
    what = f"{row['task']} {row['label']}{answer} {row['confidence']:.2f}"
    text = f"{iso_time(round(row['ts'] * 1e9))}  {what}  {ends} {row['proto']}, {row['packets']:,} packets"
    return for_terminal(text) + "\n"


@contextmanager
def _telling(watched: Live, every: float, *, quiet: bool) -> Iterator[None]:
    """A line of counts every so many seconds on stderr."""
    over, start = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(max(0.1, every - _ANSWER)):
            watched.capturing.ask()
            if not over.wait(_ANSWER):
                note(f"{time.monotonic() - start:.0f} s: {watched.counts().in_words()}")

    thread = threading.Thread(target=tell, name="live-counts", daemon=True)
    if not quiet:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.is_alive():
            thread.join(1.0)


def _end(watched: Live, answers: Counter[str], *, strict: bool, failure: TrafficLLMError | None) -> None:
    """What was seen and judged, then how the command ends: the capture's own failure before what `strict` asks for."""
    counts = watched.counts()
    note(counts.in_words())
    verdicts = ", ".join(f"{count:,} {answer}" for answer, count in answers.most_common(_ANSWERS))
    for line in (*([f"verdicts: {verdicts}"] if verdicts else []), *watched.silences(), *blanks(watched.analysis)):
        note(line)
    if failure is not None:
        raise failure
    if strict and (counts.dropped or counts.left_out or counts.unfetched):
        raise UnreadError(
            "input.not_read", "packets were dropped, or flows left out", hint="see the counts above; a larger --buffer, --backlog"
        )
