"""The formulas that fitting and serving share: temperature, and the score by which a flow belongs to no class of the task.

`evaluate` fits their parameters on validation, `infer` applies them. An unknown score is higher for stranger rows, whatever the method.
From log-probabilities `logits` [n, labels], calibrated probabilities p, hidden states h [n, width] at the answer, means m [n, width] of
the hidden states over the record, and logits r [n, labels] of a readout, not normalised:

- `max_probability`: 1 - max p (Hendrycks and Gimpel 2017).
- `energy`: t * logsumexp(logits / t), t = 2; t = 1 gives 0 for every row, as log-probabilities are normalised (Liu et al. 2020).
- `knn`: z = unit((h - mean) @ components); distance from z to its k-th nearest of `vectors` (Sun et al. 2022).
- `mahalanobis`: z = (h - mean) @ components; least (z - c) @ precision @ (z - c) over class `centres` c (Lee et al. 2018).
- `faint`, the logit energy: -logsumexp(r), which normalising takes away. High where no label's logit stands out.
- `typical`: z = unit((m - mean) @ components), not whitened; d_c = 1 - the largest cosine with class c's `vectors`; the least over c
  of `weight` * d_c / `scale`_c - log p_c: some label must be likely and the flow must look like that label's own flows.
- `joint`: the sum of `typical` and `faint`, each less its validation median `centre`, in units `unit` of the way from there to the
  95 % quantile.
- `nearest`: z as for `typical`; 1 - the largest cosine with any of `vectors`, a core-set of the training rows (Roth et al. 2022,
  PatchCore).
- `nearest_energy`: the sum of `nearest` and `weight` times `faint`, each standardised as in `joint`.

Parameters are plain JSON numbers, stored in the adapter's manifest under these names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from trafficllm.core.types import F64, I64

Params = Mapping[str, Any]
PARTS = ("typical", "faint")
"""What `joint` sums, in the order of its `centre` and `unit`."""
NEAREST_PARTS = ("nearest", "faint")
"""What `nearest_energy` sums, likewise."""
_NEAREST_ROWS = 1024
"""Rows whose distances to all kept vectors are held at once: 1,024 x 512 distances are 4 MB."""


class ScoredRows(Protocol):
    """Scored rows: `logits` log-probabilities [n, labels] and, where they are known, `hidden` and `pooled` [n, width] and `readout`
    [n, labels]."""

    @property
    def logits(self) -> F64: ...

    @property
    def hidden(self) -> Any: ...

    @property
    def pooled(self) -> Any: ...

    @property
    def readout(self) -> Any: ...


def log_softmax(logits: F64) -> F64:
    """Normalised log-probabilities along the last of two axes."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def softmax(logits: F64) -> F64:
    """Probabilities [n, labels] of logits; rows sum to 1, an empty array stays empty."""
    if not logits.size:
        return logits
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def logsumexp(values: F64) -> F64:
    """log sum exp along the last of two axes [n]."""
    top = values.max(axis=1)
    return np.asarray(top + np.log(np.exp(values - top[:, None]).sum(axis=1)))


def likely_labels(probabilities: F64, least: float) -> list[list[int]]:
    """Columns of each row whose probability is at least `least`, the likeliest first; the likeliest one always.

    >>> likely_labels(np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]]), 0.25)
    [[0, 1], [0]]
    """
    order = np.argsort(-probabilities, axis=1, kind="stable").tolist()
    return [[k for place, k in enumerate(row) if place == 0 or p[k] >= least] for row, p in zip(order, probabilities, strict=True)]


def project(params: Params, states: F64) -> F64:
    """States [n, width] less their mean, on the fitted components [n, components]."""
    return np.asarray((states - np.asarray(params["mean"])) @ np.asarray(params["components"]), dtype=np.float64)


def unit(z: F64) -> F64:
    """Rows scaled to length 1."""
    return np.asarray(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12), dtype=np.float64)


def class_distances(z: F64, vectors: F64, of: I64, classes: int) -> F64:
    """1 - the largest cosine of each row with each class's vectors [n, classes]; 2, the largest there is, for a class without any.

    `z` [n, width] and `vectors` [m, width] have length 1; `of` [m] is the class of each vector.
    """
    distances = np.full((len(z), classes), 2.0)
    for c in np.unique(of):
        distances[:, c] = 1.0 - (z @ vectors[of == c].T).max(axis=1)
    return distances


def _nearest(z: F64, vectors: F64, k: int) -> F64:
    """Distance [n] to the k-th nearest vector."""
    k = min(k, len(vectors))
    out = np.empty(len(z))
    for start in range(0, len(z), _NEAREST_ROWS):
        part = z[start : start + _NEAREST_ROWS]
        squared = (part**2).sum(1)[:, None] + (vectors**2).sum(1)[None] - 2 * part @ vectors.T
        out[start : start + _NEAREST_ROWS] = np.sqrt(np.maximum(np.partition(squared, k - 1, axis=1)[:, k - 1], 0.0))
    return out


