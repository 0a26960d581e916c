"""Streams of rows in the forms that other programs read: JSONL, CSV, Parquet, Zeek TSV, Suricata EVE, ECS.

Every writer follows `core.types.FlowWriter` and holds one batch at a time, so memory does not grow with the capture.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from trafficllm.core.errors import ResourceError, UsageError
from trafficllm.core.escape import for_csv, for_zeek
from trafficllm.core.types import FlowWriter
from trafficllm.surface.formats.columns import Column, arrow_schema
from trafficllm.surface.terminal.output import json_line, plain

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "jsonl", "csv", "parquet", "zeek", "eve", "ecs")
ALERT_FORMATS = ("notice", "intel", "stix")
"""Formats that hold alerts only: for verdicts, not for flows or hosts."""
Form: TypeAlias = Callable[[BinaryIO], FlowWriter]
"""Makes the writer of a format that is not made of columns."""
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet", ".log": "zeek", ".tsv": "zeek"}
"""Format by the ending of a file's name; `eve.json`, as Suricata calls it, is EVE."""
MOST_GROUPS = 1 << 16
"""Hosts or addresses that a format which counts them keeps apart: a scan of a whole network would else fill the memory."""
_LIKELIEST = 3


class Lines:
    """Rows as lines of text, each made by `line`; the header first."""

    def __init__(self, stream: BinaryIO, line: Callable[[Mapping[str, Any]], str], *, header: str = "", footer: str = "") -> None:
        self._stream, self._line, self._footer = stream, line, footer
        stream.write(header.encode())

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a batch and flush it, so that a reader at the other end of a pipe sees it."""
        self.append(self.encoded(rows))

    def encoded(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """What `write` adds to the stream for these rows; another process may make it."""
        return "".join(self._line(row) for row in rows).encode()

    def append(self, encoded: bytes) -> None:
        """Write what `encoded` gave."""
        self._stream.write(encoded)
        self._stream.flush()

    def close(self) -> None:
        """Write the footer; the stream belongs to the caller."""
        self._stream.write(self._footer.encode())
        self._stream.flush()


class Parquet:
    """Rows as a Parquet file: one row group a batch, zstd."""

    def __init__(self, stream: BinaryIO, columns: Sequence[Column]) -> None:
        import pyarrow.parquet as pq

        self._columns = columns
        self._writer = pq.ParquetWriter(stream, arrow_schema(columns), compression="zstd")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a batch as a row group."""
        if rows:
            self._writer.write_table(arrow_table(rows, self._columns))

    def encoded(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """These rows as an Arrow stream; another process may make it."""
        import pyarrow as pa

        table, sink = arrow_table(rows, self._columns), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]

    def append(self, encoded: bytes) -> None:
        """Write what `encoded` gave as a row group."""
        import pyarrow as pa

        self._writer.write_table(pa.ipc.open_stream(encoded).read_all())

    def close(self) -> None:
        """Write the file's footer."""
        self._writer.close()


def arrow_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> pa.Table:
    """Rows as an Arrow table with exactly these columns; captured text escaped as in every other form."""
    import pyarrow as pa

    schema = arrow_schema(columns)
    maps = [field.name for field in schema if pa.types.is_map(field.type)]
    plain_rows = [{name: plain(row.get(name)) for name in schema.names} for row in rows]
    for row in plain_rows:
        row.update({name: list((row[name] or {}).items()) for name in maps})
    return pa.Table.from_pylist(plain_rows, schema=schema)


def _csv_text(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _likeliest_names() -> list[str]:
    return [name for k in range(1, _LIKELIEST + 1) for name in (f"label_{k}", f"probability_{k}")]


def _csv_line(row: Mapping[str, Any], *, names: Sequence[str], likeliest: bool) -> str:
    """A row's cells; behind them, of a verdict, the three likeliest labels with their probabilities, a column each."""
    cells = [row.get(name) for name in names]
    if likeliest:
        order = sorted((row.get("probabilities") or {}).items(), key=lambda item: -item[1])[:_LIKELIEST]
        pairs = [cell for pair in order for cell in pair]
        cells += pairs + [None] * (2 * _LIKELIEST - len(pairs))
    return _csv_text([_csv_cell(cell) for cell in cells])


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return for_csv(value)
    if isinstance(value, Mapping | list | tuple):
        return for_csv(json_line(value))
    return str(plain(value))


def _zeek_cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, str):
        return for_zeek(value)
    if isinstance(value, Mapping):
        return ",".join(f"{_zeek_word(key)}={_zeek_word(item)}" for key, item in value.items()) or "(empty)"
    if isinstance(value, list | tuple):
        return ",".join(_zeek_word(" ".join(map(str, item.values())) if isinstance(item, Mapping) else item) for item in value) or "(empty)"
    return str(value)


