"""TabICL as a baseline by a weights file: random weights of its real architecture, since no trained ones are at hand."""

from __future__ import annotations

import builtins
import dataclasses
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluate_samples import LABELS, part
from tabicl._model.tabicl import TabICL
from typer.testing import CliRunner

from trafficllm.core.errors import ArtifactError, InputError, ResourceError
from trafficllm.core.files import sha256_file
from trafficllm.core.types import F64
from trafficllm.evaluate.baselines import in_context, shots
from trafficllm.evaluate.baselines import table as baselines
from trafficllm.evaluate.baselines.learners import Part
from trafficllm.surface.cli import evaluate as commands

SMALL = {"embed_dim": 16, "col_num_blocks": 1, "col_nhead": 2, "col_num_inds": 4, "row_num_blocks": 1, "row_nhead": 2, "row_num_cls": 2}
SHAPE = {**SMALL, "icl_num_blocks": 1, "icl_nhead": 2, "max_classes": 2}


@pytest.fixture(name="checkpoint", scope="module")
def _checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = TabICL(**SHAPE)
    for value in model.parameters():  # what starts as zeros would hide the context
        torch.nn.init.normal_(value, std=0.3)
    path = tmp_path_factory.mktemp("weights") / "small.ckpt"
    torch.save({"config": SHAPE, "state_dict": model.state_dict()}, path)
    return path


def test_it_answers_every_row_beside_the_others(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three labels by weights that know two, and what the report says of them."""
    monkeypatch.setattr(in_context, "CONTEXT", 12)
    monkeypatch.setattr(in_context, "VIEWS_TRIED", 2)
    monkeypatch.setattr(baselines, "_views", lambda _: ("sizes_times",))
    rows = baselines.run(part(30, 0), part(6, 1), part(9, 2), labels=LABELS, names=("majority",), checkpoint=checkpoint)
    assert tuple(rows) == ("majority", in_context.NAME)
    told = rows[in_context.NAME]
    assert told.probabilities.shape == (9, 3)
    assert np.allclose(told.probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert told.params["checkpoint"] == "small.ckpt"
    assert told.params["sha256"] == sha256_file(checkpoint)
    assert (told.params["rows"], told.params["features"], told.params["tried"]) == (12, "sizes_times", 1)


def test_the_context_answers_and_the_seed_fixes_it(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_context, "VIEWS_TRIED", 2)
    train = part(12, 0)
    turned = dataclasses.replace(train, y=[*train.y[1:], train.y[0]])

    def answers(learnt: Part) -> F64:
        data = baselines.Data(LABELS, learnt, part(0, 1), checkpoint=checkpoint)
        return in_context.fit_in_context(data, "sizes_times", {"rows": 12})(data.matrix("train", "sizes_times")[:4])

    first = answers(train)
    assert np.array_equal(first, answers(train))
    assert np.abs(first - answers(turned)).max() > 1e-4
    monkeypatch.setitem(shots.VIEWS, "all", shots.VIEWS["sizes_times"])
    some = dataclasses.replace(train, records=train.records[:4], y=train.y[:4])
    assert np.array_equal(shots.in_context(checkpoint, train, some, LABELS), first)


def test_the_columns_that_tell_classes_apart_stay() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.normal(size=(60, 40))
    X[:, 7] += 3 * (y == 1)
    X[:, 30] -= 3 * (y == 2)
    X[:, 12] = 5.0
    assert in_context.telling(X, y, 2).tolist() == [7, 30]
    assert in_context.telling(X, y, 100).tolist() == list(range(40))
    assert 12 not in in_context.telling(X, y, 39)


def test_a_label_without_rows_gets_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_context, "VIEWS_TRIED", 2)
    train = part(20, 0)
    rows = [k for k, label in enumerate(train.y) if label != LABELS[1]]
    data = baselines.Data(
        LABELS, dataclasses.replace(train, records=[train.records[k] for k in rows], y=[train.y[k] for k in rows]), part(0, 1)
    )
    answer = in_context.fit_in_context(dataclasses.replace(data, checkpoint=checkpoint), "sizes_times", {"rows": 8})
    p = answer(data.matrix("train", "sizes_times")[:3])
    assert p.shape == (3, 3)
    assert (p[:, 1] == 0).all()
    assert answer(np.zeros((0, 4))).shape == (0, 3)


def test_files_that_are_none_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Also one whose pickle names a program: nothing of it runs."""
    with pytest.raises(InputError, match="no such weights"):
        in_context.check(tmp_path / "none.ckpt")
    plain, archive, other, regressor, wrong, evil = (tmp_path / f"{name}.ckpt" for name in ("a", "b", "c", "d", "e", "f"))
    plain.write_bytes(b"weights")
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("x", "y")
    torch.save({"layer": torch.zeros(2)}, other)
    small = SHAPE | {"max_classes": 0}
    torch.save({"config": small, "state_dict": TabICL(**small).state_dict()}, regressor)
    torch.save({"config": SHAPE | {"embed_dim": 32}, "state_dict": torch.load(checkpoint, weights_only=True)["state_dict"]}, wrong)
    torch.save({"config": SHAPE, "state_dict": Runs(tmp_path / "ran")}, evil)
    for file in (plain, archive, other, regressor, wrong, evil):
        with pytest.raises(ArtifactError) as caught:
            in_context.check(file)
        assert caught.value.code == "artifact.checkpoint"
    assert not (tmp_path / "ran").exists()


class Runs:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_without_the_extra_the_command_says_so_before_the_work(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "tabicl":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "tabicl")
    monkeypatch.setattr(builtins, "__import__", missing)
    answer = CliRunner().invoke(commands.app, ["run", str(tmp_path), "--checkpoint", str(checkpoint)])
    assert isinstance(answer.exception, ResourceError)
    assert "trafficllm[tabicl]" in answer.exception.hint