def _max_probability(_: Params, rows: ScoredRows, temperature: float) -> F64:
    return np.asarray(1.0 - np.exp(log_softmax(rows.logits / temperature)).max(axis=1), dtype=np.float64)


def _energy(params: Params, rows: ScoredRows, _: float) -> F64:
    return np.asarray(params["temperature"] * logsumexp(rows.logits / params["temperature"]))


def _knn(params: Params, rows: ScoredRows, _: float) -> F64:
    z = project(params, np.asarray(rows.hidden, np.float64))
    return _nearest(unit(z), np.asarray(params["vectors"], np.float64), int(params["k"]))


def _mahalanobis(params: Params, rows: ScoredRows, _: float) -> F64:
    z, precision = project(params, np.asarray(rows.hidden, np.float64)), np.asarray(params["precision"])
    squared = [np.einsum("ij,jk,ik->i", z - centre, precision, z - centre) for centre in np.asarray(params["centres"])]
    return np.asarray(np.min(squared, axis=0), dtype=np.float64)


def _logit_energy(_: Params, rows: ScoredRows, __: float) -> F64:
    return -logsumexp(np.asarray(rows.readout, np.float64))


def _typical(params: Params, rows: ScoredRows, temperature: float) -> F64:
    z = unit(project(params, np.asarray(rows.pooled, np.float64)))
    distances = class_distances(z, np.asarray(params["vectors"]), np.asarray(params["of"]), rows.logits.shape[1])
    scaled = params["weight"] * distances / np.asarray(params["scale"])
    return np.asarray((scaled - log_softmax(rows.logits / temperature)).min(axis=1))


def _joint(params: Params, rows: ScoredRows, temperature: float) -> F64:
    parts = np.stack([METHODS[part](params, rows, temperature) for part in PARTS], 1)
    return np.asarray(((parts - np.asarray(params["centre"])) / np.asarray(params["unit"])).sum(axis=1))


def _coreset_distance(params: Params, rows: ScoredRows, _: float) -> F64:
    z, vectors = unit(project(params, np.asarray(rows.pooled, np.float64))), np.asarray(params["vectors"], np.float64)
    parts = [1.0 - (z[at : at + _NEAREST_ROWS] @ vectors.T).max(axis=1) for at in range(0, len(z), _NEAREST_ROWS)]
    return np.asarray(np.concatenate(parts) if parts else np.zeros(0), dtype=np.float64)


def _nearest_energy(params: Params, rows: ScoredRows, temperature: float) -> F64:
    parts = np.stack([METHODS[part](params, rows, temperature) for part in NEAREST_PARTS], 1)
    standard = (parts - np.asarray(params["centre"])) / np.asarray(params["unit"])
    return np.asarray(standard @ np.array([1.0, params["weight"]]))


METHODS: dict[str, Callable[[Params, ScoredRows, float], F64]] = {
    "max_probability": _max_probability,
    "energy": _energy,
    "knn": _knn,
    "mahalanobis": _mahalanobis,
    "faint": _logit_energy,  # the key that adapters carry
    "typical": _typical,
    "joint": _joint,
    "nearest": _coreset_distance,
    "nearest_energy": _nearest_energy,
}
NEEDS: dict[str, tuple[str, ...]] = {
    "knn": ("hidden",),
    "mahalanobis": ("hidden",),
    "faint": ("readout",),
    "typical": ("pooled",),
    "joint": ("pooled", "readout"),
    "nearest": ("pooled",),
    "nearest_energy": ("pooled", "readout"),
}
"""What of `ScoredRows`, beside log-probabilities, a method reads."""


def missing(method: str, rows: ScoredRows) -> list[str]:
    """The states that a method reads and these rows lack."""
    return [name for name in NEEDS.get(method, ()) if getattr(rows, name) is None]


def unknown_score(method: str, params: Params, rows: ScoredRows, temperature: float) -> F64:
    """How strange each row looks [n], by one method with its fitted parameters.

    `temperature` divides the log-probabilities of methods that read probabilities. Raises ValueError where the rows lack what the
    method needs, KeyError for an unknown method.

    >>> from types import SimpleNamespace
    >>> rows = SimpleNamespace(logits=np.log([[0.9, 0.1], [0.5, 0.5]]))
    >>> unknown_score("max_probability", {}, rows, 1.0).round(3).tolist()
    [0.1, 0.5]
    """
    if lacking := missing(method, rows):
        raise ValueError(f"{method} needs hidden states: {', '.join(lacking)}")
    return METHODS[method](params, rows, temperature)
