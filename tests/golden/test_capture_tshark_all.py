"""Header fields of every capture of the larger data against tshark; `TRAFFICLLM_FIGURES=1` writes docs/results/capture_tshark.json anew."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from tshark_oracle import TSHARK, Difference, capture_files, compare, unexplained

pytestmark = [pytest.mark.soak, pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")]


def _one(task: tuple[str, str]) -> tuple[int, list[Difference]]:
    return compare(Path(task[0]) / task[1], task[1])


def figures(results: list[tuple[str, int, list[Difference]]]) -> dict[str, object]:
    """What docs/results/capture_tshark.json holds, from (file, fields compared, differences) of each file."""
    said = subprocess.run([str(TSHARK), "--version"], capture_output=True, text=True, check=True).stdout
    compared, different = sum(row[1] for row in results), sum(len(row[2]) for row in results)
    folders: dict[str, Counter[str]] = {}
    for name, count, found in results:
        folders.setdefault(name.split("/")[0], Counter()).update(files=1, compared=count, different=len(found))
    return {
        "tshark": said.split(" (", 2)[1].split(" ")[-1] if " (" in said else said.split("\n", 1)[0],
        "files": len(results),
        "compared": compared,
        "different": different,
        "equal": round(1 - different / compared, 6),
        "by_folder": {name: dict(counts) for name, counts in sorted(folders.items())},
        "by_field": dict(sorted(Counter(one[2] for _, _, found in results for one in found).items())),
    }


def test_all_files(data_dir: Path, repo: Path) -> None:
    names = [path.relative_to(data_dir).as_posix() for path in capture_files(data_dir)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = [(name, *row) for name, row in zip(names, pool.map(_one, [(str(data_dir), name) for name in names]), strict=True)]
    summary = figures(results)
    if os.environ.get("TRAFFICLLM_FIGURES"):
        (repo / "docs" / "results" / "capture_tshark.json").write_text(json.dumps(summary, indent=1) + "\n")
    assert len(results) > 1800
    assert unexplained([one for _, _, found in results for one in found]) == []
    assert 1 - float(str(summary["equal"])) <= 0.001
