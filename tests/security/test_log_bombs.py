"""Logs of other sensors that grow when they are read: cells, rows, names, pages. Each is refused by name, in bounded memory."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trafficllm.capture.foreign.logs import rows
from trafficllm.core.errors import InputError

NAMES = ("src_ip", "dst_ip", "proto", "label")
LINE = "1.1.1.1,2.2.2.2,6,x\n"
HEAD = ",".join(NAMES) + "\n"


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text, encoding="utf-8") and None


def _table(columns: dict[str, object], **how: object) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path, **how)


def _constant(text: bytes, count: int) -> pa.Array:
    """The same text many times, by a dictionary: a few bytes in the file."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


def _zeros(count: int) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(bytes(8 * count))])


BOMBS: dict[str, tuple[Callable[[], Callable[[Path], None]], str]] = {
    "csv cell": (lambda: _text(HEAD + '"' + "x\n" * 100_000 + '",2.2.2.2,6,x\n'), "input.csv"),
    "csv row": (lambda: _text(HEAD + ",".join('"' + "x\n" * 60_000 + '"' for _ in range(60)) + "\n"), "input.line"),
    "csv line": (lambda: _text(HEAD + "x" * (6 << 20)), "input.line"),
    "csv columns": (lambda: _text("," * 10_000 + "\n" + LINE), "input.large"),
    "csv packed": (lambda: lambda path: path.write_bytes(gzip.compress((HEAD + LINE * 3_500_000).encode(), 6)) and None, "input.bomb"),
    "zeek columns": (lambda: _text("#fields" + "\ta" * 10_000 + "\n"), "input.large"),
    "zeek separator": (lambda: _text("#separator \\xzz\n#fields\tts\n"), "input.log_line"),
    "zeek no separator": (lambda: _text("#separator \n#fields\tts\n1\n"), "input.log_line"),
    "parquet cell": (lambda: _table({"src_ip": _constant(bytes(1 << 20), 100_000)}), "input.large"),
    "parquet rows": (lambda: _table({name: _zeros(1 << 24) for name in NAMES}, use_dictionary=True), "input.bomb"),
    "parquet page": (lambda: _table({"src_ip": pa.array([bytes(200 << 20)])}, use_dictionary=False, compression="zstd"), "input.large"),
    "parquet differences": (
        lambda: _table({"src_ip": pa.array([b"x" * 9000] * 9000)}, use_dictionary=False, column_encoding={"src_ip": "DELTA_BYTE_ARRAY"}),
        "input.parquet",
    ),
    "parquet columns": (lambda: _table({f"c{k}": [1] for k in range(5000)}), "input.large"),
    "parquet list": (lambda: _table({"splt": pa.ListArray.from_arrays([0, 1 << 25], _zeros(1 << 25))}), "input.large"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"x.{'parquet' if name.startswith('parquet') else 'csv'}"
    make, code = BOMBS[name]
    make()(path)
    assert path.stat().st_size < 16 << 20
    with pytest.raises(InputError) as caught:
        for _ in rows(path):
            pass
    assert (caught.value.code, caught.value.input) == (code, str(path))
    assert caught.value.hint


_MEASURED = """
import resource, sys
from trafficllm.capture.foreign.logs import entries
from trafficllm.core.errors import InputError
import pyarrow.parquet, pyarrow.compute
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = 0
try:
    for _ in entries(sys.argv[1]):
        count += 1
except InputError as error:
    print(error.code, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, count)
"""


def _grown(path: Path) -> tuple[int, int]:
    """(MiB by which reading a log raises the peak of a process, entries read)."""
    done = subprocess.run([sys.executable, "-c", _MEASURED, str(path)], capture_output=True, text=True, timeout=120, check=True)
    kib, count = done.stdout.split()
    return int(kib) >> 10, int(count)


@pytest.mark.parametrize("name", ["parquet cell", "parquet rows", "parquet page", "parquet list"])
def test_a_bomb_takes_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"x.{'parquet' if name.startswith('parquet') else 'csv'}"
    BOMBS[name][0]()(path)
    assert _grown(path)[0] < 200


def test_names_within_names_take_little_memory(tmp_path: Path) -> None:
    """A megabyte of names above 100,000 members: joined, they would be 100 GB. Other keys in every line: none is remembered for ever."""
    deep = "{" + "".join(f'"{"k" * 2000}": {{' for _ in range(500)) + ",".join(f'"{k}": 1' for k in range(100_000)) + "}" * 501
    path = tmp_path / "x.json"
    other = ({f"{line}.{k}": 1 for k in range(5000)} for line in range(200))
    known = {"src_ip": "1.1.1.1", "dest_ip": "2.2.2.2", "proto": "TCP", "src_port": 1, "dest_port": 2}
    path.write_text("\n".join([json.dumps(known), deep, *(json.dumps(known | more) for more in other)]), encoding="utf-8")
    grown, count = _grown(path)
    assert count == 201
    assert grown < 200


def test_honest_tables_come_whole(tmp_path: Path) -> None:
    """Texts by dictionary and plain, lists, nulls, several row groups and page versions: as pyarrow reads them."""
    count = 5000
    columns = {
        "src_ip": [f"10.0.0.{k % 250}" for k in range(count)],
        "bytes": pa.array([None if k % 7 else k for k in range(count)], pa.int64()),
        "splt": [[{"dir": 0, "size": k, "iat": 0.5}] * (k % 3) for k in range(count)],
        "raw": [b"\0x" * (k % 5) for k in range(count)],
    }
    path = tmp_path / "x.parquet"
    ways: list[dict[str, object]] = [
        {},
        {"data_page_version": "2.0", "row_group_size": 700},
        {"use_dictionary": False, "compression": "zstd"},
    ]
    for how in ways:
        _table(columns, **how)(path)
        assert [dict(row.values) for row in rows(path)] == pq.read_table(path).to_pylist()


def test_damaged_tables_are_refused_or_read(tmp_path: Path) -> None:
    path, random_ = tmp_path / "x.parquet", random.Random(1)
    _table({"src_ip": [f"10.0.0.{k % 250}" for k in range(300)], "bytes": list(range(300))})(path)
    whole = path.read_bytes()
    outcomes = []
    for at in range(600):
        data = bytearray(whole)
        for _ in range(random_.choice((1, 1, 4))):
            data[random_.randrange(4, len(data))] = random_.randrange(256)
        path.write_bytes(data if at % 3 else data[: random_.randrange(8, len(data))])
        outcomes.append(_outcome(path))
    assert {one for one in outcomes if isinstance(one, str)} == {str(path)}
    assert sum(isinstance(one, str) for one in outcomes) > 200
    assert max(one for one in outcomes if isinstance(one, int)) == 300


def _outcome(path: Path) -> int | str:
    """How many rows a file gave, or the file that its refusal names."""
    try:
        return sum(1 for _ in rows(path))
    except InputError as error:
        return error.input
