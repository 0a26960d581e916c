"""Scores of a classifier from label names or probabilities: numpy only, each figure defined once.

A prediction that is no label of the task ("unknown", a typo) counts as wrong, never as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from trafficllm.core.types import F64, I64


def indices(labels: Sequence[str], values: Iterable[str]) -> I64:
    """Position of each value in `labels`, int64 [n]; -1 where it is not one of them."""
    place = {label: i for i, label in enumerate(labels)}
    return np.array([place.get(value, -1) for value in values], dtype=np.int64)


def confusion(labels: Sequence[str], y_true: Sequence[str], y_pred: Sequence[str]) -> I64:
    """Counts [labels, labels + 1]: row = truth, column = prediction, the last column for anything else.

    Raises ValueError when the two differ in length or a truth is not in `labels`.
    """
    if len(y_true) != len(y_pred):
        raise ValueError(f"{len(y_true)} truths but {len(y_pred)} predictions")
    truth, guess = indices(labels, y_true), indices(labels, y_pred)
    if (truth < 0).any():
        raise ValueError(f"label {y_true[int(np.argmin(truth))]!r} is not one of the task's")
    width = len(labels) + 1
    guess = np.where(guess < 0, width - 1, guess)
    counts = np.bincount(truth * width + guess, minlength=len(labels) * width)
    return counts.reshape(len(labels), width).astype(np.int64)


def f1(true_positive: F64, true: F64, predicted: F64) -> F64:
    """F1 = 2 TP / (true + predicted), 0 where both are 0; any equal shapes."""
    total = true + predicted
    return np.divide(2.0 * true_positive, total, out=np.zeros_like(total, dtype=np.float64), where=total > 0)


def per_class(labels: Sequence[str], counts: I64) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each label, from `confusion` counts."""
    hit = counts.diagonal().astype(np.float64)
    true = counts.sum(axis=1).astype(np.float64)
    predicted = counts.sum(axis=0)[: len(labels)].astype(np.float64)
    score = f1(hit, true, predicted)
    return {
        label: {
            "precision": float(hit[i] / predicted[i]) if predicted[i] else 0.0,
            "recall": float(hit[i] / true[i]) if true[i] else 0.0,
            "f1": float(score[i]),
            "support": int(true[i]),
        }
        for i, label in enumerate(labels)
    }


def macro_f1(labels: Sequence[str], y_true: Sequence[str], y_pred: Sequence[str]) -> float:
    """Unweighted mean F1 over the labels that occur in `y_true`; 0 for no rows. ValueError where a truth is not in `labels`.

    >>> round(macro_f1(["a", "b"], ["a", "a", "b"], ["a", "b", "b"]), 3)
    0.667
    """
    return _mean_f1(confusion(labels, y_true, y_pred))


def macro_f1_of_indices(truth: Sequence[int] | I64, predicted: Sequence[int] | I64, classes: int) -> float:
    """`macro_f1` of class indices in 0..classes-1; rows whose truth is -1 are left out, a prediction of -1 is wrong.

    >>> macro_f1_of_indices([0, 0, 1], [0, 0, 0], 2)
    0.4
    """
    rows, columns = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    judged = rows >= 0
    column = np.where(columns < 0, classes, columns)[judged]
    counts = np.bincount(rows[judged] * (classes + 1) + column, minlength=classes * (classes + 1))
    return _mean_f1(counts.reshape(classes, classes + 1))


def _mean_f1(counts: I64) -> float:
    """Mean F1 over the rows of `confusion` counts that have any."""
    true = counts.sum(axis=1).astype(np.float64)
    scores = f1(counts.diagonal().astype(np.float64), true, counts.sum(axis=0)[:-1].astype(np.float64))
    return float(scores[true > 0].mean()) if true.any() else 0.0


def accuracy(y_true: Sequence[str], y_pred: Sequence[str]) -> float:
    """Share of rows where both are equal; 0 for no rows."""
    return float(np.mean([a == b for a, b in zip(y_true, y_pred, strict=True)])) if len(y_true) else 0.0


def reliability(confidence: F64, correct: F64, bins: int = 15) -> list[dict[str, float]]:
    """Equal-width bins of confidence: share of rows, mean confidence, accuracy of each non-empty bin."""
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    rows = []
    for b in range(bins):
        inside = place == b
        if inside.any():
            rows.append(
                {"share": float(inside.mean()), "confidence": float(confidence[inside].mean()), "accuracy": float(correct[inside].mean())}
            )
    return rows


def ece(probabilities: F64, truth: I64, bins: int = 15) -> float:
    """Expected calibration error of the top label (Guo et al. 2017), 15 equal bins. 0 for no rows."""
    if not len(truth):
        return 0.0
    correct = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    table = reliability(probabilities.max(axis=1), correct, bins)
    return float(sum(row["share"] * abs(row["confidence"] - row["accuracy"]) for row in table))


def brier(probabilities: F64, truth: I64) -> float:
    """Multi-class Brier score: mean squared distance to the one-hot truth, in [0, 2]."""
    if not len(truth):
        return 0.0
    target = np.zeros_like(probabilities)
    labelled = truth >= 0
    target[np.flatnonzero(labelled), truth[labelled]] = 1.0
    return float(np.mean(((probabilities - target) ** 2).sum(axis=1)))


def auroc(positive: F64, negative: F64) -> float:
    """Area under the ROC curve: P(a positive row scores above a negative one), ties half (Mann-Whitney); .5 where one side is empty.

    >>> auroc(np.array([0.9, 0.2]), np.array([0.2, 0.1]))
    0.875
    """
    if not len(positive) or not len(negative):
        return 0.5
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    upto = np.searchsorted(ordered, positive, side="right")
    return float((below + upto).sum() / (2.0 * len(positive) * len(negative)))


def threshold_at_fpr(negative: F64, fpr: float = 0.05) -> float:
    """The smallest negative score that at most a share `fpr` of them exceed; +inf for no rows."""
    if not len(negative):
        return float("inf")
    ordered = np.sort(negative)
    return float(ordered[len(ordered) - 1 - int(np.floor(fpr * len(ordered)))])


def tpr_at_fpr(positive: F64, negative: F64, fpr: float = 0.05) -> float:
    """Share of positive rows above the threshold that a share `fpr` of negative rows exceed."""
    return float((positive > threshold_at_fpr(negative, fpr)).mean()) if len(positive) else 0.0


def fpr_at_tpr(positive: F64, negative: F64, tpr: float = 0.95) -> float:
    """Share of negative rows at or above the threshold that a share `tpr` of positive rows reach."""
    if not len(positive) or not len(negative):
        return 0.0
    ordered = np.sort(positive)
    return float((negative >= ordered[int(np.floor((1.0 - tpr) * len(ordered)))]).mean())


def risk_coverage(confidence: F64, correct: F64, points: int = 101) -> list[dict[str, float]]:
    """Error among the most confident share of rows, for `points` shares from 1/points to 1."""
    if not len(confidence):
        return []
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(1.0 - correct[order])
    answered = np.unique(np.ceil(np.linspace(0, 1, points)[1:] * len(order)).astype(int))
    return [{"coverage": float(n / len(order)), "risk": float(wrong[n - 1] / n)} for n in answered]
