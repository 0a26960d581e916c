"""Files that are cut, written over, appended to or replaced while they are read: an error that names the file, or what was there."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from capture_samples import pcap
from records_samples import malware

from trafficllm.capture.files.read import read_frames
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.types import Silent
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset import dataset as datasets
from trafficllm.records.dataset.dataset import BuildOptions, build_dataset, load
from trafficllm.records.sources.rows import LabelLogs

FRAMES = [(1.0 + k, os.urandom(1400)) for k in range(4000)]  # 5.6 MB, five windows


def _read(path: Path, change: Callable[[Path], None], counts: CountsBuilder | None = None) -> int:
    """Frames read when the file is changed after the first batch."""
    frames = 0
    for number, batch in enumerate(read_frames([path], chunk_bytes=1 << 20, counts=counts)):
        frames += len(batch)
        if not number:
            change(path)
    return frames


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(b"other")
    os.utime(path, ns=(0, 1))  # a clock that stands still would hide it


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda raw: pa.Codec("zstd").compress(raw, asbytes=True)])
def test_a_capture_cut_short_is_named(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "c.pcap"
    path.write_bytes(pack(pcap(FRAMES)))
    with pytest.raises(InputError, match="became shorter while it was read") as caught:
        _read(path, _cut)
    assert (caught.value.code, caught.value.input) == ("input.changed", str(path))
    assert caught.value.hint


def test_a_capture_written_over_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    path.write_bytes(pcap(FRAMES))
    with pytest.raises(InputError, match="written over") as caught:
        _read(path, _overwrite)
    assert (caught.value.code, caught.value.input) == ("input.changed", str(path))


def test_a_capture_that_grows_is_read_as_it_was(tmp_path: Path) -> None:
    path, counts = tmp_path / "c.pcap", CountsBuilder()
    path.write_bytes(pcap(FRAMES))

    def grow(path: Path) -> None:
        with path.open("ab") as stream:
            stream.write(pcap(FRAMES)[24:])

    assert _read(path, grow, counts) == len(FRAMES)
    assert counts.build().malformed == {"file.growing": 1}


def test_a_capture_replaced_by_another_is_read_as_it_was(tmp_path: Path) -> None:
    path, other, counts = tmp_path / "c.pcap", tmp_path / "other", CountsBuilder()
    path.write_bytes(pcap(FRAMES))
    other.write_bytes(b"")
    assert _read(path, lambda path: other.replace(path) and None, counts) == len(FRAMES)
    assert not counts.build().malformed


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda raw: pa.Codec("lz4").compress(raw, asbytes=True)])
def test_a_pipe_is_read_once(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """A FIFO gives its bytes to who reads them first: what was read to tell the format must not be lost."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(pack(pcap(FRAMES))), daemon=True)
    writer.start()
    assert sum(len(batch) for batch in read_frames([path])) == len(FRAMES)
    writer.join(10)
    assert not writer.is_alive()


def test_a_pipe_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    command = [sys.executable, "-m", "trafficllm", "capture", "info", str(path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        path.write_bytes(pcap(FRAMES[:9]))
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(out)["packets"] == 9


class _Meddling(Silent):
    """Does something once, when the first file has been read."""

    def __init__(self, deed: Callable[[], object]) -> None:
        self._deed: Callable[[], object] | None = deed

    def update(self, step: str, done: int, total: int | None) -> None:
        if step == "reading" and self._deed is not None:
            self._deed()
            self._deed = None


@pytest.fixture(name="small")
def _small(captures: Path, tmp_path: Path) -> Path:
    return malware(captures, tmp_path / "in", ("Zeus", "Neris"))


@pytest.mark.parametrize("kind", ["replaced", "grown", "cut"])
def test_a_data_set_of_captures_that_change_is_not_made(small: Path, tmp_path: Path, kind: str) -> None:
    first, last = sorted(small.rglob("*.pcap*"))[:: len(list(small.rglob("*.pcap*"))) - 1]

    def meddle() -> None:
        if kind == "replaced":
            shutil.copy(first, tmp_path / "copy")
            (tmp_path / "copy").replace(last)
        elif kind == "grown":
            last.write_bytes(last.read_bytes() + bytes(100))
        else:
            os.truncate(last, last.stat().st_size - 1000)

    with pytest.raises(InputError, match="changed while the data set was built") as caught:
        build_dataset(small, task=get_task("MTD"), out=tmp_path / "out", options=BuildOptions(workers=1), progress=_Meddling(meddle))
    assert (caught.value.code, caught.value.input) == ("input.changed", str(last))
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_labels_that_change_are_noticed(small: Path, tmp_path: Path) -> None:
    log = tmp_path / "labels.csv"
    log.write_text("src_ip,src_port,dst_ip,dst_port,protocol,label\n10.0.0.1,1,10.0.0.2,2,6,a\n")
    options = BuildOptions(workers=1, labels=LabelLogs((str(log),)))
    meddling = _Meddling(lambda: log.write_text(log.read_text() + "10.0.0.1,1,10.0.0.2,3,6,b\n"))
    with pytest.raises(InputError, match="changed while the data set was built") as caught:
        build_dataset(small, task=get_task("MTD"), out=tmp_path / "out", options=options, progress=meddling)
    assert caught.value.input == str(log)


@pytest.fixture(name="built")
def _built(small: Path, tmp_path: Path) -> Path:
    build_dataset(small, task=get_task("MTD"), out=tmp_path / "ds", options=BuildOptions(workers=1))
    return tmp_path / "ds"


def test_a_data_set_that_changed_between_steps_is_refused_by_hash(built: Path) -> None:
    assert len(load(built)) > 100
    rows = built / "records.parquet"
    table, before = pq.read_table(rows), load(built).sha256
    relabelled = table.set_column(table.column_names.index("label"), "label", pa.array(["Zeus"] * len(table)).cast(table["label"].type))
    pq.write_table(relabelled, rows)
    with pytest.raises(ArtifactError, match=f"expected {before}, found ") as caught:
        load(built)
    assert caught.value.input == str(built)


def test_a_data_set_written_over_between_hash_and_rows_is_refused(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = pq.read_table

    def meddled(source: object, **how: object) -> pa.Table:
        table = read(source, **how)
        os.utime(built / "records.parquet", ns=(0, 1))
        return table

    monkeypatch.setattr(datasets.pq, "read_table", meddled)
    with pytest.raises(ArtifactError, match="changed while it was read"):
        load(built)


def test_an_interrupted_replacement_is_mended_when_the_data_set_is_opened(built: Path, small: Path) -> None:
    """What a kill between the two renames of a second `data build` leaves: the old folder aside, none in its place."""
    before = load(built).sha256
    aside = built.parent / ".ds.0123abcd.old"
    built.replace(aside)
    assert load(built).sha256 == before
    assert not aside.exists()
    built.replace(aside)
    report = build_dataset(small, task=get_task("MTD"), out=built, options=BuildOptions(workers=1))
    assert report.reused
