"""Threads of a tuning run: chosen by the pace of its steps, and no part of its result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tune_forks import make_base, rows

from trafficllm.core import machine
from trafficllm.core.settings import TuneOptions
from trafficllm.model import threads
from trafficllm.model.threads import paced, single
from trafficllm.model.tuning.job import tune_task

SHORT = TuneOptions(max_steps=12, batch_tokens=1024, learning_rate=5e-3, r=8, lora_alpha=16, looks=1, readout=60)


@pytest.fixture(name="two")
def _two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two cores, and nothing that states how many threads to take."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.soak
def test_a_run_tries_both_and_gives_the_bytes_of_one_thread(two: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "base")
    used: list[int] = []
    real = threads.use
    monkeypatch.setattr(threads, "use", lambda count: used.append(count) or real(count))  # type: ignore[func-returns-value]
    report = tune_task(base, rows(), tmp_path / "chosen", SHORT)
    assert set(used) == {1, 2}
    assert report.threads in {1, 2}
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    assert tune_task(base, rows(), tmp_path / "one", SHORT).threads == 1
    for name in ("adapter_model.safetensors", "readout.safetensors"):
        assert (tmp_path / "chosen" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_threads_are_as_before_afterwards(two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with paced(torch.nn.Linear(4, 4)) as pace:
        assert pace.counts == (1, 2)
        for _ in range(9):
            with pace.step(1):
                pass
    with single():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with paced(torch.nn.Linear(4, 4, device="meta")) as pace:
        assert pace.counts == (2,)
    monkeypatch.setattr(threads, "LARGE", 20)
    with paced(torch.nn.Linear(4, 4)) as pace:
        assert pace.counts == (2,)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with paced(torch.nn.Linear(1, 1)) as pace:
        assert pace.counts == (1,)
