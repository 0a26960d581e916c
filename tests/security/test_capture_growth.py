"""Crafted input costs time in proportion to its size; bench/bench_capture_growth.py draws the whole curves."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
from capture_crafted import FILES, PAYLOADS, smallest, work

STEP = 4
LIMIT = 1.6
"""Largest exponent believed linear: neighbours on the machine disturb a measurement by less than a factor of 2.3 = 4 ** 0.6."""
FLOOR = 0.004


def _seconds(name: str, n: int, folder: Path) -> float:
    act = work(name, n, folder)
    act()
    times = []
    for _ in range(3):
        began = time.process_time()
        act()
        times.append(time.process_time() - began)
    return max(min(times), FLOOR)


@pytest.mark.parametrize("name", [*FILES, *PAYLOADS])
def test_time_grows_with_the_size_and_not_faster(tmp_path: Path, name: str) -> None:
    n = smallest(name)
    small, large = _seconds(name, n, tmp_path), _seconds(name, STEP * n, tmp_path)
    assert math.log(large / small) / math.log(STEP) <= LIMIT
