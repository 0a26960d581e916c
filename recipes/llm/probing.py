"""Probes of frozen states, as `evaluate transfer` has them, at a cost that follows the few rows learnt from and not the states' width.

The linear probe's penalty does not change when its columns are rotated, so it is fitted in the space that its training rows span: the same
model, for 400 rows of 5,760 columns at a fourteenth of the work.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trafficllm.core.metrics import macro_f1_of_indices
from trafficllm.evaluate.baselines.frozen import Scale, nearest

Matrix: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int64]
Fit: TypeAlias = Callable[[Matrix, Labels, Matrix, float], Labels]


def _logistic(train: Matrix, y: Labels, judged: Matrix, strength: float) -> Labels:
    """Logistic regression, classes weighed alike, on rotated columns."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y)) < 2:
        return np.full(len(judged), y[0])
    if train.shape[1] > len(train):
        axes = np.linalg.svd(train, full_matrices=False)[2].T
        train, judged = train @ axes, judged @ axes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=200, class_weight="balanced").fit(train, y)
    return np.asarray(model.predict(judged), dtype=np.int64)


def _vote(train: Matrix, y: Labels, judged: Matrix, neighbours: float) -> Labels:
    """The label with most similarity among the nearest rows."""
    places, near = nearest(train.astype(np.float32), judged.astype(np.float32), int(neighbours))
    votes = np.zeros((len(judged), int(y.max()) + 1))
    for column in range(places.shape[1]):
        np.add.at(votes, (np.arange(len(judged)), y[places[:, column]]), np.maximum(near[:, column], 0.0) + 1e-6)
    return np.asarray(votes.argmax(axis=1), dtype=np.int64)


def _chosen(fit: Fit, train: npt.NDArray[np.float32], y: Labels, judged: npt.NDArray[np.float32], settings: Sequence[float]) -> Labels:
    """Labels of the judged rows by the setting that does best in two-fold cross-validation on the training rows."""
    scale = Scale.of(train)
    rows, classes = scale(train), int(y.max()) + 1

    def score(setting: float) -> float:
        folds = [(rows[h::2], y[h::2], rows[1 - h :: 2], y[1 - h :: 2]) for h in (0, 1)]
        return float(np.mean([macro_f1_of_indices(truth, fit(a, b, seen, setting), classes) for a, b, seen, truth in folds]))

    return fit(rows, y, scale(judged), max(settings, key=score))


def linear(train: npt.NDArray[np.float32], y: Labels, judged: npt.NDArray[np.float32], strengths: Sequence[float]) -> Labels:
    """Label numbers [n] of judged states by logistic regression on `train` [rows, width] with labels `y`.

    >>> few, y = np.array([[0, 9], [0, 8], [9, 0], [8, 0]], np.float32), np.array([0, 0, 1, 1])
    >>> linear(few, y, np.array([[1, 7], [7, 1]], np.float32), [0.1, 1.0]).tolist()
    [0, 1]
    """
    return _chosen(_logistic, train, y, judged, strengths)


def knn(train: npt.NDArray[np.float32], y: Labels, judged: npt.NDArray[np.float32], neighbours: Sequence[float]) -> Labels:
    """Label numbers [n] of judged states by the nearest of `train`, by cosine of standardised columns.

    >>> few, y = np.array([[0, 9], [0, 8], [9, 0], [8, 0]], np.float32), np.array([0, 0, 1, 1])
    >>> knn(few, y, np.array([[1, 7], [7, 1]], np.float32), [1]).tolist()
    [0, 1]
    """
    return _chosen(_vote, train, y, judged, neighbours)
