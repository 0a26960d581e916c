"""`trafficllm capture`: info, packets, flows, check, anonymize, convert."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.escape import for_csv, visible
from trafficllm.surface.terminal.options import Captures, Config, Json, Quiet, Ray, Strict

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.capture.flows.rows import FlowRow
    from trafficllm.core.settings import Config as ConfigModel
    from trafficllm.core.types import FlowWriter
    from trafficllm.lifecycle.analyze.captures import FlowReading
    from trafficllm.lifecycle.analyze.results import CaptureConvert, CaptureInfo
    from trafficllm.surface.parts.flows import FlowJob

app = typer.Typer(rich_markup_mode=None)


@app.command()
def info(files: Captures, strict: Strict = False, as_json: Json = False) -> None:
    """Count packets, bytes, link types, flows and everything that could not be read."""
    from trafficllm.lifecycle.analyze import captures
    from trafficllm.surface.terminal.output import emit, tell

    skipped = captures.skipping(tell)
    emit("capture.info", captures.info(files, skipped=skipped), as_json=as_json, show=_show_info)
    _finish(skipped, strict=strict, spoken=as_json)


def _finish(skipped: Skipped, *, strict: bool, spoken: bool = False) -> None:
    """Say what was not read; exit code 3 where files were left out, 8 where parts of them were and `strict` is on.

    `spoken`: the object of --json stands on stdout.
    """
    from trafficllm.lifecycle.analyze.captures import incomplete, silences, unread
    from trafficllm.surface.terminal.output import ToldError, note

    for line in silences(skipped):
        note(line)
    if failure := unread(skipped) or (incomplete(skipped) if strict else None):
        raise ToldError(failure) if spoken else failure


def _show_info(result: CaptureInfo) -> None:
    from datetime import UTC, datetime

    from trafficllm.surface.terminal.output import show_pairs

    def day(seconds: float | None) -> str:
        return "-" if seconds is None else datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="microseconds")

    failed = [failure.input for failure in result.failed]
    show_pairs({**result.given(), "first": day(result.first), "last": day(result.last), "failed": failed})


@app.command()
def packets(
    files: Captures,
    form: Annotated[str, typer.Option("--format", "-f", metavar="FORMAT", help="tsv or csv.")] = "tsv",
    fields: Annotated[str, typer.Option("--fields", metavar="F,...", help="tshark's field names, comma-separated.")] = "",
    header: Annotated[bool, typer.Option("--header/--no-header", help="A first line with the field names.")] = True,
    strict: Strict = False,
    config: Config = None,
) -> None:
    """A row a packet, in tshark's field names and formats."""
    from trafficllm.core.settings import load_config
    from trafficllm.lifecycle.analyze import captures
    from trafficllm.surface.terminal.output import tell

    if form not in {"tsv", "csv"}:
        raise UsageError("usage.format", f"unknown format '{form}'", input="--format", hint="tsv or csv")
    names = [name.strip() for name in fields.split(",") if name.strip()] or list(captures.PACKET_FIELDS)
    skipped = captures.skipping(tell)
    rows = captures.packets(files, names, skipped=skipped, config=load_config(config))
    line = _tsv if form == "tsv" else _csv
    write = sys.stdout.write
    first = next(rows, None)  # what cannot be read says so before anything is written
    if header:
        write(line(tuple(names)))
    for row in chain(() if first is None else (first,), rows):
        write(line(row))
    _finish(skipped, strict=strict)


def _tsv(row: tuple[str, ...]) -> str:
    return "\t".join(cell if cell.isascii() and cell.isprintable() else visible(cell) for cell in row) + "\n"


def _csv(row: tuple[str, ...]) -> str:
    return ",".join('"' + for_csv(cell).replace('"', '""') + '"' if cell else "" for cell in row) + "\n"


