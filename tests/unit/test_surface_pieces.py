"""Output without an end: one file, or files that follow each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pytest

from trafficllm.core.errors import ResourceError
from trafficllm.core.types import FlowWriter
from trafficllm.surface.formats.columns import VERDICT
from trafficllm.surface.formats.pieces import Pieces
from trafficllm.surface.formats.writers import make_writer

HOUR = 1_800_000_000  # 2027-01-15T08:00:00Z


def _make(form: str) -> Callable[[BinaryIO], FlowWriter]:
    return lambda stream: make_writer(form, stream, VERDICT, path="trafficllm", eve=lambda row: row)


def _row(number: int) -> Mapping[str, Any]:
    return {"uid": f"C{number}", "packets": number}


def _uids(path: Path) -> list[str]:
    return [json.loads(line)["uid"] for line in path.read_text().splitlines()]


def test_lines_are_there_as_they_are_written(tmp_path: Path) -> None:
    out = tmp_path / "new" / "verdicts.jsonl"
    pieces = Pieces(_make("jsonl"), out)
    pieces.write([_row(1)])
    assert _uids(out) == ["C1"]
    pieces.write([_row(2)])
    assert _uids(out) == ["C1", "C2"]
    pieces.close()
    assert [path.name for path in out.parent.iterdir()] == ["verdicts.jsonl"]


def test_a_new_file_for_each_span_and_the_newest_are_kept(tmp_path: Path) -> None:
    now = [HOUR + 30.0]
    (tmp_path / "verdicts-20200101T000000Z.csv").write_text("of a former run")
    (tmp_path / "verdicts-mine.csv").write_text("not ours")
    pieces = Pieces(_make("csv"), tmp_path / "verdicts.csv", seconds=60, keep=2, clock=lambda: now[0])
    for number, moment in enumerate((30, 59, 60, 185)):
        now[0] = HOUR + moment
        pieces.write([_row(number)])
    pieces.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "verdicts-20270115T080100Z.csv",
        "verdicts-20270115T080305Z.csv",
        "verdicts-mine.csv",
    ]
    for name, uid in (("verdicts-20270115T080100Z.csv", "C2"), ("verdicts-20270115T080305Z.csv", "C3")):
        header, row = (tmp_path / name).read_text().splitlines()
        assert header.startswith("uid,")
        assert row.startswith(uid)


def test_parquet_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    now = [float(HOUR)]
    pieces = Pieces(_make("parquet"), tmp_path / "v.parquet", seconds=60, clock=lambda: now[0])
    for number in range(3):
        pieces.write([_row(number)])
    assert [path.name for path in tmp_path.iterdir()] == [".v-20270115T080000Z.parquet.partial"]
    now[0] += 60
    pieces.write([_row(3)])
    assert pq.read_table(tmp_path / "v-20270115T080000Z.parquet")["uid"].to_pylist() == ["C0", "C1", "C2"]
    pieces.close()
    assert pq.read_table(tmp_path / "v-20270115T080100Z.parquet")["uid"].to_pylist() == ["C3"]
    assert len(list(tmp_path.iterdir())) == 2


def test_no_rows_leave_an_empty_file(tmp_path: Path) -> None:
    Pieces(_make("jsonl"), tmp_path / "v.jsonl").close()
    assert (tmp_path / "v.jsonl").read_bytes() == b""


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        Pieces(_make("jsonl"), tmp_path / "file" / "v.jsonl").write([_row(1)])
