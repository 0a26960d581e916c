"""`trafficllm analyze`: a verdict for every flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficllm.core.errors import FailOnError, UsageError
from trafficllm.surface.options import Base, Captures, Config, Json, Quiet, Registry

if TYPE_CHECKING:
    from trafficllm.lifecycle.application import Analysis
    from trafficllm.surface.summary import Summary


def analyze(
    files: Captures,
    question: Annotated[
        str,
        typer.Option("--question", "-q", metavar="TEXT", help="What you want to know, in plain language."),
    ] = "",
    task: Annotated[str, typer.Option("--task", metavar="ID", help="The task, when you know it.")] = "",
    form: Annotated[
        str, typer.Option("--format", "-f", metavar="FORMAT", help="table, jsonl, csv, parquet, zeek or eve.")
    ] = "table",
    out: Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="A file, or - for stdout.")] = "-",
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", min=0.0, max=1.0, help="Leave out less certain verdicts.")
    ] = 0.0,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="LABEL", help="Only these verdicts (label, unknown, malicious...)."),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option("--fail-on", metavar="LABEL", help="Exit with code 7 when a flow has this verdict."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say which packets and fields each verdict rests on.")
    ] = False,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Name what each flow is, how sure that is, or that it is unknown."""
    from trafficllm.lifecycle.application import Application
    from trafficllm.surface.formats import check_format
    from trafficllm.surface.progress import Bar
    from trafficllm.surface.summary import Summary

    check_format(form, out)
    if as_json and form != "table":
        raise UsageError(
            "usage.format", "--json is one object, -f a stream", input="--json", hint="choose one of them"
        )
    with Bar(quiet=quiet) as bar:
        analysis = Application(base=base, registry=registry, config=config).analyze(
            files, task=task, question=question, explain=explain, progress=bar
        )
        analysis.check_labels([*(only or ()), *(fail_on or ())])
        summary = Summary(analysis)
        interrupted = _pump(_kept(analysis, summary, min_confidence, only or ()), summary, form, out)
    if form == "table":
        summary.show(as_json=as_json)
    if interrupted:
        raise KeyboardInterrupt
    if hits := sum(count for label, count in summary.found.items() if label in (fail_on or ())):
        raise FailOnError(
            "fail_on.hit",
            f"{hits:,} flows are {', '.join(fail_on or ())}",
            input="--fail-on",
            hint="the verdicts were written",
        )


def _kept(
    analysis: Analysis, summary: Summary, least: float, only: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    for rows in analysis.batches:
        summary.add(rows)
        yield [
            row
            for row in rows
            if row["confidence"] >= least and (not only or analysis.names(row) & set(only))
        ]


def _pump(batches: Iterator[list[dict[str, Any]]], summary: Summary, form: str, out: str) -> bool:
    """Write all batches; True when Ctrl-C ended it early: what was done is then written whole."""
    from trafficllm.surface.columns import VERDICT
    from trafficllm.surface.eve import verdict_event
    from trafficllm.surface.formats import writing

    if form == "table":
        return _drain(batches, summary.keep)

    def event(row: Mapping[str, Any]) -> dict[str, Any]:
        return verdict_event(row, summary.analysis.severity(row))

    with writing(form, out, VERDICT, path="trafficllm", eve=event) as writer:
        return _drain(batches, writer.write)


def _drain(batches: Iterator[list[dict[str, Any]]], write: Any) -> bool:
    try:
        for rows in batches:
            write(rows)
    except KeyboardInterrupt:
        return True
    return False