@app.command()
def flows(
    files: Captures,
    form: Annotated[
        str,
        typer.Option("--format", "-f", metavar="FORMAT", help="table, jsonl, csv, parquet, zeek, eve or ecs; default: by --out's ending."),
    ] = "",
    out: Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="A file, or - for stdout.")] = "-",
    no_tunnels: Annotated[bool, typer.Option("--no-tunnels", help="Flows of the outermost IP header, not of what tunnels carry.")] = False,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="LOG", help="Labels of another sensor: Suricata EVE, Zeek logs, CSV or Parquet; may be repeated."),
    ] = None,
    label_field: Annotated[
        str, typer.Option("--label-field", metavar="NAME", help="The log's column that holds the label; default: the first known one.")
    ] = "",
    ray: Ray = "",
    strict: Strict = False,
    config: Config = None,
    quiet: Quiet = False,
) -> None:
    """A row a flow, in Zeek's words, with Community ID and the first packets.

    With --ray each file is a task, and -o a folder: a Parquet file for each capture and `_manifest.json`. The same command again goes on
    from what is done.
    """
    from trafficllm.capture.foreign.labels import Labels
    from trafficllm.core.settings import load_config
    from trafficllm.lifecycle.analyze import captures
    from trafficllm.surface.formats.columns import CONN, FLOW, LABEL
    from trafficllm.surface.formats.destinations import flow_forms
    from trafficllm.surface.formats.eve import flow_event
    from trafficllm.surface.formats.writers import format_for, writing
    from trafficllm.surface.parts.flows import FlowJob
    from trafficllm.surface.terminal.output import note, tell
    from trafficllm.surface.terminal.progress import Bar

    if ray:
        _flows_on_ray(files, form, out, FlowJob(load_config(config), not no_tunnels, tuple(label or ()), label_field), ray, strict, quiet)
        return
    form = format_for(form, out)
    labels = Labels(label, field=label_field) if label else None
    more = (LABEL,) if labels is not None else ()
    settings = load_config(config)
    skipped = captures.skipping(tell)
    with Bar(quiet=quiet) as bar:
        reading = captures.FlowReading(not no_tunnels, bar, skipped, labels)
        if form == "table":
            _table(captures.flows(files, settings, reading), labelled=bool(more))
        else:
            columns = CONN if form == "zeek" else FLOW
            with writing(form, out, (*columns, *more), path="conn", eve=flow_event, forms=flow_forms()) as writer:
                _write(writer, files, settings, reading, zeek=form == "zeek")
    if labels is not None:
        note(labels.joined().line())
    _finish(skipped, strict=strict)


def _write(writer: FlowWriter, files: list[str], settings: ConfigModel, reading: FlowReading, *, zeek: bool) -> None:
    """Write a row a flow, on all cores where the files are worth it."""
    from trafficllm.capture.flows.rows import conn_rows, flow_rows
    from trafficllm.lifecycle.analyze import captures
    from trafficllm.surface.formats import many_cores

    if isinstance(writer, many_cores.Encoder) and many_cores.pays(files, reading):
        many_cores.write_rows(writer, files, settings, reading, conn_rows if zeek else flow_rows)
        return
    rows: Iterator[Any] = (captures.conn_log if zeek else captures.flows)(files, settings, reading)
    for part in rows:
        writer.write(part)


def _flows_on_ray(files: list[str], form: str, out: str, job: FlowJob, address: str, strict: bool, quiet: bool) -> None:
    from trafficllm.lifecycle.analyze import captures
    from trafficllm.surface.parts.flows import write_flows
    from trafficllm.surface.parts.tasks import require_folder
    from trafficllm.surface.terminal.output import note, tell
    from trafficllm.surface.terminal.progress import Bar

    folder, skipped = require_folder(form, out), captures.skipping(tell)
    with Bar(quiet=quiet, log=True) as bar:
        flow_count, joined = write_flows(files, folder, job, address=address, skipped=skipped, progress=bar)
    if joined is not None:
        note(joined.line())
    note(f"{flow_count:,} flows in {folder}")
    _finish(skipped, strict=strict)


_MOST = 50
_ALL_FROM = 130
"""Columns from which bytes and states have room."""


