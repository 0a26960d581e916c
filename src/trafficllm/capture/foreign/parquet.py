"""Parquet tables of unknown origin, row by row within bounds: pages, cells, columns and the whole are judged before they are decoded.

The sizes in a file's footer are claims. What a reader allocates stands in the header of each page, so those are read here first
(https://github.com/apache/parquet-format, thrift compact protocol).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trafficllm.core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST_CELL = 1 << 17
"""Bytes of a text at most, as in CSV tables."""
MOST_COLUMNS = 4096
_LARGEST_FOOTER = 16 << 20
_LARGEST_PAGES = 128 << 20
"""Bytes of the largest page of each column of a row group, together: what a reader holds at once."""
_MOST_VALUES = 1 << 24
"""Values of one column in a row group where a row may hold many."""
_LONGEST_HEADER = 1 << 18
_BOMB_AFTER, _BOMB_RATIO = 64 << 20, 200
_ROWS = 4096
_SLICE = 16 << 20
_DELTA_STRINGS = 7
"""DELTA_BYTE_ARRAY: each text names how much of the one before it repeats, so that a few bytes are many megabytes."""


def parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of a Parquet file as dictionaries. Memory does not depend on the file.

    Raises InputError for a file that is cut or damaged, or whose pages, cells, columns or contents are beyond the bounds.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:
            _check_footer(stream, path)
            limits = {"thrift_string_size_limit": _LARGEST_FOOTER, "thrift_container_size_limit": 1 << 20}
            plain = pq.ParquetFile(stream, pre_buffer=False, **limits)
            schema = plain.schema_arrow
            if len(plain.schema) > MOST_COLUMNS:
                raise _beyond(path, f"{len(plain.schema):,} columns", "the footer")
            texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]
            file = pq.ParquetFile(stream, metadata=plain.metadata, read_dictionary=texts, pre_buffer=False, buffer_size=1 << 20, **limits)
            yield from _row_groups(file, stream, path)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError("input.parquet", "not a Parquet table", input=str(path), hint="the file is cut or damaged") from error


def _row_groups(file: Any, stream: IO[bytes], path: Path) -> Iterator[Mapping[str, Any]]:
    size = path.stat().st_size
    decoded = 0
    rows_at_once = max(_ROWS // (1 + len(file.schema) // 64), 16)
    for number in range(file.num_row_groups):
        _check_pages(file.metadata.row_group(number), stream, path, f"row group {number}")
        for batch in file.iter_batches(rows_at_once, row_groups=[number]):
            row_bytes = _row_bytes(batch, path, f"row group {number}")
            decoded += row_bytes * len(batch)
            if decoded > _BOMB_AFTER and decoded > _BOMB_RATIO * size:
                why = f"expands more than {_BOMB_RATIO} times: refused after {decoded >> 20} MiB"
                hint = "write it as CSV if it is really a log"
                raise InputError("input.bomb", why, input=str(path), where=f"row group {number}", hint=hint)
            step = max(_SLICE // max(row_bytes, 1), 1)
            for at in range(0, len(batch), step):
                yield from _plain(batch.slice(at, step)).to_pylist()


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch without dictionaries: a text from one takes three times as long to hand out."""
    import pyarrow as pa

    columns = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _check_footer(stream: IO[bytes], path: Path) -> None:
    """The footer's length stands before the last magic number; what is claimed there is parsed at once."""
    end = stream.seek(0, 2)
    stream.seek(max(end - 8, 0))
    tail = stream.read(8)
    length = int.from_bytes(tail[:4], "little")
    if end < 12 or tail[4:] != b"PAR1" or length > end - 12:
        raise InputError("input.parquet", "not a Parquet table", input=str(path), hint="the file is cut or damaged")
    if length > _LARGEST_FOOTER:
        raise _beyond(path, f"a footer of {length >> 20:,} MiB", "the footer")


def _row_bytes(batch: pa.RecordBatch, path: Path, where: str) -> int:
    """Bytes of a row of a batch at most, as the longest text of each column makes it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    total = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        longest = 8
        if pa.types.is_dictionary(column.type):
            column = column.dictionary.take(pc.unique(column.indices).drop_null())
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            longest += pc.max(pc.binary_length(column)).as_py() or 0
        else:
            longest += column.nbytes // max(len(column), 1)
        if longest > LARGEST_CELL:
            raise _beyond(path, f"a cell of {longest >> 10:,} KiB in column '{name[:80]}'", where)
        total += longest
    return total


def _check_pages(group: Any, stream: IO[bytes], path: Path, where: str) -> None:
    """Raise InputError where the pages of a row group, by their own headers, are more than a table of flows has."""
    largest = 0
    for k in range(group.num_columns):
        column = group.column(k)
        place = f"{where}, column '{column.path_in_schema[:80]}'"
        pages = list(_pages(column, stream))
        if _DELTA_STRINGS in (encoding for _, _, encoding in pages):
            hint = "write the table again with dictionary or plain encoding"
            raise InputError("input.parquet", "texts as differences are not read", input=str(path), where=place, hint=hint)
        if "." in column.path_in_schema and (values := sum(count for _, count, _ in pages)) > _MOST_VALUES:
            raise _beyond(path, f"{values:,} values", place)
        largest += max((size for size, _, _ in pages), default=0)
        if largest > _LARGEST_PAGES:
            raise _beyond(path, f"pages of {largest >> 20:,} MiB", place)


def _pages(column: Any, stream: IO[bytes]) -> Iterator[tuple[int, int, int]]:
    """(Bytes when unpacked, values, encoding) of each page of a column chunk. Raises ValueError for a header that is none."""
    at = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < at:
        at = column.dictionary_page_offset
    end = at + column.total_compressed_size
    while at < end:
        stream.seek(at)
        header, used = _struct(stream.read(_LONGEST_HEADER), 0)
        packed, unpacked = header.get(3), header.get(2)
        if not isinstance(packed, int) or not isinstance(unpacked, int) or packed < 0 or unpacked < 0:
            raise ValueError("no page header")
        data = header.get(5) or header.get(8) or {}
        yield unpacked, data.get(1, 0), data.get(2 if 5 in header else 4, -1)
        at += used + packed


def _beyond(path: Path, what: str, where: str) -> InputError:
    why = f"{what}: more than a table of flows has"
    return InputError("input.large", why, input=str(path), where=where, hint="is it the file you meant?")


# Thrift's compact protocol, as far as page headers need it


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
    raise ValueError("no number")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Fields by their number, and where the struct ends."""
    fields: dict[int, Any] = {}
    number = 0
    if depth > 8:
        raise ValueError("nested too deeply")
    while True:
        if at >= len(data):
            raise ValueError("cut")
        byte = data[at]
        at += 1
        if not byte:
            return fields, at
        if byte >> 4:
            number += byte >> 4
        else:
            number, at = _signed(data, at)
        fields[number], at = _value(byte & 15, data, at, depth)


def _value(kind: int, data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # the value of a Boolean stands in its type
        return kind == 1, at
    if kind == 3:
        return data[at : at + 1], at + 1
    if kind in (4, 5, 6):
        return _signed(data, at)
    if kind == 7:
        return struct.unpack_from("<d", data, at)[0], at + 8
    if kind == 8:
        size, at = _varint(data, at)
        return None, at + size
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise ValueError("a list where no page header has one")
