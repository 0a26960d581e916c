"""`trafficllm analyze`, `chat` and `embed`: a verdict, or a vector, for every flow."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficllm.core.errors import ArtifactError, FailOnError, TrafficLLMError, UsageError
from trafficllm.surface.terminal.options import Base, Config, Flows, Json, Quiet, Ray, Registry, Strict, Words

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.capture.foreign.signatures import Signatures
    from trafficllm.core.settings import Config as ConfigModel
    from trafficllm.core.types import ProgressSink
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.alerts import Alerts
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.facts.asking import Understood
    from trafficllm.lifecycle.studies.results import Embed
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.parts.verdicts import Asked
    from trafficllm.surface.terminal.summary import Summary

_Form = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        metavar="FORMAT",
        help="table, jsonl, csv, parquet, zeek, eve, ecs, notice, intel or stix; default: by the ending of --out.",
    ),
]


def analyze(
    files: Flows,
    question: Annotated[str, typer.Option("--question", "-q", metavar="TEXT", help="What you want to know, in plain language.")] = "",
    task: Annotated[str, typer.Option("--task", metavar="ID", help="The task, when you know it.")] = "",
    form: _Form = "",
    out: Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="A file, or - for stdout.")] = "-",
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", min=0.0, max=1.0, help="Leave out less certain verdicts, also for --fail-on.")
    ] = 0.0,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="LABEL", help="Only these verdicts (label, unknown, malicious...).")
    ] = None,
    fail_on: Annotated[
        list[str] | None, typer.Option("--fail-on", metavar="LABEL", help="Exit with code 7 when a flow has this verdict.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say which packets and fields each verdict rests on.")] = False,
    hosts: Annotated[
        bool, typer.Option("--hosts", help="A row a host instead of a flow: malicious or not (VPN or not...), by its most positive flows.")
    ] = False,
    alert: Annotated[bool, typer.Option("--alert", help="Notable verdicts are alerts, of severity 3.")] = False,
    corroborate: Annotated[
        list[str] | None,
        typer.Option("--corroborate", metavar="EVE", help="Suricata's log: an alert on the same flow gives its severity; may be repeated."),
    ] = None,
    ray: Ray = "",
    strict: Strict = False,
    words: Words = "",
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Name what each flow is, how sure that is, or that it is unknown.

    With --ray each file is a task, and -o a folder of Parquet files with `_manifest.json`; the same command again goes on from there.
    """
    from trafficllm.lifecycle.analyze.alerts import Alerts
    from trafficllm.lifecycle.analyze.captures import skipping
    from trafficllm.lifecycle.facts.asking import understood
    from trafficllm.lifecycle.workspace import Workspace, user_registry
    from trafficllm.surface.formats.writers import ALERT_FORMATS
    from trafficllm.surface.parts.verdicts import Asked
    from trafficllm.surface.terminal.output import tell
    from trafficllm.surface.terminal.progress import Bar
    from trafficllm.surface.terminal.summary import Summary

    workspace = Workspace(base=base, registry=registry, config=config, words=words)
    if ray:
        unfit = {"--hosts": hosts, "--alert": alert, "--corroborate": bool(corroborate), "--json": as_json}
        asked = Asked(question, explain, tuple(only or ()), min_confidence, tuple(fail_on or ()))
        _on_ray(workspace, files, task, asked, ray, form, out, unfit, strict, quiet)
        return
    form = _form(form, out, as_json=as_json, also=() if hosts else ALERT_FORMATS)
    hits = Hits(fail_on or (), least=min_confidence)
    signatures = _signatures(form, alert=alert, logs=corroborate or ())
    skipped = skipping(tell)
    taken = understood(question)
    if taken.fact is not None and not task:
        _answer(files, taken, workspace.config, skipped, form=form, out=out, strict=strict, quiet=quiet, as_json=as_json)
        return
    with Bar(quiet=quiet) as bar:
        options = {"task": task, "question": question, "explain": explain, "overview": form == "table"}
        analysis = _started(workspace, files, {**options, "both": options["overview"] and not as_json and not hosts}, skipped, bar)
        analysis.check_labels([*(only or ()), *hits.labels])
        if hosts:
            analysis.check_hosts()
        elsewhere = "" if workspace.registry_root == user_registry() else str(workspace.registry_root)
        summary = Summary(analysis, skipped, suspicious=taken.hosts, again=_again(files, registry), registry=elsewhere)
        alerts = Alerts(analysis, always=alert, signatures=signatures)
        rows = _kept(analysis, summary, hits, only or ())
        summary.interrupted = _drain(rows, _noting(summary, alerts)) if hosts else _pump(rows, summary, form, out, alerts)
        summary.put_in_words(workspace, question if form == "table" else "")
    if hosts and not as_json:
        _write_hosts(summary, only or (), form, out, alerts)
    elif form == "table":
        summary.show(as_json=as_json)
    _end(analysis, hits, skipped, strict=strict, interrupted=summary.interrupted, spoken=as_json)


