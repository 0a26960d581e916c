"""An interrupted tuning run: a damaged checkpoint, diverged training, data that changed meanwhile, very many labels."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from tune_forks import QUICK, make_base, rows

from trafficllm.core.errors import InputError, TrafficLLMError
from trafficllm.model.base.load import Base
from trafficllm.model.tuning.job import TuneData, tune_task
from trafficllm.model.tuning.trainer import checkpoints

OPTIONS = QUICK.model_copy(update={"max_steps": 12, "save_steps": 3, "looks": 0, "readout": 0})


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"))


class _StoppedError(Exception):
    """Stands for Ctrl-C between two steps."""


class _StopAt:
    """A progress sink that ends the run at a share of its budget, in thousandths."""

    def __init__(self, at: int) -> None:
        self.at = at

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Called after every step."""
        if total == 1000 and done >= self.at:
            raise _StoppedError


def _interrupted(base: Base, out: Path, data: TuneData) -> list[Path]:
    with pytest.raises(_StoppedError):
        tune_task(base, data, out, OPTIONS, _StopAt(800))
    return checkpoints(out / "checkpoints")


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "tune_state.json", "trainer_state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(base: Base, tmp_path: Path, name: str, damage: str) -> None:
    saved = _interrupted(base, tmp_path / "cut", rows())
    assert [path.name for path in saved] == ["checkpoint-6", "checkpoint-9"]
    victim = saved[-1] / name
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data if damage == "flip" else data[:-9])
    if damage == "gone":
        victim.unlink()
    assert [path.name for path in checkpoints(tmp_path / "cut" / "checkpoints")] == ["checkpoint-6"]
    if (name, damage) != ("weights.safetensors", "flip"):
        return
    done = tune_task(base, rows(), tmp_path / "cut", OPTIONS)
    assert done.resumed_from == 6
    tune_task(base, rows(), tmp_path / "whole", OPTIONS)
    files = [(tmp_path / folder / "adapter_model.safetensors").read_bytes() for folder in ("whole", "cut")]
    assert files[0] == files[1]


def test_without_a_whole_checkpoint_the_run_begins_again(base: Base, tmp_path: Path) -> None:
    for path in _interrupted(base, tmp_path / "cut", rows()):
        (path / "weights.safetensors").write_bytes(b"")
    assert tune_task(base, rows(), tmp_path / "cut", OPTIONS).resumed_from is None


def test_data_that_changed_between_two_parts_of_a_run_is_refused(base: Base, tmp_path: Path) -> None:
    data = rows()
    saved = _interrupted(base, tmp_path / "cut", data)
    other = TuneData(data.prompts, [*data.answers[1:], data.answers[0]], data.labels, data.val_prompts, data.val_answers)
    with pytest.raises(InputError, match="not what it was") as caught:
        tune_task(base, other, tmp_path / "cut", OPTIONS)
    assert caught.value.code == "input.changed"
    assert checkpoints(tmp_path / "cut" / "checkpoints") == saved
    assert tune_task(base, data, tmp_path / "cut", OPTIONS).resumed_from == 9


def test_diverged_training_ends_with_our_error_and_keeps_the_last_good_checkpoint(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trafficllm.model.tuning import trainer

    real, calls = trainer.answer_loss, []

    def diverging(*arguments: object, **named: object) -> object:
        calls.append(1)
        return real(*arguments, **named) * (float("nan") if len(calls) > 7 else 1.0)

    monkeypatch.setattr(trainer, "answer_loss", diverging)
    with pytest.raises(TrafficLLMError, match="diverged") as caught:
        tune_task(base, rows(), tmp_path / "a", OPTIONS)
    assert (caught.value.code, caught.value.where) == ("tune.diverged", "step 8")
    monkeypatch.undo()
    assert [path.name for path in checkpoints(tmp_path / "a" / "checkpoints")] == ["checkpoint-3", "checkpoint-6"]
    assert tune_task(base, rows(), tmp_path / "a", OPTIONS).resumed_from == 6


def test_a_huge_learning_rate_ends_with_our_error(base: Base, tmp_path: Path) -> None:
    with pytest.raises(TrafficLLMError, match="diverged"):
        tune_task(base, rows(), tmp_path / "a", OPTIONS.model_copy(update={"learning_rate": 1e25, "max_grad_norm": 1e30}))


def test_a_damaged_report_or_mark_is_no_traceback(base: Base, tmp_path: Path) -> None:
    _interrupted(base, tmp_path / "cut", rows())
    (tmp_path / "cut" / "checkpoints" / "run.json").write_text("[" * 5000)
    (tmp_path / "cut" / "tune.json").write_text('{"fingerprint": ')
    done = tune_task(base, rows(), tmp_path / "cut", OPTIONS)
    assert (done.reused, done.resumed_from) == (False, None)


def test_five_hundred_labels_are_learnt_and_told_apart(base: Base, tmp_path: Path) -> None:
    from trafficllm.infer.engine.engine import Engine

    data = rows()
    labels = tuple(f"app {number:03d}" for number in range(500))
    many = TuneData([data.prompts[k % len(data.prompts)] for k in range(500)], list(labels), labels)
    tune_task(base, many, tmp_path / "a", OPTIONS.model_copy(update={"max_steps": 2}))
    engine = Engine(base)
    engine.add_adapter("a", tmp_path / "a")
    scores = engine.score(data.prompts[:3], labels, adapter="a")
    assert scores.probabilities.shape == (3, 500)
    assert abs(scores.probabilities.sum(1) - 1).max() < 1e-6


def test_leftovers_of_a_killed_run_are_swept(base: Base, tmp_path: Path) -> None:
    saved = _interrupted(base, tmp_path / "cut", rows())
    half = saved[0].parent / ".checkpoint-12.01234567.tmp"
    shutil.copytree(saved[-1], half)
    (tmp_path / "cut" / ".adapter_model.safetensors.89abcdef.tmp").write_bytes(b"half")
    tune_task(base, rows(), tmp_path / "cut", OPTIONS)
    assert not list((tmp_path / "cut").rglob(".*"))
