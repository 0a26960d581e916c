"""Every target of the Makefile, in a copy of the tree with an environment whose programs write down how they were called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PROGRAMS = ("python", "pip", "ruff", "mypy", "lint-imports", "pytest", "trafficllm")
RECORDER = """#!/bin/sh
echo "$(basename "$0") $* [$OMP_WAIT_POLICY]" >> "$CALLS"
echo '{}'
"""
TARGETS = {
    "help": [],
    "install": [],
    "install-test": [],
    "quickstart": ["trafficllm quickstart --workdir work"],
    "lint": ["ruff check", "ruff format --check", "mypy", "lint-imports"],
    "test": ["ruff check", "mypy", "pytest -n 2 -m not soak"],
    "soak": ["pytest -m soak"],
    "tools": [],
    "results": ["python bench/bench_capture.py --json", "python bench/bench_start.py --json", "trafficllm quickstart"],
    "docs": ["python -m trafficllm.surface.docs.pages ."],
    "site": ["python -m sphinx -W --keep-going -q -b html docs dist/site"],
    "dist": ["python -m build", "python recipes/supply/sbom.py -o dist/trafficllm.cdx.json"],
    "audit": ["python -m pip_audit --no-deps --disable-pip -r requirements.lock"],
    "kernels": ["python -m trafficllm.capture.kernels.shipping"],
    "vllm": ["trafficllm adapter export MTD", "trafficllm adapter export MDD", "python recipes/serve/check.py http://127.0.0.1:8000/v1"],
    "clean": [],
}
"""What each target must call, in this order."""


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> Path:
    """The repository's files as links, beside an installed environment of recorders; `tools` finds nothing to install."""
    for path in REPO.iterdir():
        if path.name not in {".git", "docs", ".venv", "dist", "build", ".pytest_cache", ".mypy_cache", ".ruff_cache"}:
            (tmp_path / path.name).symlink_to(path)
    programs = tmp_path / "env" / "bin"
    programs.mkdir(parents=True)
    for name in (*PROGRAMS, "tshark", "chromium", "tcpdump", "tcpreplay", "vllm"):
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    for stamp in (".installed", ".installed-test"):
        (tmp_path / "env" / stamp).touch()
    return tmp_path


def _make(tree: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    calls = tree / "calls"
    calls.write_text("")
    programs = str(tree / "env" / "bin")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MAKE"))}
    environment |= {"CALLS": str(calls), "PATH": f"{programs}:{environment['PATH']}"}
    done = subprocess.run(["make", "VENV=env", *words], cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=300)
    return done, calls.read_text().splitlines()


def test_every_target_is_tried_here() -> None:
    rules = re.findall(r"^([a-z][a-z-]*):", (REPO / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(rules) == set(TARGETS)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_target_calls_its_programs(tree: Path, target: str) -> None:
    done, calls = _make(tree, target)
    assert done.returncode == 0, done.stderr
    place = iter(calls)
    assert [want for want in TARGETS[target] if not any(call.startswith(want) for call in place)] == []
    assert all(call.endswith("[PASSIVE]") for call in calls)


def test_results_writes_the_figures_of_every_benchmark(tree: Path) -> None:
    (tree / "env" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    done, _ = _make(tree, "results", "BENCHES=bench_start bench_capture_growth", "BENCH_ARGS=--small", "RESULTS=figures")
    assert done.returncode == 0, done.stderr
    files = {path.name: path.read_text() for path in (tree / "figures").iterdir()}
    assert set(files) == {"bench_start.json", "bench_capture_growth.json", "quickstart.json"}
    assert '"cases"' in files["bench_capture_growth.json"]


def test_a_benchmark_that_fails_ends_results_and_leaves_the_old_figures(tree: Path) -> None:
    (tree / "figures").mkdir()
    (tree / "figures" / "bench_start.json").write_text("old")
    (tree / "env" / "bin" / "python").write_text("#!/bin/sh\ncase $1 in *start*) exit 3;; esac\n")
    done, calls = _make(tree, "results", "BENCHES=bench_start bench_tokenizer", "RESULTS=figures")
    assert done.returncode != 0
    assert (tree / "figures" / "bench_start.json").read_text() == "old"
    assert not any(call.startswith("trafficllm") for call in calls)
