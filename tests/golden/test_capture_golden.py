from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from capture_expected import CAPTURES, HERE, describe, golden_captures

EXPECTED = json.loads((HERE / "expected.json").read_text())


def test_there_are_sixty_captures_with_a_licence_beside_them() -> None:
    assert len(golden_captures()) >= 60
    assert {str(path.relative_to(CAPTURES)) for path in golden_captures()} == set(EXPECTED)
    assert all((CAPTURES / f"LICENSE.{path.parent.name}").is_file() for path in golden_captures())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_flows_are_as_before(name: str) -> None:
    assert json.loads(json.dumps(describe(CAPTURES / name))) == EXPECTED[name]


def test_the_kernels_give_the_same_without_compilation() -> None:
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / "capture_expected.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == EXPECTED
