"""What starting loads: the package alone for `import trafficllm`, no heavy library for `--help`. Times: bench/bench_start.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "sklearn", "scipy", "lightgbm", "matplotlib", "numba", "pyarrow")


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    settings = {**inherited, "PYTHONPATH": str(REPO / "src"), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=settings, timeout=120)


def test_import_loads_the_package_alone() -> None:
    code = """
import sys
before = set(sys.modules)
import trafficllm
print(*sorted({name for name in set(sys.modules) - before if name.split(".")[0] not in sys.stdlib_module_names}))
"""
    assert _python(code).stdout.split() == ["trafficllm"]


def _heavy(*words: str) -> str:
    """The last line of a command that succeeds: HEAVY, and the heavy libraries that it loaded."""
    code = f"""
import sys
from trafficllm.surface.cli.main import main
sys.argv = ["trafficllm", *{words!r}]
try:
    main()
except SystemExit as done:
    assert done.code in (0, None), done.code
print("HEAVY", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    return _python(code).stdout.splitlines()[-1]


def test_help_loads_no_heavy_library() -> None:
    assert _heavy("--help") == "HEAVY"


@pytest.mark.parametrize("form", ["jsonl", "eve", "ecs"])
def test_flows_are_written_without_a_heavy_library(form: str, tmp_path: Path) -> None:
    captures = REPO / "src" / "trafficllm" / "data" / "captures" / "MTD"
    assert _heavy("capture", "flows", str(next(captures.glob("*/*.pcap"))), "-f", form, "-o", str(tmp_path / "rows")) == "HEAVY"
    assert (tmp_path / "rows").stat().st_size > 0


@pytest.mark.parametrize("library", ["torch", "lightgbm"])
def test_idle_openmp_threads_sleep(library: str) -> None:
    code = f"import trafficllm, {library}"
    assert (
        "GOMP_SPINCOUNT = '0'" in _python(code, OMP_DISPLAY_ENV="VERBOSE").stderr
    )  # the policy itself is shown as PASSIVE where unset too


def test_a_wait_policy_of_ones_own_stays() -> None:
    code = "import os, trafficllm; print(os.environ['OMP_WAIT_POLICY'])"
    assert _python(code, OMP_WAIT_POLICY="ACTIVE").stdout.strip() == "ACTIVE"
