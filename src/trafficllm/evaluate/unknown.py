"""Which score tells that a flow belongs to no class of the task, chosen on validation by leaving classes out.

Higher = stranger, for every method. From log-probabilities `logits` [n, labels], calibrated `probabilities` p and
hidden states h [n, width]:

- `max_probability`: 1 - max p.
- `energy`: t * logsumexp(logits / t), t = 2 (t = 1 is 0 for every row, as log-probabilities are normalised).
- `knn`: z = unit((h - mean) @ components); distance from z to its k-th nearest of `vectors`.
- `mahalanobis`: z = (h - mean) @ components; least (z - c) @ precision @ (z - c) over class `centres` c.

The parameters are plain JSON numbers; `infer.calibration` applies them by these same formulas.
Sources: Liu et al. 2020 (energy), Sun et al. 2022 (k-NN), Lee et al. 2018 (Mahalanobis).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trafficllm.core.types import F64, I64
from trafficllm.evaluate import metrics

METHODS = ("max_probability", "energy", "knn", "mahalanobis")
DIMENSIONS = 32
BANK = 512
"""Vectors kept for k-NN: 512 x 32 numbers are 130 kB of JSON; more did not change which method won."""
FALSE_ALARMS = 0.05
_ENERGY_T = 2.0
_K = 5


@dataclass(frozen=True, slots=True)
class Rows:
    """Scored rows: `logits` float64 [n, labels] log-probabilities, `hidden` [n, width] or None, `y` label indices."""

    logits: F64
    y: I64
    hidden: F64 | None = None

    def pick(self, rows: I64) -> Rows:
        """Some of the rows."""
        return Rows(self.logits[rows], self.y[rows], None if self.hidden is None else self.hidden[rows])


def log_softmax(logits: F64) -> F64:
    """Normalised log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def _project(params: Mapping[str, Any], hidden: F64) -> F64:
    return np.asarray(
        (hidden - np.asarray(params["mean"])) @ np.asarray(params["components"]), dtype=np.float64
    )


def _unit(z: F64) -> F64:
    return np.asarray(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12), dtype=np.float64)


def _nearest(z: F64, vectors: F64, k: int) -> F64:
    """Distance to the k-th nearest vector, in blocks of 1,024 rows."""
    k = min(k, len(vectors))
    out = np.empty(len(z))
    for start in range(0, len(z), 1024):
        part = z[start : start + 1024]
        squared = (part**2).sum(1)[:, None] + (vectors**2).sum(1)[None] - 2 * part @ vectors.T
        out[start : start + 1024] = np.sqrt(np.maximum(np.partition(squared, k - 1, axis=1)[:, k - 1], 0.0))
    return out


def _to_centres(z: F64, centres: F64, precision: F64) -> F64:
    gaps = [np.einsum("ij,jk,ik->i", z - c, precision, z - c) for c in centres]
    return np.asarray(np.min(gaps, axis=0), dtype=np.float64)


def score(method: str, params: Mapping[str, Any], logits: F64, temperature: float, hidden: F64 | None) -> F64:
    """Strangeness of each row [n]; `hidden` is needed for knn and mahalanobis."""
    if method == "max_probability":
        return np.asarray(1.0 - np.exp(log_softmax(logits / temperature)).max(axis=1), dtype=np.float64)
    if method == "energy":
        scaled = logits / params["temperature"]
        top = scaled.max(axis=1)
        return np.asarray(params["temperature"] * (top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))))
    if hidden is None:
        raise ValueError(f"{method} needs hidden states")
    z = _project(params, hidden)
    if method == "knn":
        return _nearest(_unit(z), np.asarray(params["vectors"]), int(params["k"]))
    return _to_centres(z, np.asarray(params["centres"]), np.asarray(params["precision"]))


def _rounded(values: F64) -> list[Any]:
    return list(np.round(values, 5).tolist())


def _projection(hidden: F64) -> dict[str, Any]:
    """Mean and whitened principal directions [width, <= 32]: distances then do not follow the widest direction only."""
    mean = hidden.mean(axis=0)
    _, spread, directions = np.linalg.svd(hidden - mean, full_matrices=False)
    keep = max(int((spread > 1e-6 * max(spread[0], 1e-12)).sum()), 1) if len(spread) else 1
    keep = min(keep, DIMENSIONS)
    scale = np.maximum(spread[:keep] / np.sqrt(max(len(hidden) - 1, 1)), 1e-9)
    signs = np.sign(directions[:keep, :].sum(axis=1))
    components = (directions[:keep] * np.where(signs == 0, 1, signs)[:, None] / scale[:, None]).T
    return {"mean": _rounded(mean), "components": _rounded(components)}


def _bank(y: I64, size: int, seed: int) -> I64:
    """At most `size` rows, as many of each class as can be."""
    rng = np.random.default_rng(seed)
    rank = np.zeros(len(y))
    for label in np.unique(y):
        mine = np.flatnonzero(y == label)
        rank[mine] = rng.permutation(len(mine))
    return np.sort(np.argsort(rank, kind="stable")[:size])


