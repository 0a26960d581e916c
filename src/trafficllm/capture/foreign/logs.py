"""Rows of other sensors' logs, one at a time: Zeek (TSV and JSON), Suricata EVE, CSV, Parquet; compressed ones too."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from trafficllm.capture.files.decompress import Window, open_window
from trafficllm.capture.foreign.columns import Columns, Entry
from trafficllm.capture.foreign.parquet import MOST_COLUMNS, parquet_rows
from trafficllm.core.errors import InputError
from trafficllm.core.files import parse_json

Kind = Literal["zeek", "json", "csv", "parquet"]
_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 22
_NAMES_HELD = 1 << 16
"""Column names remembered at once: JSON lines may have other keys each."""
_LONGEST_NAME = 256
"""Characters of a dotted name: those of names within names would grow with their square."""
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


def _lines(window: Window, path: Path) -> Iterator[str]:
    """Lines of a text file with their ends; undecodable bytes become U+FFFD. Raises InputError for one above 4 MiB: that is no log."""
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
        return _kind(window, Path(path))
    finally:
        window.close()


def _kind(window: Window, path: Path) -> Kind:
    head = window.peek(4096)[:4096].tobytes()
    if head.startswith(b"PAR1") and path.is_file():
        return "parquet"
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    if not text or b"\0" in head:
        raise InputError("input.log", "neither a log nor a table", input=str(path), hint="Zeek, Suricata EVE, CSV and Parquet are read")
    if text.startswith(b"{"):
        return "json"
    return "zeek" if text.startswith(b"#") and b"#fields" in head else "csv"


def rows(path: str | Path) -> Iterator[Row]:
    """All rows of a log; a pipe is opened once. Raises InputError naming the line where it cannot be read."""
    place = Path(path)
    window = open_window(place, _CHUNK)
    try:
        kind = _kind(window, place)
        if kind != "parquet":
            readers = {"zeek": _zeek, "json": _json, "csv": _csv}
            yield from readers[kind](_lines(window, place), place)
            return
    finally:
        window.close()
    for number, values in enumerate(parquet_rows(place), 1):
        yield Row(values, f"{path}:{number}")


def entries(path: str | Path) -> Iterator[tuple[Entry, Mapping[str, Any]]]:
    """Rows that name a connection, each with its raw values; rows that do not (statistics, headers of other logs) are passed over.

    Raises InputError where no column could be matched with flows.
    """
    columns: dict[tuple[str, ...], Columns] = {}
    names_held = 0
    joined = seen = False
    for row in rows(path):
        names = tuple(row.values)
        if names not in columns:
            names_held += len(names)
            if names_held > _NAMES_HELD:
                columns.clear()
                names_held = len(names)
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


def _zeek(text_lines: Iterator[str], path: Path) -> Iterator[Row]:
    separator, unset = "\t", "-"
    fields: tuple[str, ...] = ()
    for place, line in enumerate(text_lines, 1):
        text = line.rstrip("\r\n")
        if text.startswith("#"):
            word, _, value = text.partition(separator if separator in text else " ")
            if word == "#separator":
                separator = _separator(value, path, place)
            elif word == "#unset_field":
                unset = value
            elif word == "#fields":
                fields = _checked(tuple(value.split(separator)), path, place)
        elif text:
            values = text.split(separator)
            if len(values) != len(fields):
                raise _uneven(len(values), f"{len(fields)} fields", path, place, "the log is cut or edited")
            yield Row({name: None if value == unset else value for name, value in zip(fields, values, strict=True)}, f"{path}:{place}")


def _separator(value: str, path: Path, place: int) -> str:
    """Zeek writes it as `\\x09`; one character as it is will do."""
    if len(value) == 4 and value.startswith("\\x") and all(char in "0123456789abcdefABCDEF" for char in value[2:]):
        return chr(int(value[2:], 16))
    if len(value) == 1:
        return value
    raise InputError("input.log_line", "no separator", input=str(path), where=f"line {place}", hint="Zeek writes `#separator \\x09`")


def _checked(names: tuple[str, ...], path: Path, place: int) -> tuple[str, ...]:
    """Raise InputError for more columns than a table of flows has."""
    if len(names) > MOST_COLUMNS:
        raise InputError("input.large", f"{len(names):,} columns", input=str(path), where=f"line {place}", hint="is it the file you meant?")
    return names


def _uneven(count: int, expected: str, path: Path, place: int, hint: str) -> InputError:
    return InputError("input.log_line", f"{count:,} columns, {expected}", input=str(path), where=f"line {place}", hint=hint)


def _json(text_lines: Iterator[str], path: Path) -> Iterator[Row]:
    """A line an object (Zeek, Suricata); objects inside become dotted names."""
    for place, line in enumerate(text_lines, 1):
        if not line.strip():
            continue
        value = parse_json(line, f"{path}:{place}")
        if not isinstance(value, dict):
            raise InputError("input.log_line", "not a JSON object", input=str(path), where=f"line {place}", hint="one object a line")
        yield Row(dict(_flat(value, "")), f"{path}:{place}")


def _flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Members by their dotted names; no column that is looked for has a name as long as those left out."""
    for key, item in value.items():
        name = f"{prefix}{key[: _LONGEST_NAME + 1]}"
        if len(name) > _LONGEST_NAME:
            continue
        if isinstance(item, dict):
            yield from _flat(item, f"{name}.")
        else:
            yield name, item


def _csv(text_lines: Iterator[str], path: Path) -> Iterator[Row]:
    table = _Table(text_lines, path)
    try:
        names = _checked(tuple(name.strip() for name in table.row()), path, 1)
        while (values := table.row()) or not table.ended:
            if not values:
                continue
            if len(values) != len(names):
                hint = "the table is cut, or its first line names no columns"
                raise _uneven(len(values), f"{len(names)} names", path, table.reader.line_num, hint)
            yield Row(dict(zip(names, values, strict=True)), f"{path}:{table.reader.line_num}")
    except csv.Error as error:
        where = f"line {table.reader.line_num}"
        raise InputError("input.csv", f"not a CSV table: {error}", input=str(path), where=where, hint="check quotes") from error


class _Table:
    """Rows of a CSV file; a quoted text may go on over many lines, a row has 4 MiB at most as any line."""

    def __init__(self, text_lines: Iterator[str], path: Path) -> None:
        first = next(text_lines, "").lstrip("\ufeff")
        self._path, self._taken, self.ended = path, 0, False
        self.reader = csv.reader(self._counted(chain([first], text_lines)), delimiter=max(_SEPARATORS, key=first.count))

    def _counted(self, text_lines: Iterator[str]) -> Iterator[str]:
        for line in text_lines:
            self._taken += len(line)
            if self._taken > _LONGEST_LINE:
                raise InputError(
                    "input.line", "a row above 4 MiB", input=str(self._path), where=f"line {self.reader.line_num + 1}", hint="check quotes"
                )
            yield line

    def row(self) -> list[str]:
        """The next row, empty for an empty line and at the end, where `ended` is set."""
        self._taken = 0
        values = next(self.reader, None)
        self.ended = values is None
        return values or []
