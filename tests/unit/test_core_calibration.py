"""Each unknown score against its definition, written out row by row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist, mahalanobis
from scipy.special import log_softmax, logsumexp, softmax

from trafficllm.core import calibration

N, WIDTH, LABELS, T = 40, 12, 3, 1.7
RNG = np.random.default_rng(0)
ROWS = SimpleNamespace(
    logits=log_softmax(RNG.normal(size=(N, LABELS)), axis=1),
    hidden=RNG.normal(size=(N, WIDTH)).astype(np.float32),
    pooled=RNG.normal(size=(N, WIDTH)).astype(np.float32),
    readout=RNG.normal(size=(N, LABELS)).astype(np.float32),
)
BANK = RNG.normal(size=(20, 4))
BANK /= np.linalg.norm(BANK, axis=1, keepdims=True)
SPREAD = RNG.normal(size=(4, 4))
PARAMS: dict[str, Any] = {
    "temperature": 2.0,
    "mean": RNG.normal(size=WIDTH).tolist(),
    "components": RNG.normal(size=(WIDTH, 4)).tolist(),
    "vectors": BANK.tolist(),
    "k": 3,
    "centres": RNG.normal(size=(LABELS, 4)).tolist(),
    "precision": (SPREAD @ SPREAD.T + np.eye(4)).tolist(),
    "weight": 0.5,
    "of": [0] * 12 + [2] * 8,
    "scale": [0.5, 1.0, 2.0],
    "centre": [0.3, -0.2],
    "unit": [2.0, 0.5],
}


def _z(states: np.ndarray) -> np.ndarray:
    return (states.astype(float) - PARAMS["mean"]) @ np.array(PARAMS["components"])


def _typical() -> list[float]:
    out = []
    for z, logits in zip(_z(ROWS.pooled), ROWS.logits, strict=True):
        cosine = {c: max(v @ z / np.linalg.norm(z) for v, of in zip(BANK, PARAMS["of"], strict=True) if of == c) for c in (0, 2)}
        log_p = log_softmax(logits / T)
        out.append(min(0.5 * (1 - cosine.get(c, -1.0)) / PARAMS["scale"][c] - log_p[c] for c in range(LABELS)))
    return out


def _joint() -> list[float]:
    return [(t - 0.3) / 2.0 + (-logsumexp(r.astype(float)) + 0.2) / 0.5 for t, r in zip(_typical(), ROWS.readout, strict=True)]


def _nearest() -> list[float]:
    return [min(1 - v @ z / np.linalg.norm(z) for v in BANK) for z in _z(ROWS.pooled)]


def _nearest_energy() -> list[float]:
    rows = zip(_nearest(), ROWS.readout, strict=True)
    return [(d - 0.3) / 2.0 + 0.5 * (-logsumexp(r.astype(float)) + 0.2) / 0.5 for d, r in rows]


def _knn() -> np.ndarray:
    z = _z(ROWS.hidden)
    return np.sort(cdist(z / np.linalg.norm(z, axis=1, keepdims=True), BANK), axis=1)[:, 2]


DEFINED = {
    "max_probability": lambda: 1 - softmax(ROWS.logits / T, axis=1).max(axis=1),
    "energy": lambda: 2.0 * logsumexp(ROWS.logits / 2.0, axis=1),
    "knn": _knn,
    "mahalanobis": lambda: [min(mahalanobis(z, c, PARAMS["precision"]) ** 2 for c in PARAMS["centres"]) for z in _z(ROWS.hidden)],
    "faint": lambda: -logsumexp(ROWS.readout.astype(float), axis=1),
    "typical": _typical,
    "joint": _joint,
    "nearest": _nearest,
    "nearest_energy": _nearest_energy,
}


@pytest.mark.parametrize("method", calibration.METHODS)
def test_a_score_is_what_its_definition_says(method: str) -> None:
    assert np.allclose(calibration.unknown_score(method, PARAMS, ROWS, T), DEFINED[method](), atol=1e-6)


@pytest.mark.parametrize("method", calibration.NEEDS)
def test_a_score_without_the_states_it_reads_is_refused(method: str) -> None:
    bare = SimpleNamespace(logits=ROWS.logits, hidden=None, pooled=None, readout=None)
    assert calibration.missing(method, bare) == list(calibration.NEEDS[method])
    with pytest.raises(ValueError, match="hidden states"):
        calibration.unknown_score(method, PARAMS, bare, T)


def test_softmax_and_its_logarithm() -> None:
    assert np.allclose(calibration.softmax(ROWS.logits * 900), softmax(ROWS.logits * 900, axis=1))
    assert np.allclose(calibration.log_softmax(ROWS.logits * 900), log_softmax(ROWS.logits * 900, axis=1))
    assert calibration.softmax(np.zeros((0, 3))).shape == (0, 3)