def fit(method: str, train: Rows, seed: int = 0) -> dict[str, Any]:
    """Parameters of one method from rows whose class the model knows (training rows)."""
    if method == "energy":
        return {"temperature": _ENERGY_T}
    if method == "max_probability":
        return {}
    if train.hidden is None or not len(train.hidden):
        raise ValueError(f"{method} needs hidden states")
    base = _projection(train.hidden)
    z = _project(base, train.hidden)
    if method == "knn":
        return base | {"k": _K, "vectors": _rounded(_unit(z)[_bank(train.y, BANK, seed)])}
    labels = np.unique(train.y)
    centres = np.array([z[train.y == label].mean(axis=0) for label in labels])
    inside = z - centres[np.searchsorted(labels, train.y)]
    shape = np.eye(z.shape[1])
    spread = inside.T @ inside / max(len(z), 1)
    shrunk = 0.9 * spread + 0.1 * max(float(np.trace(spread)) / len(shape), 1e-6) * shape
    return base | {"centres": _rounded(centres), "precision": _rounded(np.linalg.inv(shrunk))}


def draws(labels: int, seed: int, count: int = 5) -> list[I64]:
    """`count` sets of classes to leave out, a fifth of them each; none where fewer than four classes are known."""
    if labels < 4:
        return []
    rng = np.random.default_rng(seed)
    return [np.sort(rng.choice(labels, size=max(labels // 5, 1), replace=False)) for _ in range(count)]


def _without(rows: Rows, left_out: I64) -> Rows:
    """The rows as a model without those classes would score them: their columns gone, the rest renormalised."""
    kept = np.setdiff1d(np.arange(rows.logits.shape[1]), left_out)
    return Rows(log_softmax(rows.logits[:, kept]), rows.y, rows.hidden)


@dataclass(frozen=True, slots=True)
class Trial:
    """Mean validation AUROC and found share at 5 % false alarms of one method, over the draws."""

    method: str
    auroc: float
    found: float


def _left_out_scores(method: str, train: Rows, val: Rows, out: I64, temperature: float) -> tuple[F64, F64]:
    """Scores of validation rows of the left-out classes, and of the others."""
    fitted = fit(method, train.pick(np.flatnonzero(~np.isin(train.y, out))))
    reduced = _without(val, out)
    values = score(method, fitted, reduced.logits, temperature, reduced.hidden)
    strange = np.isin(val.y, out)
    return values[strange], values[~strange]


def trial(
    method: str, train: Rows, val: Rows, *, temperature: float, outliers: Rows | None, seed: int
) -> Trial:
    """How well a method tells left-out classes, and `outliers` of other tasks if given, from known ones."""
    pairs = [
        _left_out_scores(method, train, val, out, temperature) for out in draws(val.logits.shape[1], seed)
    ]
    if outliers is not None and len(outliers.y):
        fitted = fit(method, train)
        known = score(method, fitted, val.logits, temperature, val.hidden)
        pairs.append((score(method, fitted, outliers.logits, temperature, outliers.hidden), known))
    usable = [(strange, known) for strange, known in pairs if len(strange) and len(known)]
    if not usable:
        return Trial(method, 0.5, 0.0)
    areas = [metrics.auroc(*pair) for pair in usable]
    found = [metrics.found_at(*pair, FALSE_ALARMS) for pair in usable]
    return Trial(method, float(np.mean(areas)), float(np.mean(found)))


def choose(
    train: Rows,
    val: Rows,
    *,
    temperature: float,
    outliers: Rows | None = None,
    seed: int = 0,
    methods: Sequence[str] = METHODS,
) -> dict[str, Any]:
    """The `unknown` object of a calibration: method, threshold at 5 % false alarms on validation, parameters.

    Also `auroc`, `tpr_at_fpr05` on validation and `trials` of every method. Methods that need hidden states take part
    where both sides have them. A more complex method must be better by .01 AUROC to win.
    """
    usable = [m for m in methods if m in METHODS[:2] or (train.hidden is not None and val.hidden is not None)]
    trials = [
        trial(method, train, val, temperature=temperature, outliers=outliers, seed=seed) for method in usable
    ]
    best = trials[0]
    for candidate in trials[1:]:
        if candidate.auroc > best.auroc + 0.01:
            best = candidate
    params = fit(best.method, train, seed)
    known = score(best.method, params, val.logits, temperature, val.hidden)
    return {
        "method": best.method,
        "threshold": metrics.threshold_at(known, FALSE_ALARMS) if len(known) else 1e9,
        "params": params,
        "auroc": best.auroc,
        "tpr_at_fpr05": best.found,
        "trials": {t.method: {"auroc": t.auroc, "tpr_at_fpr05": t.found} for t in trials},
    }
