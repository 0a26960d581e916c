"""What frozen vectors know: k-NN and a linear probe on them, their nearest neighbours, a map in two dimensions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.core import metrics
from trafficllm.core.metrics import macro_f1_of_indices
from trafficllm.core.types import F64, I64

Vectors = npt.NDArray[np.float32]
NEIGHBOURS = (1, 5, 15)
STRENGTHS = (0.01, 0.1, 1.0)
_TSNE_FROM = 60
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Side:
    """Vectors [n, width] and their labels."""

    vectors: Vectors
    y: Sequence[str]


def unit(vectors: Vectors) -> F64:
    """Rows of length 1: distances then are those of directions (cosine)."""
    rows = np.asarray(vectors, dtype=np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and spread of training vectors: a few wide directions would otherwise be all the distance there is."""

    mean: F64
    spread: F64

    @classmethod
    def of(cls, vectors: Vectors) -> Scale:
        """From training vectors."""
        rows = np.asarray(vectors, dtype=np.float64)
        spread = rows.std(axis=0)
        return cls(rows.mean(axis=0), np.where(spread > 1e-9, spread, 1.0))

    def __call__(self, vectors: Vectors) -> F64:
        """Standardised columns."""
        return np.asarray((np.asarray(vectors, dtype=np.float64) - self.mean) / self.spread)


def nearest(bank: Vectors, vectors: Vectors, k: int = 5) -> tuple[I64, F64]:
    """Rows of the k nearest known vectors [n, k] and their cosine similarity, nearest first."""
    a, b = unit(bank), unit(vectors)
    k = min(k, len(a))
    places, near = np.zeros((len(b), k), dtype=np.int64), np.zeros((len(b), k))
    for start in range(0, len(b), _BLOCK):
        part = b[start : start + _BLOCK] @ a.T
        order = np.argsort(-part, axis=1, kind="stable")[:, :k]
        places[start : start + _BLOCK] = order
        near[start : start + _BLOCK] = np.take_along_axis(part, order, axis=1)
    return places, near


Probe = Callable[[F64, I64, F64, int, float], F64]


def _vote(train: F64, y: I64, judged: F64, width: int, k: float) -> F64:
    """Shares of the labels among the k nearest, weighted by similarity."""
    places, near = nearest(train.astype(np.float32), judged.astype(np.float32), int(k))
    weight = np.maximum(near, 0.0) + 1e-6
    out = np.zeros((len(judged), width))
    for column in range(places.shape[1]):
        np.add.at(out, (np.arange(len(judged)), y[places[:, column]]), weight[:, column])
    return np.asarray(out / out.sum(axis=1, keepdims=True))


def _linear(train: F64, y: I64, judged: F64, width: int, strength: float) -> F64:
    """Logistic regression, classes weighed alike."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    out = np.zeros((len(judged), width))
    if len(np.unique(y)) < 2:
        out[:, y[0]] = 1.0
        return out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=200, class_weight="balanced").fit(train, y)
    out[:, model.classes_] = model.predict_proba(judged)
    return out


PROBES: dict[str, tuple[Probe, tuple[float, ...]]] = {"frozen_knn": (_vote, NEIGHBOURS), "frozen_linear": (_linear, STRENGTHS)}


def probe(name: str, labels: Sequence[str], train: Side, val: Side | None, judged: Vectors) -> tuple[F64, float]:
    """Label probabilities [n, labels] of the vectors asked for, and the setting that validation chose; without validation, two-fold
    cross-validation on the training rows chooses."""
    ask, settings = PROBES[name]
    scale = Scale.of(train.vectors)
    X, y, width = scale(train.vectors), metrics.indices(labels, train.y), len(labels)
    if val is not None and len(val.y):
        sides = [(X, y, scale(val.vectors), metrics.indices(labels, val.y))]
    else:
        sides = [(X[h::2], y[h::2], X[1 - h :: 2], y[1 - h :: 2]) for h in (0, 1) if len(y) > 1]

    def score(setting: float) -> float:
        scores = [macro_f1_of_indices(truth, ask(a, b, seen, width, setting).argmax(axis=1), width) for a, b, seen, truth in sides]
        return float(np.mean(scores)) if scores else 0.0

    best = max(settings, key=score)
    return ask(X, y, scale(judged), width, best), float(best)


def flat(vectors: Vectors, *, seed: int = 0) -> tuple[F64, str]:
    """The vectors in two dimensions [n, 2] and how: t-SNE on 30 principal directions, or these alone for a few rows."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = Scale.of(vectors)(vectors)
    if len(rows) < 3:
        return np.zeros((len(rows), 2)), "none"
    wide = PCA(n_components=min(30, *rows.shape), random_state=seed).fit_transform(rows)
    if len(rows) < _TSNE_FROM:
        return _two(wide), "PCA"
    made: Any = TSNE(n_components=2, init="pca", perplexity=30, random_state=seed).fit_transform(wide)
    return np.asarray(made, dtype=np.float64), "t-SNE"


def _two(wide: F64) -> F64:
    out = np.zeros((len(wide), 2))
    out[:, : min(2, wide.shape[1])] = wide[:, :2]
    return out
