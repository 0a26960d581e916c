"""An update of known labels corrects the readouts: weights stay, new captures count for half, the held-out ones are learnt at last."""

from __future__ import annotations

from pathlib import Path

import infer_samples as samples
import learn_samples as made_of
import numpy as np
import torch

from trafficllm.core.settings import TuneOptions
from trafficllm.infer.engine.scorer import WEIGHT
from trafficllm.lifecycle.adapters import learn, update
from trafficllm.lifecycle.adapters.training import Training
from trafficllm.lifecycle.calibration.renewed import SHARE, row_weights
from trafficllm.model.adapter.guard import WEIGHTS
from trafficllm.model.adapter.readout import Readout, logistic
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import get_task
from trafficllm.registry import members
from trafficllm.registry.store import Registry

TASK = get_task("EAC")
OPTIONS = TuneOptions(max_steps=4, batch_tokens=1024, looks=0, seed=3, learning_rate=5e-3)


def test_new_captures_count_for_half_each_alike() -> None:
    weights = row_weights(["old"] * 60 + ["p"] * 4 + ["q"], [False] * 60 + [True] * 5)
    assert weights[:60].tolist() == [1.0] * 60
    assert weights[60:].sum() == 60 * SHARE / (1 - SHARE)
    assert weights[60:64].sum() == weights[64]
    many = row_weights(["old"] * 3 + ["p"] * 9, [False] * 3 + [True] * 9)
    assert many.tolist() == [1.0] * 12, "new flows that are the majority anyway are not made less of"


def test_a_correction_starts_from_what_is_known() -> None:
    rng = np.random.default_rng(0)
    states = torch.tensor(rng.normal(size=(60, 5)), dtype=torch.float32)
    y = (states[:, 0] > 0).long()
    known = torch.stack([-8 * states[:, 0], 8 * states[:, 0]], 1)
    matrix, bias = logistic(states, y, torch.ones(2), 0.003, offset=known)
    assert ((states @ matrix + bias + known).argmax(1) == y).all()
    assert matrix.abs().max() < 0.05, "nothing is to be corrected"
    wrong, _ = logistic(states, y, torch.ones(2), 0.003, offset=-known)
    assert wrong.abs().max() > 4 * matrix.abs().max()


def test_weights_stay_and_every_members_readout_moves(tmp_path: Path) -> None:
    old = made_of.data_set(tmp_path / "old", ("DNS", "HTTP"), seed=1)
    made_of.data_set(tmp_path / "new", ("DNS", "HTTP"), seed=2)
    base = load_base(samples.write_base(tmp_path / "base"), dtype="float32")
    registry = Registry(tmp_path / "registry")
    learn.register(old, Training(base, registry, tmp_path / "w1", OPTIONS, baselines=False, members=2), task=TASK)
    body = update.update(tmp_path / "new", Training(base, registry, tmp_path / "w2", OPTIONS, baselines=False), task=TASK)
    before, after = (registry.show("EAC", name) for name in ("v0001", "v0002"))
    assert body.added_labels == []
    assert set(body.more_captures) == {"new", "old"}
    for one, other in zip(members.folders(before.path), members.folders(after.path), strict=True):
        assert (one / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
        past, now = Readout.load(one), Readout.load(other)
        assert past is not None
        assert now is not None
        assert now.labels == past.labels
        assert not torch.equal(past.matrix, now.matrix)
    assert after.manifest["calibration"][WEIGHT] == 1.0
    assert [row["seed"] for row in after.manifest["members"]] == [3, 4]
    assert after.manifest["members"] == before.manifest["members"]
