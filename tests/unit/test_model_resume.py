"""SIGKILL at random moments, checkpoint writing included: the same call goes on to the same curve and the same bytes."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from tune_forks import QUICK, fork, make_base, rows

from trafficllm.core.settings import TuneOptions
from trafficllm.model.base.load import Base
from trafficllm.model.tuning.job import tune_task


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"))


def _curve(folder: Path, key: str) -> dict[int, float]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in found if key in row}


def _killed(base: Base, out: Path, options: TuneOptions, kills: int, chooser: random.Random) -> tuple[int, int]:
    """Start the run until it ends by itself, killing it `kills` times: (kills that hit, steps already saved at the last)."""
    hits, saved, tries = 0, 0, 0
    while hits < kills and tries < 4 * kills:
        tries += 1
        begun = _lines(out)
        child = fork(tune_task, base, rows(), out, options, log=out.with_suffix(".log"))
        until = time.monotonic() + 120
        while child.is_alive() and _lines(out) <= begun + chooser.randrange(6) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(chooser.uniform(0, 0.03))
        child.kill()
        child.join()
        assert child.exitcode in {-signal.SIGKILL, 0}, out.with_suffix(".log").read_text()
        if child.exitcode == 0:
            break
        hits += 1
        saved = max([int(path.name.split("-")[1]) for path in (out / "checkpoints").glob("checkpoint-*")], default=0)
    return hits, saved


def _lines(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _resumes_alike(base: Base, folder: Path, options: TuneOptions, kills: int) -> None:
    whole = tune_task(base, rows(), folder / "whole", options)
    hits, saved = _killed(base, folder / "cut", options, kills, random.Random(kills))
    assert hits == kills
    done = tune_task(base, rows(), folder / "cut", options)
    assert (done.resumed_from or 0) == saved
    assert done.tokens == whole.tokens
    for key in ("loss", "grad_norm", "val_loss"):
        first, second = (_curve(folder / name, key) for name in ("whole", "cut"))
        assert first.keys() == second.keys()
        assert first or key == "val_loss"
        assert max((abs(first[step] - second[step]) for step in first), default=0.0) <= 1e-6
    files = [(folder / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]
    assert not (folder / "cut/checkpoints").exists()


def test_three_kills_resume_to_the_same_curve(base: Base, tmp_path: Path) -> None:
    options = QUICK.model_copy(update={"max_steps": 24, "save_steps": 3, "lora_dropout": 0.1})
    _resumes_alike(base, tmp_path, options, 3)


@pytest.mark.soak
def test_twenty_kills_resume_to_the_same_curve(base: Base, tmp_path: Path) -> None:
    options = QUICK.model_copy(update={"max_steps": 160, "save_steps": 2, "logging_steps": 2, "lora_dropout": 0.1, "looks": 8})
    _resumes_alike(base, tmp_path, options, 20)


def test_checkpoints_lie_between_logged_steps_only(base: Base, tmp_path: Path) -> None:
    """A logged loss is a mean over `logging_steps`: a checkpoint inside one would change it on resuming."""
    options = QUICK.model_copy(update={"max_steps": 24, "save_steps": 5, "logging_steps": 4, "looks": 0})
    _resumes_alike(base, tmp_path, options, 1)