def _form(form: str, out: str, *, as_json: bool, also: Sequence[str]) -> str:
    """The format that is asked for, `also` beside the usual ones; UsageError where two are."""
    from trafficllm.surface.formats.writers import format_for

    form = format_for(form, out, also=also)
    if as_json and form != "table":
        raise UsageError("usage.format", "--json is one object, -f a stream", input="--json", hint="choose one of them")
    return form


def _on_ray(
    workspace: Workspace,
    files: list[str],
    task: str,
    asked: Asked,
    address: str,
    form: str,
    out: str,
    unfit: Mapping[str, bool],
    strict: bool,
    quiet: bool,
) -> None:
    from dataclasses import replace

    from trafficllm.lifecycle.analyze.captures import skipping
    from trafficllm.lifecycle.analyze.verdicts import choose, start
    from trafficllm.lifecycle.facts.asking import understood
    from trafficllm.surface.parts.tasks import require_folder
    from trafficllm.surface.parts.verdicts import write_verdicts
    from trafficllm.surface.terminal.output import note, tell
    from trafficllm.surface.terminal.progress import Bar

    folder, skipped = require_folder(form, out), skipping(tell)
    refused = [name for name, given in unfit.items() if given]
    if refused or (understood(asked.question).fact is not None and not task):
        what = refused[0] if refused else "--question"
        hint = "leave it out; the parts can be asked afterwards (DuckDB, pyarrow)"
        raise UsageError("usage.option", "--ray writes a verdict for each flow and nothing else", input=what, hint=hint)
    choice = choose(workspace, task, asked.question)
    analysis = start(workspace, [], choice=choice, flows=iter(()))
    analysis.check_labels([*asked.only, *asked.fail_on])
    with Bar(quiet=quiet, log=True) as bar:
        judged = write_verdicts(workspace, analysis, files, folder, asked, address=address, skipped=skipped, progress=bar)
    note(", ".join(f"{count:,} {label}" for label, count in judged.labels.most_common()) or "no verdicts")
    note(f"{judged.labels.total():,} verdicts in {folder}")
    hits = Hits(asked.fail_on, least=asked.least)
    hits.count = judged.hits
    counted = replace(analysis, blank=lambda: judged.blank, uncovered=lambda: judged.uncovered)
    _end(counted, hits, skipped, strict=strict, interrupted=False, spoken=False)


def _again(files: Sequence[str], registry: str) -> str:
    """The command line as far as the next one repeats it."""
    import shlex

    named = [*files[:3], *(["..."] if len(files) > 3 else [])]
    return shlex.join(["trafficllm", "analyze", *named, *(["--registry", registry] if registry else [])])


def _started(workspace: Workspace, files: Sequence[str], options: Mapping[str, Any], skipped: Skipped, bar: ProgressSink) -> Analysis:
    """`verdicts.start`; where no adapter is live and nothing was asked, what the captures hold is said before that is raised."""
    from trafficllm.lifecycle.analyze.verdicts import start

    try:
        return start(workspace, files, **options, progress=bar, skipped=skipped)
    except ArtifactError as error:
        if options["both"] and error.code == "artifact.no_adapter" and not (options["task"] or options["question"]):
            _facts_alone(files, workspace.config, skipped, bar)
        raise


def _facts_alone(files: Sequence[str], config: ConfigModel, skipped: Skipped, bar: ProgressSink) -> None:
    """The line of facts, where no adapter can say more."""
    from trafficllm.core.escape import for_terminal
    from trafficllm.lifecycle.facts.answers import overview
    from trafficllm.lifecycle.facts.counting import collect

    print(for_terminal(overview(collect(files, config.capture, progress=bar, skipped=skipped))))


