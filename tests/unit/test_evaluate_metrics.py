from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score, roc_auc_score

from trafficllm.evaluate import bootstrap, metrics

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
        assert (known > metrics.threshold_at(known, 0.05)).mean() <= 0.05
    assert metrics.found_at(np.full(4, 9.0), known) == 1.0


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


def test_bootstrap_point_equals_macro_f1() -> None:
    truth, guess = _rows()
    counts = bootstrap.count_groups(LABELS, truth, guess, [i % 11 for i in range(200)])
    assert counts.macro_f1(np.ones((1, 11)))[0] == pytest.approx(metrics.macro_f1(LABELS, truth, guess))


def test_interval_is_seeded_holds_the_point_and_widens_with_fewer_groups() -> None:
    truth, guess = _rows(600)
    many = [bootstrap.count_groups(LABELS, truth, guess, list(range(600)))]
    few = [bootstrap.count_groups(LABELS, truth, guess, sorted(i % 6 for i in range(600)))]
    low, high = bootstrap.interval(many)
    assert bootstrap.interval(many) == (low, high)
    assert low < metrics.macro_f1(LABELS, truth, guess) < high
    assert high - low > 0.02
    assert bootstrap.interval([bootstrap.count_groups(LABELS, truth, guess, [0] * 600)]) == (0.0, 1.0)
    assert len(few[0].true) == 6


def test_grouped_interval_is_wider_when_groups_agree() -> None:
    truth = ["a", "b"] * 300
    group = [i // 60 for i in range(600)]
    guess = [t if g % 2 else "a" for t, g in zip(truth, group, strict=True)]
    wide = bootstrap.interval([bootstrap.count_groups(["a", "b"], truth, guess, group)])
    narrow = bootstrap.interval([bootstrap.count_groups(["a", "b"], truth, guess, list(range(600)))])
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_paired_lower_bound() -> None:
    truth, guess = _rows(600)
    group = [i % 40 for i in range(600)]
    better = bootstrap.paired(LABELS, truth, guess, truth, group)
    assert better.after == 1.0
    assert better.lower > 0.1
    same = bootstrap.paired(LABELS, truth, guess, guess, group)
    assert same.lower == 0.0
    assert bootstrap.paired(LABELS, truth, truth, guess, group).lower < -0.1
    assert bootstrap.paired(LABELS, truth, guess, truth, [0] * 600).lower == -1.0
