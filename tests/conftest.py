"""What every test shares: UTC, fixed seeds, the bundled captures, and the larger data where it is at hand."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TZ"] = "UTC"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: other processes share these cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRAFFICLLM_SHIPPED", "")  # registries of tests hold what the test put there
time.tzset()

import numpy as np  # noqa: E402 - after the thread count is set
import pytest  # noqa: E402

REPO = Path(__file__).resolve().parents[1]
CAPTURES = REPO / "src" / "trafficllm" / "data" / "captures"


def shared_data() -> Path:
    """The folder of the larger data sets (TRAFFICLLM_DATA, or ../shared/data); skips the test where there is none."""
    place = Path(os.environ.get("TRAFFICLLM_DATA") or REPO.parent / "shared" / "data")
    if not (place / "manifest.csv").is_file():
        pytest.skip("the larger data sets are not here (set TRAFFICLLM_DATA)")
    return place


@pytest.fixture(scope="session", name="repo")
def _repo() -> Path:
    return REPO


@pytest.fixture(scope="session", name="captures")
def _captures() -> Path:
    return CAPTURES


@pytest.fixture(name="data_dir")
def _data_dir() -> Path:
    return shared_data()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may use the global generator


@pytest.fixture(name="interruptible")
def _interruptible() -> Iterator[None]:
    """SIGINT as in a terminal, for this process and those it starts: a shell that runs the tests in its background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(name="cli")
def _cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line in this process, with a registry of its own (see e2e/cli_runner.py)."""
    from cli_runner import runner  # beside the e2e tests, the only ones that ask for it

    monkeypatch.setenv("TRAFFICLLM_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.delenv("TRAFFICLLM_BASE", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    return runner(capfd)
