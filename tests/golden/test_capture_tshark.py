"""Header fields against tshark: crafted frames cut after every byte, bundled captures, and a tenth of the larger data's small files."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tshark_crafted import crafted
from tshark_oracle import TSHARK, Difference, capture_files, compare, explained, sampled, unexplained

pytestmark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
LARGEST = 20_000
"""Bytes: about 150 files of at most this size keep the test under a minute on one core; `make soak` takes all files."""


def _total(files: list[Path], root: Path) -> tuple[int, list[Difference]]:
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # tshark is a process: threads only wait for it
        results = list(pool.map(lambda path: compare(path, path.relative_to(root).as_posix()), files))
    return sum(compared for compared, _ in results), [one for _, found in results for one in found]


def test_headers_cut_after_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "crafted.pcap"
    path.write_bytes(crafted())
    compared, found = compare(path, "crafted")
    assert found == []
    assert compared > 40_000


def test_bundled_captures(captures: Path) -> None:
    compared, found = _total(sampled(sorted(captures.rglob("*.pcap")), captures, 0.1), captures)
    assert found == []
    assert compared > 20_000


def test_a_tenth_of_the_larger_datas_small_files(data_dir: Path) -> None:
    small = [path for path in capture_files(data_dir) if 100 < path.stat().st_size <= LARGEST]
    files = sampled(small, data_dir, 0.11)
    compared, found = _total(files, data_dir)
    assert len(files) > 100
    assert len({path.parent for path in files}) > 30
    assert unexplained(found) == []
    assert compared > 50_000
    assert len(found) <= 0.001 * compared


def test_every_listed_difference_names_a_file_that_is_there(data_dir: Path) -> None:
    listed = explained()
    assert len(listed) > 40
    assert all((data_dir / name).is_file() for name in listed)
