"""Applying what validation taught: temperature, and how strange a record must look to be called unknown.

Plain numbers fitted by `evaluate.calibrate` and `evaluate.unknown`, by whose formulas they are applied, stored as JSON in
the adapter's manifest: {"temperature": 1.3, "ece": .02, "unknown": {"method": "energy", "threshold": .9, "params": {}}}.
Higher unknown scores are stranger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import F64, Scores

Params = Mapping[str, Any]


def apply(params: Params, logits: F64) -> F64:
    """Calibrated probabilities [n, labels]; rows sum to 1.

    >>> apply({"temperature": 2.0}, np.log(np.array([[0.8, 0.2]]))).round(3).tolist()
    [[0.667, 0.333]]
    """
    z = np.asarray(logits, np.float64) / float(params.get("temperature", 1.0))
    if not z.size:
        return z
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def unknown_score(params: Params, scores: Scores) -> F64:
    """How strange each row looks [n], to be compared with `threshold`. 1 - max probability where nothing was fitted.

    Where the method needs hidden states and the scorer has none, the one kept for that (`bare`) stands in, moved onto the same threshold.
    Raises ArtifactError for a method this version does not know, or one that needs hidden states where there are none
    and nothing stands in.
    """
    unknown = params.get("unknown") or {}
    method = str(unknown.get("method", "max_probability"))
    if not scores.logits.size:
        return np.zeros(len(scores.logits))
    if method not in METHODS:
        raise ArtifactError(
            "artifact.calibration",
            f"unknown score {method!r} is not known here",
            input=method,
            hint="register the task again with this version",
        )
    bare = unknown.get("bare")
    if bare and any(getattr(scores, name) is None for name in _NEEDS.get(method, ())):
        moved = METHODS[bare["method"]](bare["params"], params, scores)
        return np.asarray(moved - bare["threshold"] + unknown["threshold"], np.float64)
    return np.asarray(METHODS[method](unknown.get("params") or {}, params, scores), np.float64)


def threshold(params: Params) -> float:
    """Above this unknown score a record is called unknown; infinity where none was fitted."""
    value = (params.get("unknown") or {}).get("threshold")
    return float("inf") if value is None else float(value)


def _max_probability(_: Params, params: Params, scores: Scores) -> F64:
    """1 - the largest calibrated probability (Hendrycks and Gimpel, 2017)."""
    return np.asarray(1.0 - apply(params, scores.logits).max(axis=1))


def _energy(fitted: Params, _: Params, scores: Scores) -> F64:
    """t log sum exp(log-probability / t) (Liu et al., 2020)."""
    t = float(fitted["temperature"])
    return t * _logsumexp(scores.logits / t)


def _logsumexp(values: F64) -> F64:
    top = values.max(axis=1)
    return np.asarray(top + np.log(np.exp(values - top[:, None]).sum(axis=1)))


def _states(scores: Scores, name: str) -> F64:
    states = getattr(scores, name)
    if states is None:
        raise ArtifactError(
            "artifact.calibration",
            "this adapter's unknown score needs hidden states, and the scorer has none",
            hint="use the in-process engine",
        )
    return np.asarray(states, np.float64)


def _projected(fitted: Params, scores: Scores, *, pooled: bool = False) -> F64:
    states = _states(scores, "pooled" if pooled else "hidden")
    return np.asarray((states - np.asarray(fitted["mean"])) @ np.asarray(fitted["components"]))


def _mahalanobis(fitted: Params, _: Params, scores: Scores) -> F64:
    """Squared distance to the nearest class centre under a shared precision (Lee et al., 2018)."""
    z, precision = _projected(fitted, scores), np.asarray(fitted["precision"])
    away = [z - centre for centre in np.asarray(fitted["centres"])]
    return np.asarray(np.min([np.einsum("ij,jk,ik->i", d, precision, d) for d in away], axis=0))


def _knn(fitted: Params, _: Params, scores: Scores) -> F64:
    """Distance of unit vectors to the k-th nearest kept training vector (Sun et al., 2022)."""
    z = _projected(fitted, scores)
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    bank = np.asarray(fitted["vectors"], np.float64)
    k = min(int(fitted["k"]), len(bank))
    squared = (unit**2).sum(1)[:, None] + (bank**2).sum(1)[None] - 2.0 * unit @ bank.T
    return np.asarray(np.sqrt(np.maximum(np.partition(squared, k - 1, axis=1)[:, k - 1], 0.0)))


def _typical(fitted: Params, params: Params, scores: Scores) -> F64:
    """The least, over labels, of the distance to the label's own kept vectors and minus log of its probability."""
    z = _projected(fitted, scores, pooled=True)
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    bank, of = np.asarray(fitted["vectors"], np.float64), np.asarray(fitted["of"])
    far = np.full(scores.logits.shape, 2.0)
    for c in np.unique(of):
        far[:, c] = 1.0 - (unit @ bank[of == c].T).max(axis=1)
    unlikely = -np.log(np.maximum(apply(params, scores.logits), 1e-300))
    return np.asarray((float(fitted["weight"]) * far / np.asarray(fitted["scale"]) + unlikely).min(axis=1))


def _faint(_: Params, __: Params, scores: Scores) -> F64:
    """Minus log sum exp of the readout's logits, which are not normalised: the energy that log-probabilities have lost."""
    return -_logsumexp(_states(scores, "readout"))


def _joint(fitted: Params, params: Params, scores: Scores) -> F64:
    """`typical` and `faint`, each from its validation median in units of the way to its 95 % quantile, summed."""
    parts = np.stack([_typical(fitted, params, scores), _faint(fitted, params, scores)], 1)
    return np.asarray(((parts - np.asarray(fitted["centre"])) / np.asarray(fitted["unit"])).sum(axis=1))


_NEEDS: dict[str, tuple[str, ...]] = {
    "knn": ("hidden",),
    "mahalanobis": ("hidden",),
    "faint": ("readout",),
    "typical": ("pooled",),
    "joint": ("pooled", "readout"),
}
METHODS: dict[str, Callable[[Params, Params, Scores], F64]] = {
    "max_probability": _max_probability,
    "energy": _energy,
    "knn": _knn,
    "mahalanobis": _mahalanobis,
    "faint": _faint,
    "typical": _typical,
    "joint": _joint,
}
