"""One-field models: which single column tells the label? Numpy only, thousands of columns a second."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trafficllm.core.files import hash64
from trafficllm.core.metrics import macro_f1_of_indices
from trafficllm.core.types import F64, I64

BINS = 64
FOLDS = 5
LEAST_KNOWN = 0.2
"""A field that fewer flows have says nothing of the data set."""


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


def field_scores(X: F64, y: I64, X_val: F64, y_val: I64, classes: int) -> list[tuple[float, FieldModel]]:
    """Validation macro-F1 of each column's one-field model, best first; constant columns left out."""
    varies = np.flatnonzero((X[:1] != X).any(axis=0)) if len(X) else np.array([], dtype=np.int64)
    models = [fit_field(X, y, int(column), classes) for column in varies]
    scored = [(macro_f1_of_indices(y_val, model.predict(X_val), classes), model) for model in models]
    return sorted(scored, key=lambda pair: (-pair[0], pair[1].column))


def field_of(name: str) -> str:
    """The field a column belongs to: `size[3]` -> `size`, `payload.orig[7]` -> `payload.orig`."""
    return name.split("[", 1)[0]


def above_chance(truth: I64, guess: I64, classes: int) -> float:
    """How many deviations above chance: multi-class Matthews correlation (Gorodkin 2004) times the root of the rows."""
    if not len(truth):
        return 0.0
    true, told = np.bincount(truth, minlength=classes) / len(truth), np.bincount(guess, minlength=classes) / len(truth)
    spread = np.sqrt(max((1 - (told**2).sum()) * (1 - (true**2).sum()), 0.0))
    right = float((truth == guess).mean()) - float((true * told).sum())
    return right / float(spread) * float(np.sqrt(len(truth))) if spread > 0 else 0.0


def fold_of(y: Sequence[str], groups: Sequence[str]) -> I64:
    """Fold 0..4 of each row: whole groups, each label's groups dealt out in turn; a label of one group is parted by rows."""
    own: dict[str, Counter[str]] = {}
    for label, group in zip(y, groups, strict=True):
        own.setdefault(group, Counter())[label] += 1
    main = {group: min(count, key=lambda label: (-count[label], label)) for group, count in own.items()}
    dealt: Counter[str] = Counter()
    fold: dict[str, int] = {}
    for group in sorted(own, key=lambda g: (main[g], hash64(g.encode("utf-8", "replace")), g)):
        fold[group] = dealt[main[group]] % FOLDS
        dealt[main[group]] += 1
    alone = {label for label in set(y) if sum(label in count for count in own.values()) == 1}
    return np.array([i % FOLDS if label in alone else fold[group] for i, (label, group) in enumerate(zip(y, groups, strict=True))])


def _by_value(train: F64, y: I64, judged: F64, classes: int) -> I64:
    """The commonest class of each exact value; an unknown value answers with the commonest of all."""
    table, place = np.unique(train, return_inverse=True)
    counts = np.bincount(place * classes + y, minlength=len(table) * classes).reshape(-1, classes)
    at = np.minimum(np.searchsorted(table, judged), len(table) - 1)
    answer = np.where(table[at] == judged, counts[at].argmax(axis=1), counts.sum(axis=0).argmax())
    return np.asarray(answer, dtype=np.int64)


def by_accident(right: int, total: int, chance: float) -> float:
    """Probability of `right` or more right answers out of `total`, each right by `chance`: the binomial tail."""
    if not 0.0 < chance < 1.0 or not total:
        return 1.0
    whole = math.lgamma(total + 1)
    logs = (
        whole - math.lgamma(k + 1) - math.lgamma(total - k + 1) + k * math.log(chance) + (total - k) * math.log(1 - chance)
        for k in range(right, total + 1)
    )
    return min(sum(math.exp(value) for value in logs), 1.0)


@dataclass(frozen=True, slots=True)
class Question:
    """A question put to one field at a time: truths `y` [n] in 0..classes-1 and the `fold` of each row."""

    name: str
    y: I64
    fold: I64
    classes: int

    @classmethod
    def of(cls, name: str, y: Sequence[str], groups: Sequence[str]) -> Question:
        """The question whose answers are `y`."""
        names = sorted(set(y))
        index = {label: k for k, label in enumerate(names)}
        return cls(name, np.array([index[label] for label in y], dtype=np.int64), fold_of(y, groups), len(names))

    def ask(self, column: F64) -> tuple[float, float, float]:
        """Out-of-fold macro-F1 of this column alone, its deviations above chance, and the macro-F1 of chance.

        By exact value or by bins, whichever is better. Rows without a value (NaN) are not asked: what is missing may be due to
        another mark. Chance is the better of a coin and of always answering the commonest. All 0 where nothing can be asked.
        """
        filled = np.flatnonzero(~np.isnan(column))
        if len(filled) < LEAST_KNOWN * len(column) or len(np.unique(column[filled])) < 2 or len(np.unique(self.y[filled])) < 2:
            return 0.0, 0.0, 0.0
        values, y, fold = column[filled], self.y[filled], self.fold[filled]
        exact, binned = np.full_like(y, -1), np.full_like(y, -1)
        for k in range(FOLDS):
            train, judged = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            if len(train) and len(judged):
                exact[judged] = _by_value(values[train], y[train], values[judged], self.classes)
                binned[judged] = fit_field(values[train, None], y[train], 0, self.classes).predict(values[judged, None])
        told = [(macro_f1_of_indices(y, g, self.classes), above_chance(y, g, self.classes)) for g in (exact, binned) if (g >= 0).all()]
        common = np.full(len(y), np.bincount(y).argmax())
        chance = min(max(macro_f1_of_indices(y, common, self.classes), 1.0 / len(np.unique(y))), 0.99)
        return (*max(told, default=(0.0, 0.0)), chance)
