"""Rows by several processes: the bytes of one process, in every format, and what goes wrong in a worker is raised here."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.rows import conn_rows, flow_rows, without_contents
from trafficllm.core.errors import InputError
from trafficllm.core.settings import load_config
from trafficllm.lifecycle.analyze import captures as reading_of
from trafficllm.surface.formats import many_cores
from trafficllm.surface.formats.columns import CONN, FLOW
from trafficllm.surface.formats.destinations import flow_forms
from trafficllm.surface.formats.eve import flow_event
from trafficllm.surface.formats.writers import make_writer

PIECE = 50


@pytest.fixture(name="files")
def _files(captures: Path) -> list[str]:
    return [str(path) for label in ("Zeus", "Cridex", "FTP") for path in sorted((captures / "MTD" / label).glob("*.pcap"))[:2]]


def _writer(form: str, stream: io.BytesIO) -> Any:
    columns = CONN if form == "zeek" else FLOW
    return make_writer(form, stream, columns, path="conn", eve=flow_event, forms=flow_forms())


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "zeek", "eve", "ecs"])
def test_the_bytes_are_those_of_one_process(files: list[str], form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_of, "ROWS", PIECE)
    config, reading = load_config(None), reading_of.FlowReading()
    alone, many = io.BytesIO(), io.BytesIO()
    writer = _writer(form, alone)
    total = 0
    for rows in (reading_of.conn_log if form == "zeek" else reading_of.flows)(files, config, reading):
        writer.write(rows)
        total += len(rows)
    writer.close()
    writer = _writer(form, many)
    many_cores.write_rows(writer, files, config, reading, conn_rows if form == "zeek" else flow_rows, workers=2)
    writer.close()
    assert total > 5 * PIECE
    assert many.getvalue() == alone.getvalue()


def test_a_piece_of_a_batch_has_the_rows_of_the_whole(files: list[str]) -> None:
    batch = next(iter(read_flows(files)))
    part = without_contents(batch, 7, 90)
    assert list(flow_rows(part, number=7)) == list(flow_rows(batch))[7:90]
    assert len(part.payload) == 0 < len(batch.payload)


def test_small_files_and_streams_stay_in_this_process(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reading = reading_of.FlowReading()
    monkeypatch.setattr(many_cores, "cores", lambda: 2)
    assert not many_cores.pays(files, reading)
    monkeypatch.setattr(many_cores, "WORTH", 1)
    assert many_cores.pays([*files, "missing.pcap"], reading)
    assert not many_cores.pays([*files, "-"], reading)
    monkeypatch.setattr(many_cores, "cores", lambda: 1)
    assert not many_cores.pays(files, reading)


def test_an_error_in_a_worker_is_raised_here(files: list[str]) -> None:
    def broken(batch: Any, *, number: int) -> Iterator[Any]:
        raise InputError("input.test", f"row {number}", input="a test")

    with pytest.raises(InputError, match="row 0"):
        many_cores.write_rows(_writer("jsonl", io.BytesIO()), files, load_config(None), reading_of.FlowReading(), broken, workers=2)
