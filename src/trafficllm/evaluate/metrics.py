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
    """Unweighted mean F1 over the labels that occur in `y_true`; 0 for no rows.

    >>> round(macro_f1(["a", "b"], ["a", "a", "b"], ["a", "b", "b"]), 3)
    0.667
    """
    table = per_class(labels, confusion(labels, y_true, y_pred))
    present = [row["f1"] for row in table.values() if row["support"]]
    return float(np.mean(present)) if present else 0.0


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
    known = truth >= 0
    target[np.flatnonzero(known), truth[known]] = 1.0
    return float(np.mean(((probabilities - target) ** 2).sum(axis=1)))


def auroc(unknown: F64, known: F64) -> float:
    """P(unknown row scores above known row), ties half (Mann-Whitney); .5 where one side is empty."""
    if not len(unknown) or not len(known):
        return 0.5
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, side="left")
    upto = np.searchsorted(ordered, unknown, side="right")
    return float((below + upto).sum() / (2.0 * len(unknown) * len(known)))


def threshold_at(known: F64, share: float = 0.05) -> float:
    """The smallest of the known scores that at most `share` of them exceed; +inf for no rows."""
    if not len(known):
        return float("inf")
    ordered = np.sort(known)
    return float(ordered[len(ordered) - 1 - int(np.floor(share * len(ordered)))])


def found_at(unknown: F64, known: F64, share: float = 0.05) -> float:
    """Share of unknown rows above the threshold with `share` false alarms on `known` (TPR at 5 % FPR)."""
    return float((unknown > threshold_at(known, share)).mean()) if len(unknown) else 0.0


def missed_at(unknown: F64, known: F64, share: float = 0.95) -> float:
    """Share of known rows called unknown by the threshold that finds `share` of the unknown ones (FPR at 95 % TPR)."""
    if not len(unknown) or not len(known):
        return 0.0
    ordered = np.sort(unknown)
    return float((known >= ordered[int(np.floor((1.0 - share) * len(ordered)))]).mean())


def risk_coverage(confidence: F64, correct: F64, points: int = 101) -> list[dict[str, float]]:
    """Error among the most confident share of rows, for `points` shares from 1/points to 1."""
    if not len(confidence):
        return []
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(1.0 - correct[order])
    kept = np.unique(np.ceil(np.linspace(0, 1, points)[1:] * len(order)).astype(int))
    return [{"coverage": float(k / len(order)), "risk": float(wrong[k - 1] / k)} for k in kept]