def _cells(width: int, *, labelled: bool) -> dict[str, Callable[[FlowRow], Any]]:
    """Columns of the table of flows that this width has room for, each with how a row fills it."""
    from trafficllm.capture.flows.rows import endpoint
    from trafficllm.core.times import iso_time

    wide = width >= _ALL_FROM
    cells: dict[str, Callable[[FlowRow], Any]] = {
        "begin": lambda row: iso_time(round(row["ts"] * 1e9), digits=3 if wide else 0),
        "proto": lambda row: row["proto"],
        "from": lambda row: endpoint(row["orig_h"], row["orig_p"]),
        "to": lambda row: endpoint(row["resp_h"], row["resp_p"]),
    }
    if wide:
        cells |= {
            "seconds": lambda row: row["duration"],
            "packets": lambda row: row["orig_pkts"] + row["resp_pkts"],
            "bytes sent": lambda row: row["orig_bytes"],
            "received": lambda row: row["resp_bytes"],
            "state": lambda row: row["conn_state"],
        }
    if labelled:
        cells["label"] = lambda row: row.get("label")
    return cells


def _table(batches: Iterator[list[FlowRow]], *, labelled: bool) -> None:
    from trafficllm.surface.terminal.output import note, out, show_table

    shown: list[FlowRow] = []
    total = 0
    for rows in batches:
        total += len(rows)
        shown.extend(rows[: _MOST - len(shown)])
    cells = _cells(out().width, labelled=labelled)
    show_table(
        list(cells), ([cell(row) for cell in cells.values()] for row in shown), right=("seconds", "packets", "bytes sent", "received")
    )
    if total > len(shown):
        note(f"{total - len(shown):,} more flows: choose -f jsonl, csv, parquet, zeek, eve or ecs for all of them")


@app.command()
def check(
    files: Captures,
    as_json: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 3 when a packet is not valid.")] = False,
    config: Config = None,
) -> None:
    """Check lengths, checksums and TCP state of every packet, in tunnels too."""
    from trafficllm.core.settings import load_config
    from trafficllm.lifecycle.analyze import captures
    from trafficllm.surface.terminal.output import emit, show_pairs

    result = captures.check(files, load_config(config))
    if strict and not result.valid:
        raise InputError(
            "input.invalid", "the capture has invalid packets", input=", ".join(files), hint="run without --strict for the counts"
        )
    emit("capture.check", result, as_json=as_json, show=show_pairs)


_Target = Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="The capture to write, or - for stdout.")]
_Container = Annotated[str, typer.Option("--format", "-f", metavar="FORMAT", help="pcap or pcapng; default: by the file's suffix.")]


def _one_stdout(out: str, *, as_json: bool) -> None:
    if as_json and out == "-":
        raise UsageError("usage.out", "stdout has room for one: the capture or --json", input="--out", hint="name a file")


def _tell(command: str, result: CaptureConvert, *, as_json: bool) -> None:
    """The result, where stdout is not the capture itself."""
    from trafficllm.surface.terminal.output import emit, show_pairs

    if result.file != "-":
        emit(command, result, as_json=as_json, show=show_pairs)


@app.command()
def anonymize(
    files: Captures,
    out: _Target,
    form: _Container = "",
    payload: Annotated[
        str, typer.Option("--payload", metavar="WAY", help="Contents: zero (same lengths), cut, or keep (they may name people).")
    ] = "zero",
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="64 hex digits: the same key gives the same names; default: random.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give every host another name (Crypto-PAn, prefixes kept) and take the contents away; checksums are made anew."""
    from trafficllm.lifecycle.analyze import captures
    from trafficllm.surface.terminal.output import note

    _one_stdout(out, as_json=as_json)
    result = captures.anonymise(files, out, form=form, payload=payload, key_file=key_file)
    _tell("capture.anonymize", result, as_json=as_json)
    for line in captures.left_out(result):
        note(line)
    if payload == "keep":
        note("contents were kept: names, addresses and passwords in them are as they were")


@app.command()
def convert(
    files: Captures,
    out: _Target,
    form: _Container = "",
    microseconds: Annotated[
        bool, typer.Option("--microseconds", help="Cut times to microseconds, for readers that know no nanoseconds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write captures of any container (pcap, pcapng; gz, zst, lz4), one after the other, as one pcap or pcapng file."""
    from trafficllm.lifecycle.analyze import captures

    _one_stdout(out, as_json=as_json)
    result = captures.convert(files, out, form=form, microseconds=microseconds)
    _tell("capture.convert", result, as_json=as_json)
