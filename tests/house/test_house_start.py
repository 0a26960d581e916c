"""What starting costs: `import trafficllm` within 150 ms, `--help` without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "sklearn", "lightgbm", "matplotlib", "numba", "pyarrow")


def _python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=60)
    return done.stdout.strip()


def test_import_is_quick_and_light() -> None:
    code = f"""
import sys, time
start = time.process_time()
import trafficllm
print(time.process_time() - start, *[name for name in {HEAVY!r} if name in sys.modules])
"""
    best = min((_python(code).split() for _ in range(3)), key=lambda words: float(words[0]))
    assert best[1:] == []
    assert float(best[0]) <= 0.150


def test_help_loads_no_heavy_library() -> None:
    code = f"""
import sys
from trafficllm.surface.cli.main import main
sys.argv = ["trafficllm", "--help"]
try:
    main()
except SystemExit as done:
    assert done.code in (0, None), done.code
print("HEAVY", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    assert _python(code).splitlines()[-1] == "HEAVY"
