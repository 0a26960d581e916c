"""One-field models: which single column tells the label? Numpy only, thousands of columns a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trafficllm.core.types import F64, I64
from trafficllm.evaluate.metrics import f1

BINS = 64


@dataclass(frozen=True, slots=True)
class FieldModel:
    """Majority class of each bin of one column: `edges` [bins - 1], `answer` int64 [bins] class indices."""

    column: int
    edges: F64
    answer: I64

    def predict(self, X: F64) -> I64:
        """Class index of each row of the full matrix."""
        return self.answer[np.searchsorted(self.edges, X[:, self.column], side="right")]


def _edges(values: F64) -> F64:
    """At most 63 cuts: between all distinct values where they are few, else at quantiles."""
    distinct = np.unique(values)
    if len(distinct) <= BINS:
        return np.asarray((distinct[1:] + distinct[:-1]) / 2.0, dtype=np.float64)
    return np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))


def fit_field(X: F64, y: I64, column: int, classes: int) -> FieldModel:
    """Fit the majority class of each bin; classes weigh equally, as in macro-F1. `y` in 0..classes-1."""
    values = X[:, column]
    edges = _edges(values)
    place = np.searchsorted(edges, values, side="right")
    weight = 1.0 / np.maximum(np.bincount(y, minlength=classes), 1)
    counts = np.bincount(place * classes + y, weights=weight[y], minlength=(len(edges) + 1) * classes)
    return FieldModel(column, edges, counts.reshape(-1, classes).argmax(axis=1).astype(np.int64))


def macro(truth: I64, guess: I64, classes: int) -> float:
    """Macro-F1 of class indices over classes that occur; a truth of -1 is left out."""
    known = truth >= 0
    truth, guess = truth[known], guess[known]
    true = np.bincount(truth, minlength=classes).astype(np.float64)
    predicted = np.bincount(guess, minlength=classes).astype(np.float64)
    hit = np.bincount(truth[truth == guess], minlength=classes).astype(np.float64)
    present = true > 0
    return float(f1(hit, true, predicted)[present].mean()) if present.any() else 0.0


def field_scores(X: F64, y: I64, X_val: F64, y_val: I64, classes: int) -> list[tuple[float, FieldModel]]:
    """Validation macro-F1 of each column's one-field model, best first; constant columns left out."""
    varies = np.flatnonzero((X[:1] != X).any(axis=0)) if len(X) else np.array([], dtype=np.int64)
    models = [fit_field(X, y, int(column), classes) for column in varies]
    scored = [(macro(y_val, model.predict(X_val), classes), model) for model in models]
    return sorted(scored, key=lambda pair: (-pair[0], pair[1].column))


def field_of(name: str) -> str:
    """The field a column belongs to: `size[3]` -> `size`, `payload.orig[7]` -> `payload.orig`."""
    return name.split("[", 1)[0]


def best_by_field(
    names: Sequence[str], X: F64, y: I64, *, X_val: F64, y_val: I64, classes: int
) -> dict[str, float]:
    """Best single-column validation macro-F1 of each field, best field first."""
    best: dict[str, float] = {}
    for score, model in field_scores(X, y, X_val, y_val, classes):
        best.setdefault(field_of(names[model.column]), score)
    return best
