"""Applying calibration gives what fitting meant, method by method."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trafficllm.core import calibration as formulas
from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import Scores
from trafficllm.evaluate import calibrate, unknown
from trafficllm.infer import calibration

LABELS = tuple("abcdef")


def _rows(n: int, seed: int) -> tuple[Scores, list[str]]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, n)
    logits = formulas.log_softmax(rng.normal(size=(n, 6)) + 3 * np.eye(6)[truth])
    hidden = (rng.normal(size=(n, 24)) + 4 * np.eye(24)[truth]).astype(np.float32)
    states = (hidden, hidden[:, ::-1].copy(), (logits * 3 + 1).astype(np.float32))
    return Scores(LABELS, np.exp(logits), logits, *states), [LABELS[i] for i in truth]


def test_a_fitted_calibration_travels_as_json() -> None:
    train, y_train = _rows(300, 2)
    val, y_val = _rows(300, 3)
    assert val.hidden is not None
    assert val.pooled is not None
    assert val.readout is not None
    states = {"hidden": val.hidden.astype(float), "pooled": val.pooled.astype(float)}
    assert calibrate.fit(val.logits, y_val, LABELS, train=(train, y_train), **states).unknown["method"] == "nearest"
    states["readout"] = val.readout.astype(float)
    fitted = calibrate.fit(val.logits, y_val, LABELS, train=(train, y_train), **states)
    assert fitted.unknown["method"] == "nearest_energy"
    stored = json.loads(json.dumps(fitted.as_dict()))
    p = calibration.apply(stored, val.logits)
    assert np.allclose(p, np.exp(formulas.log_softmax(val.logits / fitted.temperature)))
    alarms = (calibration.unknown_score(stored, val) > calibration.threshold(stored)).mean()
    assert alarms <= 0.055


def test_without_a_fit_nothing_is_unknown() -> None:
    scores, _ = _rows(10, 4)
    assert calibration.threshold({}) == float("inf")
    assert np.allclose(calibration.unknown_score({}, scores), 1 - scores.probabilities.max(axis=1))


def test_a_foreign_method_or_missing_states_are_refused() -> None:
    scores, y = _rows(50, 5)
    with pytest.raises(ArtifactError, match="magic"):
        calibration.unknown_score({"unknown": {"method": "magic"}}, scores)
    params = unknown.fit("knn", calibrate.rows_of(scores, y))
    bare = Scores(scores.labels, scores.probabilities, scores.logits)
    for method in ("knn", "typical", "faint", "joint", "nearest", "nearest_energy"):
        with pytest.raises(ArtifactError, match="hidden"):
            calibration.unknown_score({"unknown": {"method": method, "params": params}}, bare)


def test_a_scorer_without_hidden_states_gets_the_score_that_needs_none() -> None:
    train, val = _rows(300, 2), _rows(300, 3)
    assert val[0].pooled is not None
    fitted = calibrate.fit(val[0].logits, val[1], LABELS, train=train, pooled=val[0].pooled.astype(float)).as_dict()
    assert fitted["unknown"]["method"] == "nearest"
    other, _ = _rows(400, 6)
    bare = Scores(other.labels, other.probabilities, other.logits)
    alarms = calibration.unknown_score(fitted, bare) > calibration.threshold(fitted)
    kept = fitted["unknown"]["bare"]
    own = formulas.unknown_score(kept["method"], kept["params"], calibrate.rows_of(bare), fitted["temperature"])
    assert alarms.tolist() == (own > kept["threshold"]).tolist()
    assert 0.0 < alarms.mean() < 0.12
