"""Cross-fitted calibration: no row is scored by a readout that has learnt its capture, and the readout that serves has learnt all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import infer_samples
import learn_samples
import numpy as np
import pytest
import torch

from trafficllm.core.calibration import log_softmax
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Scores
from trafficllm.evaluate import unknown
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import WEIGHT, LLMScorer
from trafficllm.lifecycle.adapters import learn
from trafficllm.lifecycle.calibration import crossfit
from trafficllm.lifecycle.studies import scoring
from trafficllm.model.adapter.readout import FILE, Readout, features_of
from trafficllm.model.base.load import load_base
from trafficllm.model.tuning.job import tune_task
from trafficllm.records.catalog import get_task

TASK = get_task("EAC")


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("calibration")
    base = load_base(infer_samples.write_base(place / "base"), dtype="float32")
    data = learn_samples.data_set(place / "data", ("DNS", "HTTP", "QUIC"), seed=1)
    tune_task(base, learn.tune_data(data), place / "tuned", TuneOptions(max_steps=3, batch_tokens=1024, looks=0))
    return {"place": place, "base": base, "data": data}


def _scorer(made: dict[str, Any]) -> LLMScorer:
    engine = Engine(made["base"])
    engine.add_adapter("a", made["place"] / "tuned")
    return LLMScorer(engine, "a", TASK, scoring.labels_of(made["data"]), codec=made["data"].codec)


def _learning(groups: list[str], y: list[int], seed: int = 0) -> crossfit.Learning:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(y), 6)).astype(np.float32)
    features[np.arange(len(y)), y] += 4
    logits = log_softmax(rng.normal(size=(len(y), 3)))
    scores = Scores(("a", "b", "c"), np.exp(logits), logits, features=features)
    return crossfit.Learning(list(range(len(y))), np.array(y), groups, scores, len(y) // 2)


def test_folds_keep_captures_whole_and_rows_go_round_where_there_are_too_few() -> None:
    groups = [f"g{k % 12}" for k in range(50)]
    folds = crossfit.capture_folds(groups)
    assert len({(group, fold) for group, fold in zip(groups, folds.tolist(), strict=True)}) == 12
    assert set(folds.tolist()) == set(range(5))
    assert crossfit.capture_folds(["one"] * 7).tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_a_capture_is_scored_without_itself() -> None:
    groups = [f"g{k // 6}" for k in range(72)]
    learning = _learning(groups, [k % 3 for k in range(72)])
    logits, counts = learning.left_out()
    assert counts.all()
    assert (logits.argmax(axis=1) == learning.y).mean() > 0.9
    own = np.array([group == "g4" for group in groups])
    wrong = replace(learning, y=np.where(own, (learning.y + 1) % 3, learning.y))
    changed = wrong.left_out()[0]
    assert np.array_equal(changed[own], logits[own]), "what a capture says of itself is not heard"
    assert not np.allclose(changed[~own], logits[~own])


def test_a_label_of_one_capture_alone_says_nothing() -> None:
    groups = [f"g{k // 6}" for k in range(72)]
    y = [2 if group == "g3" else k % 2 for k, group in enumerate(groups)]
    counts = _learning(groups, y).left_out()[1]
    assert [bool(c) for c in counts] == [group != "g3" for group in groups]


def test_the_engine_gives_the_states_that_a_readout_reads(made: dict[str, Any]) -> None:
    scorer, data = _scorer(made), made["data"]
    records = data.records(data.indices("val"))
    scores = scorer.score(records, features=True)
    own = scorer.engine.readout("a", scorer.labels)
    assert own is not None
    assert scores.features is not None
    assert scores.readout is not None
    assert np.allclose(own.logits(torch.from_numpy(scores.features)).numpy(), scores.readout, atol=1e-4)
    with scorer.engine.using("a") as model:
        again = features_of(model, scorer.ids(records), own.layers, own.first).numpy()
    assert np.allclose(scores.features, again, atol=1e-4)
    assert scorer.score(records).features is None


def test_the_readout_learns_validation_and_calibration_comes_without_its_captures(made: dict[str, Any]) -> None:
    scorer, data = _scorer(made), made["data"]
    cross = crossfit.cross_fit(scorer, data, seed=0)
    assert cross is not None
    assert scorer.calibration == {}
    val = data.indices("val")
    assert set(val) <= set(cross.answers)
    assert set(cross.answers) <= set(val)
    assert cross.calibration["unknown"]["method"] == "nearest_energy"
    assert cross.calibration["n"] == len(val)
    assert 0 <= cross.calibration[WEIGHT] <= 1
    learning = crossfit._learning(scorer, data)
    assert learning is not None
    train = slice(learning.held_out, None)
    matrix, _ = crossfit.fitted(learning.features[0][train], learning.y[train], len(scorer.labels))
    assert not np.allclose(matrix, cross.readouts[0].matrix.numpy(), atol=1e-3), "validation rows are learnt too"


def test_finishing_a_folder_writes_its_readout_and_is_repeatable(made: dict[str, Any]) -> None:
    folder = made["place"] / "tuned"
    before = Readout.load(folder)
    first = crossfit.finish(made["base"], made["data"], TASK, folder)
    data = (folder / FILE).read_bytes()
    assert crossfit.finish(made["base"], made["data"], TASK, folder) == first
    assert (folder / FILE).read_bytes() == data
    after = Readout.load(folder)
    assert before is not None
    assert after is not None
    assert not torch.equal(before.matrix, after.matrix)


def test_without_a_readout_nothing_is_fitted(made: dict[str, Any], tmp_path: Path) -> None:
    data = made["data"]
    plain = infer_samples.write_adapter(made["place"] / "base", tmp_path / "plain", seed=0)
    assert crossfit.finish(made["base"], data, TASK, plain) is None
    assert not (plain / FILE).exists()


def test_the_unknown_threshold_counts_captures_alike_and_flows_alike() -> None:
    scores = np.concatenate([np.linspace(0, 1, 1000), np.full(38, 5.0), np.full(2, 9.0)])
    groups = ["large"] * 1000 + [f"g{k}" for k in range(38)] + ["h0", "h1"]
    assert unknown.capture_threshold(scores, groups) == 5.0, "2 of 41 captures may lie above, the flows of one are not enough"
    assert unknown.capture_threshold(scores[:1000], ["large"] * 1000) is None
    many = [f"g{k % 50}" for k in range(1000)]
    high = unknown.capture_threshold(scores[:1000], many)
    assert high is not None
    assert (scores[:1000] > high).mean() == pytest.approx(0.05, abs=0.002)


def test_distances_are_to_other_captures_where_a_capture_is_scored_as_new() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 8)
    pooled = rng.normal(size=(10, 40))[groups] + 0.01 * rng.normal(size=(80, 40))
    readout = rng.normal(size=(80, 3))
    rows = unknown.Rows(log_softmax(readout), np.arange(80) % 3, None, pooled, readout)
    params = unknown.fit("nearest_energy", rows, val=rows)
    fitted = {"method": "nearest_energy", "params": params}
    inside = unknown.unknown_score("nearest_energy", params, rows, 1.0)
    bank = np.ones(80, dtype=bool)
    outside = unknown.without_own_capture(fitted, rows, bank, groups, 1.0)
    assert (outside > inside + 1).all(), "its own capture is what made each row look known"
    same = unknown.without_own_capture({"method": "energy", "params": {"temperature": 2.0}}, rows, bank, groups, 1.0)
    assert np.array_equal(same, unknown.unknown_score("energy", {"temperature": 2.0}, rows, 1.0))


def test_the_threshold_comes_from_all_learning_captures_where_there_are_twenty(made: dict[str, Any]) -> None:
    scorer, data = _scorer(made), made["data"]
    few = crossfit.cross_fit(scorer, data, seed=0)
    learning = crossfit._learning(scorer, data)
    assert few is not None
    assert learning is not None
    assert len(set(learning.groups)) < unknown.LEAST_CAPTURES
    many = replace(learning, groups=[f"{group}/{k % 4}" for k, group in enumerate(learning.groups)])
    first, second = (crossfit._calibration(each, 0)[0]["unknown"] for each in (learning, many))
    assert first["threshold"] == few.calibration["unknown"]["threshold"]
    assert second["threshold"] != first["threshold"]
    assert second["bare"]["threshold"] is not None