def _answer(
    files: Sequence[str],
    taken: Understood,
    config: ConfigModel,
    skipped: Skipped,
    *,
    form: str,
    out: str,
    strict: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """A question for a fact: counted from the captures, no adapter needed."""
    from trafficllm.lifecycle.analyze.captures import incomplete, silences, unread
    from trafficllm.lifecycle.analyze.facts import analyze_facts
    from trafficllm.lifecycle.facts.answers import SHOWN
    from trafficllm.surface.terminal.answer import ALL, write_fact
    from trafficllm.surface.terminal.output import ToldError, emit, note
    from trafficllm.surface.terminal.progress import Bar

    with Bar(quiet=quiet) as bar:
        most = SHOWN if form == "table" and not as_json else ALL
        result = analyze_facts(files, taken, config, progress=bar, skipped=skipped, most=most)
    assert result.fact is not None
    if as_json:
        emit("analyze", result, as_json=True, show=lambda _: None)
    else:
        write_fact(result.fact, form, out)
    for line in silences(skipped):
        note(line)
    if failure := (unread(skipped) or (incomplete(skipped) if strict else None)):
        raise ToldError(failure) if as_json else failure


def blanks(analysis: Analysis) -> list[str]:
    """A line for every task whose adapter cannot say anything of flows without packets and contents, and one for flows of kinds that it
    has not learnt."""
    from trafficllm.core.types import NOT_COVERED

    blank = "unknown: the log has neither packets nor contents, which this adapter learnt from"
    uncovered = f"{NOT_COVERED}: this adapter has not learnt enough of such kinds (name service, discovery...)"
    told = [(blank, analysis.blank()), (uncovered, analysis.uncovered())]
    return [
        f"{task}: {count:,} {'flow is' if count == 1 else 'flows are'} {words}"
        for words, counts in told
        for task, count in counts.items()
        if count
    ]


class Hits:
    """Counts the verdicts that `--fail-on` asks for, among those that are sure enough."""

    def __init__(self, labels: Sequence[str], *, least: float) -> None:
        self.labels = tuple(labels)
        self.least = least
        self.count = 0

    def add(self, names: set[str]) -> None:
        """A verdict, by its label and the answer above it."""
        self.count += bool(names & set(self.labels))


class _StoppedError(TrafficLLMError):
    exit_code = 130


def _end(analysis: Analysis, hits: Hits, skipped: Skipped, *, strict: bool, interrupted: bool, spoken: bool) -> None:
    """Exit 130, else 3 where inputs were left out, else 8 under `strict` where parts were, else 7; the other reasons go to stderr.

    `spoken`: the one object that --json promises stands on stdout, so the rest goes to stderr.
    """
    from trafficllm.lifecycle.analyze.captures import incomplete, silences, unread
    from trafficllm.surface.terminal.output import ToldError, note, tell

    for line in (*silences(skipped), *blanks(analysis)):
        note(line)
    failures: list[TrafficLLMError] = []
    if hits.count:
        message, hint = f"{hits.count:,} flows are {', '.join(hits.labels)}", "the verdicts were written"
        failures.append(FailOnError("fail_on.hit", message, input="--fail-on", hint=hint))
    if strict and (partly := incomplete(skipped)):
        failures.append(partly)
    if missed := unread(skipped):
        failures.append(missed)
    if interrupted:
        failures.append(_StoppedError("interrupted", "interrupted", hint="what was finished was written"))
    if not failures:
        return
    for failure in failures[:-1]:
        tell(failure)
    raise ToldError(failures[-1]) if spoken else failures[-1]


def _kept(analysis: Analysis, summary: Summary, hits: Hits, only: Sequence[str]) -> Iterator[list[VerdictRow]]:
    for rows in analysis.batches:
        summary.add(rows)
        sure = [(row, analysis.names(row)) for row in rows if row["confidence"] >= hits.least]
        for _, names in sure:
            hits.add(names)
        yield [row for row, names in sure if not only or names & set(only)]


def _signatures(form: str, *, alert: bool, logs: Sequence[str]) -> Signatures | None:
    """The signatures of the logs that may corroborate; UsageError where the format has no alerts."""
    from trafficllm.surface.formats.eve import GID
    from trafficllm.surface.formats.writers import ALERT_FORMATS

    if (alert or logs) and form not in {"eve", "ecs", *ALERT_FORMATS}:
        option = "--alert" if alert else "--corroborate"
        raise UsageError(
            "usage.option", f"-f {form} has no alerts", input=option, hint=f"-f eve, ecs, {', '.join(ALERT_FORMATS)} have them"
        )
    if not logs:
        return None
    from trafficllm.capture.foreign.signatures import Signatures

    return Signatures(logs, own=GID)


def _noting(summary: Summary, alerts: Alerts) -> Callable[[list[VerdictRow]], None]:
    """Keeps notable flows, and what corroborates the verdicts on a host's."""

    def keep(rows: list[VerdictRow]) -> None:
        summary.keep(rows)
        for row in rows:
            alerts.corroborating(row)

    return keep


def _pump(batches: Iterator[list[VerdictRow]], summary: Summary, form: str, out: str, alerts: Alerts | None = None) -> bool:
    """Write all batches; True when Ctrl-C ended it early: what was done is then written whole."""
    from trafficllm.lifecycle.analyze.alerts import Alerts
    from trafficllm.surface.formats.columns import VERDICT
    from trafficllm.surface.formats.destinations import verdict_forms
    from trafficllm.surface.formats.eve import verdict_event
    from trafficllm.surface.formats.writers import ALERT_FORMATS, writing
    from trafficllm.surface.terminal.output import note

    if form == "table":
        return _drain(batches, summary.keep)
    alerts = alerts or Alerts(summary.analysis)
    with writing(form, out, VERDICT, path="trafficllm", eve=partial(verdict_event, alerts=alerts), forms=verdict_forms(alerts)) as writer:
        interrupted = _drain(batches, writer.write)
    if form in ALERT_FORMATS and alerts.held_back:
        note(f"{alerts.held_back:,} notable verdicts are no alerts and not in the {form} output: --alert makes them alerts")
    return interrupted


def _write_hosts(summary: Summary, only: Sequence[str], form: str, out: str, alerts: Alerts) -> None:
    """A row a host, of those whose answer or any of whose flows' verdicts was asked for."""
    from trafficllm.surface.formats.columns import HOST
    from trafficllm.surface.formats.destinations import host_forms
    from trafficllm.surface.formats.eve import host_event
    from trafficllm.surface.formats.writers import writing
    from trafficllm.surface.terminal.output import note

    analysis, wanted = summary.analysis, set(only)
    if analysis.hosts.beyond:
        note(f"{analysis.hosts.beyond:,} flows are of further hosts than can be kept apart: these have no row")
    rows = [row for row in analysis.hosts.rows() if not wanted or wanted & {row["umbrella"], *row["labels"]}]
    if form == "table":
        summary.show_hosts(rows)
        return
    events = partial(host_event, alerts=alerts)
    with writing(form, out, HOST, path="trafficllm_hosts", eve=events, forms=host_forms(alerts)) as writer:
        writer.write(rows)


def _drain(batches: Iterator[list[VerdictRow]], write: Callable[[list[VerdictRow]], None]) -> bool:
    try:
        for rows in batches:
            with undisturbed():
                write(rows)
    except KeyboardInterrupt:
        return True
    return False


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C in here takes effect at the end, so that rows are written whole; a second one does at once (a reader that stalls).

    Where Ctrl-C is ignored (a job in a shell's background) or is somebody else's to handle, that stays so.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def later(number: int, _: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if caught:
        raise KeyboardInterrupt


DEMO = ("EAC/WhatsAppCall", "MTD/Neris", "unseen")
"""Folders of bundled captures: calls of an application, a bot, malware of a family that no quickstart learns."""


def demo(registry: Registry = "", config: Config = None, quiet: Quiet = False) -> None:
    """Run `analyze` on three captures of the package, and show the commands."""
    from importlib import resources

    from trafficllm.surface.terminal.output import tell

    failure: ArtifactError | None = None
    for name in DEMO:
        folder = Path(str(resources.files("trafficllm").joinpath("data", "captures", *name.split("/"))))
        capture = min(path for path in folder.iterdir() if path.suffix == ".pcap")
        print(f"\n$ trafficllm analyze {capture}", flush=True)
        try:
            analyze([str(capture)], registry=registry, config=config, quiet=quiet)
        except ArtifactError as error:  # without an adapter the facts still stand there
            failure = error
            tell(error)
    if failure is not None:
        raise typer.Exit(failure.exit_code)


def chat(
    files: Flows,
    task: Annotated[str, typer.Option("--task", metavar="ID", help="Verdicts by this task, whatever is asked.")] = "",
    words: Words = "",
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    quiet: Quiet = False,
) -> None:
    """Answer questions about captures in sequence: "what is it?", "and the second one?", "explain it", "write a report".

    From a pipe one question a line; the exit code is then that of the last question that failed.
    """
    from trafficllm.capture.files.read import expand
    from trafficllm.lifecycle.chat.sources import Captures
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.session import converse

    if "-" in files:
        raise UsageError("usage.stdin", "questions come from stdin here, not captures", input="-", hint="name the capture's file")
    source = Captures(Workspace(base=base, registry=registry, config=config, words=words), expand(files), task)
    if code := converse(source, quiet=quiet):
        raise typer.Exit(code)


def embed(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Captures (files, folders, globs), flow logs, or one data set made by `data build`.")
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
            "--pool",
            metavar="HOW",
            help="mean over the record's tokens (default without --task), the state at the answer (default with it), or "
            "layers: mean and maximum of several layers, for classifiers.",
        ),
    ] = "",
    reference: Annotated[
        Path | None, typer.Option("--known", metavar="FILE", help="Vectors made before: name each flow's nearest ones among them.")
    ] = None,
    neighbours: Annotated[int, typer.Option("--neighbours", metavar="K", min=1, help="How many nearest known flows.")] = 5,
    ray: Ray = "",
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Frozen representation of each flow, and the known flows nearest to it.

    With --ray each file is a task, and -o a folder of Parquet files with `_manifest.json`; the same command again goes on from there.
    """
    from trafficllm.core.errors import UsageError
    from trafficllm.lifecycle.studies.embed import embed as embed_flows
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit
    from trafficllm.surface.terminal.progress import Bar

    if out is None and reference is None:
        raise UsageError("usage.output", "nowhere to put the vectors", input="--out", hint="name -o vectors.parquet, or --known")
    workspace = Workspace(base=base, registry=registry, config=config)
    if ray:
        _embed_on_ray(workspace, files, out, task, pool, reference, ray, quiet, as_json)
        return
    with Bar(quiet=quiet) as bar:
        result = embed_flows(workspace, files, out=out, task=task, pool=pool, reference=reference, neighbours=neighbours, progress=bar)
    emit("embed", result, as_json=as_json, show=_show)


def _embed_on_ray(
    workspace: Workspace,
    files: list[str],
    out: Path | None,
    task: str,
    pool: str,
    reference: Path | None,
    address: str,
    quiet: bool,
    as_json: bool,
) -> None:
    from trafficllm.lifecycle.analyze.captures import skipping, unread
    from trafficllm.surface.parts.tasks import require_folder
    from trafficllm.surface.parts.vectors import write_vectors
    from trafficllm.surface.terminal.output import ToldError, emit, tell
    from trafficllm.surface.terminal.progress import Bar

    if reference is not None:
        hint = "write the parts first, then name neighbours among them: embed FILE --known DIR"
        raise UsageError("usage.option", "--ray writes vectors and nothing else", input="--known", hint=hint)
    folder, skipped = require_folder("", str(out or "-")), skipping(tell)
    with Bar(quiet=quiet, log=True) as bar:
        result = write_vectors(workspace, files, folder, task=task, pool=pool, address=address, skipped=skipped, progress=bar)
    emit("embed", result, as_json=as_json, show=_show)
    if failure := unread(skipped):
        raise ToldError(failure) if as_json else failure


def _show(result: Embed) -> None:
    from trafficllm.surface.terminal.output import show_pairs, show_table

    if result.nearest:
        rows = [[row.uid, n.similarity, n.label, n.uid, n.file] for row in result.nearest for n in row.nearest]
        show_table(("flow", "similarity", "label", "known flow", "file"), rows, right=("similarity",))
    show_pairs(result, "flows", "width", "pool", "out")
