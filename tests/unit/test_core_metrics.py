from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score, roc_auc_score

from trafficllm.core import metrics
from trafficllm.core.sampling import evenly_over_labels, every_nth

LABELS = ["a", "b", "c"]


def _rows(n: int = 200, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    truth = [LABELS[i] for i in rng.integers(0, 3, n)]
    return truth, [t if rng.random() < 0.7 else LABELS[int(rng.integers(3))] for t in truth]


def test_macro_f1_agrees_with_scikit_learn() -> None:
    truth, guess = _rows()
    assert metrics.macro_f1(LABELS, truth, guess) == pytest.approx(f1_score(truth, guess, average="macro"))


def test_a_prediction_outside_the_labels_is_wrong_not_missing() -> None:
    assert metrics.confusion(LABELS, ["a", "b"], ["unknown", "b"]).tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="not one of"):
        metrics.confusion(LABELS, ["z"], ["a"])


def test_auroc_agrees_with_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(1)
    unknown, known = rng.integers(0, 9, 80).astype(float) + 2, rng.integers(0, 9, 120).astype(float)
    truth = np.r_[np.ones(80), np.zeros(120)]
    assert metrics.auroc(unknown, known) == pytest.approx(roc_auc_score(truth, np.r_[unknown, known]))


def test_threshold_keeps_false_alarms_at_or_under_the_share() -> None:
    rng = np.random.default_rng(2)
    for n in (1, 7, 20, 333):
        known = rng.normal(size=n)
        assert (known > metrics.threshold_at_fpr(known, 0.05)).mean() <= 0.05
    assert metrics.tpr_at_fpr(np.full(4, 9.0), known) == 1.0


def test_ece_and_brier_of_a_known_case() -> None:
    p = np.array([[0.8, 0.2]] * 10)
    truth = np.array([0] * 8 + [1] * 2)
    assert metrics.ece(p, truth) == pytest.approx(0.0)
    assert metrics.ece(p, np.zeros(10, dtype=np.int64)) == pytest.approx(0.2)
    assert metrics.brier(p, truth) == pytest.approx(2 * brier_score_loss(truth, p[:, 1]))


def test_risk_falls_with_coverage_when_confidence_is_good() -> None:
    confidence = np.linspace(1, 0, 100)
    rows = metrics.risk_coverage(confidence, (confidence > 0.5).astype(float), points=10)
    assert rows[0]["risk"] == 0.0
    assert rows[-1] == {"coverage": 1.0, "risk": pytest.approx(0.5)}


def test_macro_f1_of_indices_is_that_of_names() -> None:
    truth, guess = _rows()
    place = {label: k for k, label in enumerate(LABELS)}
    truth, guess = [*truth, "c", "a"], [*guess, "unknown", "unknown"]
    codes = [[place.get(label, -1) for label in side] for side in (truth, guess)]
    assert metrics.macro_f1_of_indices(*codes, 3) == metrics.macro_f1(LABELS, truth, guess)
    assert metrics.macro_f1_of_indices([0, 1, -1], [0, 0, 1], 2) == pytest.approx(1 / 3), "rows without a truth are left out"
    assert metrics.macro_f1_of_indices([0, 1], [2, 2], 3) == 0.0
    assert metrics.macro_f1_of_indices([], [], 3) == 0.0


def test_rates_at_a_threshold() -> None:
    negative, positive = np.arange(100.0), np.arange(90.0, 110.0)
    assert metrics.threshold_at_fpr(negative, 0.05) == 94.0
    assert metrics.tpr_at_fpr(positive, negative, 0.05) == pytest.approx(15 / 20)
    assert metrics.fpr_at_tpr(positive, negative, 0.95) == pytest.approx(9 / 100)
    assert metrics.auroc(positive, negative[:0]) == 0.5


def test_rows_are_thinned_evenly_over_labels() -> None:
    y = ["a"] * 90 + ["b"] * 5 + ["c"] * 30
    drawn = [y[k] for k in evenly_over_labels(y, 30)]
    assert drawn.count("b") == 5
    assert 8 <= drawn.count("a") <= 10
    assert 8 <= drawn.count("c") <= 10
    assert every_nth([], 3) == []
    assert every_nth([1, 2], 0) == [1, 2]
    assert all(len(every_nth(list(range(n)), most)) <= most for n in range(40) for most in range(1, 40))
