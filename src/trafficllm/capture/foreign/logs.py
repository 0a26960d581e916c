"""Rows of other sensors' logs, one at a time: Zeek (TSV and JSON), Suricata EVE, CSV, Parquet; compressed ones too."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from trafficllm.capture.files.decompress import open_window
from trafficllm.capture.foreign.columns import Columns, Entry
from trafficllm.core.errors import InputError
from trafficllm.core.files import parse_json

Kind = Literal["zeek", "json", "csv", "parquet"]
_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 22
_ROWS = 4096
_SEPARATORS = ",\t;|"
_SUFFIXES = frozenset({".log", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt"})
_PACKED = frozenset({".gz", ".zst", ".lz4"})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a log as it is, nested JSON flattened to dotted names; `where` is file and line."""

    values: Mapping[str, Any]
    where: str


def is_log(path: str | Path) -> bool:
    """Whether a file is called a log or a table; what is inside decides how it is read."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    name = suffixes[-2] if len(suffixes) == 2 and suffixes[-1] in _PACKED else suffixes[-1] if suffixes else ""
    return name in _SUFFIXES


def lines(path: str | Path) -> Iterator[str]:
    """Lines of a text file with their ends, whatever its compression; undecodable bytes become U+FFFD.

    Raises InputError for a line above 4 MiB: that is no log.
    """
    window = open_window(Path(path), _CHUNK)
    rest = b""
    try:
        while (view := window.peek(_CHUNK)).shape[0]:
            data = rest + view[:_CHUNK].tobytes()
            window.skip(min(view.shape[0], _CHUNK))
            *whole, rest = data.split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise InputError("input.line", "a line above 4 MiB", input=str(path), hint="logs and CSV files have shorter ones")
            for line in whole:
                yield line.decode("utf-8", "replace") + "\n"
        if rest:
            yield rest.decode("utf-8", "replace")
    finally:
        window.close()


def kind_of(path: str | Path) -> Kind:
    """What a log is, by its beginning. Raises InputError where it is empty or binary."""
    window = open_window(Path(path), _CHUNK)
    try:
        head = window.peek(4096)[:4096].tobytes()
    finally:
        window.close()
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    if not text or b"\0" in head:
        raise InputError("input.log", "neither a log nor a table", input=str(path), hint="Zeek, Suricata EVE, CSV and Parquet are read")
    if text.startswith(b"{"):
        return "json"
    return "zeek" if text.startswith(b"#") and b"#fields" in head else "csv"


def rows(path: str | Path) -> Iterator[Row]:
    """All rows of a log. Raises InputError naming the line where it cannot be read."""
    readers = {"zeek": _zeek, "json": _json, "csv": _csv, "parquet": _parquet}
    return readers[kind_of(path)](Path(path))


def entries(path: str | Path) -> Iterator[tuple[Entry, Mapping[str, Any]]]:
    """Rows that name a connection, each with its raw values; rows that do not (statistics, headers of other logs) are passed over.

    Raises InputError where no column could be matched with flows.
    """
    columns: dict[tuple[str, ...], Columns] = {}
    joined = seen = False
    for row in rows(path):
        names = tuple(row.values)
        if names not in columns:
            if len(columns) > 256:
                columns.clear()
            columns[names] = Columns(names)
        seen = True
        if not columns[names].joins:
            continue
        joined = True
        entry = columns[names].entry(row.values, row.where)
        if entry is not None and (entry.community_id or entry.has_tuple):
            yield entry, row.values
    if seen and not joined:
        hint = "a Community ID, or addresses, ports and protocol, under the names of Zeek, Suricata, NFStream, CICFlowMeter or IPFIX"
        raise InputError("input.log_columns", "no column names a connection", input=str(path), hint=hint)


def _zeek(path: Path) -> Iterator[Row]:
    separator, unset = "\t", "-"
    fields: tuple[str, ...] = ()
    for place, line in enumerate(lines(path), 1):
        text = line.rstrip("\r\n")
        if text.startswith("#"):
            word, _, value = text.partition(separator if separator in text else " ")
            if word == "#separator":
                separator = value.encode().decode("unicode_escape") if value.startswith("\\x") else value
            elif word == "#unset_field":
                unset = value
            elif word == "#fields":
                fields = tuple(value.split(separator))
        elif text:
            values = text.split(separator)
            if len(values) != len(fields):
                hint = "the log is cut or edited"
                raise InputError(
                    "input.log_line", f"{len(values)} columns, {len(fields)} fields", input=str(path), where=f"line {place}", hint=hint
                )
            yield Row({name: None if value == unset else value for name, value in zip(fields, values, strict=True)}, f"{path}:{place}")


def _json(path: Path) -> Iterator[Row]:
    """A line an object (Zeek, Suricata); objects inside become dotted names."""
    for place, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        value = parse_json(line, f"{path}:{place}")
        if not isinstance(value, dict):
            raise InputError("input.log_line", "not a JSON object", input=str(path), where=f"line {place}", hint="one object a line")
        yield Row(dict(_flat(value, "")), f"{path}:{place}")


def _flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _csv(path: Path) -> Iterator[Row]:
    stream = lines(path)
    first = next(stream, "").lstrip("\ufeff")
    separator = max(_SEPARATORS, key=first.count)
    reader = csv.reader(chain([first], stream), delimiter=separator)
    try:
        names = [name.strip() for name in next(reader, [])]
        for values in reader:
            if not values:
                continue
            if len(values) != len(names):
                hint = "the table is cut, or its first line names no columns"
                raise InputError(
                    "input.log_line",
                    f"{len(values)} columns, {len(names)} names",
                    input=str(path),
                    where=f"line {reader.line_num}",
                    hint=hint,
                )
            yield Row(dict(zip(names, values, strict=True)), f"{path}:{reader.line_num}")
    except csv.Error as error:
        raise InputError(
            "input.csv", f"not a CSV table: {error}", input=str(path), where=f"line {reader.line_num}", hint="check quotes"
        ) from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        place = 0
        for batch in file.iter_batches(batch_size=_ROWS):
            for values in batch.to_pylist():
                place += 1
                yield Row(values, f"{path}:{place}")
    except (pa.ArrowException, OSError) as error:
        raise InputError("input.parquet", "not a Parquet table", input=str(path), hint="the file is cut or damaged") from error
