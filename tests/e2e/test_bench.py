"""Every benchmark runs: a trial of each with `--small`, whose figures mean nothing."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BENCHES = {
    "bench_bases": "bases",
    "bench_busy": "ways",
    "bench_capture": "packets_per_second",
    "bench_capture_growth": "cases",
    "bench_capture_hellos": "TLS, hello within the prefix",
    "bench_capture_memory": "rows",
    "bench_engine": "settings",
    "bench_generation": "packets_per_second",
    "bench_page": "shown_ms",
    "bench_ray": "curve",
    "bench_records": "flows_per_second",
    "bench_server": "memory",
    "bench_start": "import",
    "bench_tokenizer": "memory",
    "bench_training": "tokens_per_second",
}
"""A key of each one's JSON."""


def test_every_benchmark_is_tried_here() -> None:
    assert {path.stem for path in (REPO / "bench").glob("bench_*.py")} == set(BENCHES)


LONG = {"bench_bases", "bench_busy", "bench_ray"}
"""Train six times, open a base four times or start two Ray clusters, even in a trial."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.soak if name in LONG else ()) for name in sorted(BENCHES)])
def test_a_benchmark_runs_without_arguments(name: str) -> None:
    if name == "bench_records" and shutil.which("tshark") is None:
        pytest.skip("tshark, the other side of this benchmark, is not installed")
    if name == "bench_page" and (shutil.which("chromium") is None or importlib.util.find_spec("playwright") is None):
        pytest.skip("chromium or playwright, which this benchmark measures with, is not installed")
    command = [sys.executable, str(REPO / "bench" / f"{name}.py"), "--json", "--small"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)[BENCHES[name]]


def test_the_peak_of_a_small_program_is_its_own() -> None:
    told = "import resource, sys; sys.path.insert(0, sys.argv[1]); from peak_memory import peak_bytes"
    small = f"{told}; print(peak_bytes(), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    large = "import subprocess, sys; held = b'x' * 200_000_000; print(subprocess.check_output([sys.executable, *sys.argv[1:]], text=True))"
    command = [sys.executable, "-c", large, "-c", small, str(REPO / "bench")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    own, inherited = map(int, done.stdout.split())
    assert 2_000_000 < own < 100_000_000 < 200_000_000 <= inherited