def _zeek_word(value: Any) -> str:
    """One element of a set or vector: the comma parts elements, so it is escaped inside them."""
    return _zeek_cell(value).replace(",", "\\x2c")


def zeek_line(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """A row of a Zeek log."""
    return "\t".join(_zeek_cell(row.get(name)) for name in names) + "\n"


def zeek_header(columns: Sequence[Column], path: str) -> str:
    """The lines above a Zeek log's rows."""
    names = "\t".join(column.zeek for column in columns)
    types = "\t".join(column.zeek_type for column in columns)
    marks = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n"
    return f"{marks}#path\t{path}\n#fields\t{names}\n#types\t{types}\n"


def make_writer(
    form: str,
    stream: BinaryIO,
    columns: Sequence[Column],
    *,
    path: str,
    eve: Callable[[Any], Mapping[str, Any]],
    forms: Mapping[str, Form] | None = None,
) -> FlowWriter:
    """The writer of a stream format; `path` is Zeek's log name, `eve` turns a row into an EVE event, `forms` make further formats."""
    names = [column.name for column in columns]
    if forms and form in forms:
        return forms[form](stream)
    if form == "jsonl":
        return Lines(stream, lambda row: json_line({name: row.get(name) for name in names}) + "\n")
    if form == "csv":
        likeliest = _likeliest_names() if "probabilities" in names else ()
        line = partial(_csv_line, names=names, likeliest=bool(likeliest))
        return Lines(stream, line, header=_csv_text([*names, *likeliest]))
    if form == "zeek":
        return Lines(stream, lambda row: zeek_line(row, names), header=zeek_header(columns, path))
    if form == "eve":
        return Lines(stream, lambda row: json_line(eve(row)) + "\n")
    if form == "parquet":
        return Parquet(stream, columns)
    raise UsageError("usage.format", f"unknown format '{form}'", input="--format", hint=f"one of {', '.join(FORMATS)}")


def format_for(form: str, out: str, *, also: Sequence[str] = ()) -> str:
    """The format that is asked for, else the one of the file's ending, else a table for stdout; checked before any work is done. `also`
    are formats beside FORMATS.

    Raises UsageError for an unknown format, a table for a file, and Parquet on a terminal.

    >>> format_for("", "verdicts.csv"), format_for("", "eve.json"), format_for("", "-")
    ('csv', 'eve', 'table')
    """
    path = Path(out)
    form = form or ("eve" if path.name == "eve.json" else ENDINGS.get(path.suffix.lower(), "table"))
    if form not in (*FORMATS, *also):
        raise UsageError("usage.format", f"unknown format '{form}'", input="--format", hint=f"one of {', '.join((*FORMATS, *also))}")
    if form == "table" and out != "-":
        raise UsageError(
            "usage.format",
            "a table is for reading, not for a file",
            input="--format",
            hint="choose -f jsonl, csv, parquet, zeek, eve or ecs, or a name that ends in .jsonl, .csv, .parquet, .log or eve.json",
        )
    if form == "parquet" and out == "-" and sys.stdout.isatty():
        raise UsageError("usage.format", "Parquet is no text", input="--format", hint="name a file with -o, or redirect stdout")
    return form


@contextmanager
def writing(
    form: str,
    out: str,
    columns: Sequence[Column],
    *,
    path: str,
    eve: Callable[[Any], Mapping[str, Any]],
    forms: Mapping[str, Form] | None = None,
) -> Iterator[FlowWriter]:
    """A writer to stdout ("-") or to a file that appears whole or not at all; see `make_writer`.

    Raises ResourceError on a full disk or missing permission.
    """
    with _sink(out) as stream:
        writer = make_writer(form, stream, columns, path=path, eve=eve, forms=forms)
        try:
            yield writer
        except BaseException:
            with suppress(OSError, ValueError):
                writer.close()
            raise
        writer.close()


@contextmanager
def _sink(out: str) -> Iterator[BinaryIO]:
    if out == "-":
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    target = Path(out)
    unfinished = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as stream:
            yield stream
        unfinished.replace(target)
    except OSError as error:
        raise refused(error, target) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def refused(error: OSError, target: Path) -> ResourceError:
    """A file that cannot be written, as an error of the tree."""
    if error.errno in {13, 1, 30}:  # EACCES, EPERM, EROFS
        return ResourceError(
            "resource.permission", "no permission to write here", input=str(target), hint="choose a folder you may write to"
        )
    return ResourceError(
        "resource.disk_full",
        f"cannot write: {error.strerror or error}",
        input=str(target),
        hint="free some space; nothing was left half-written",
    )
