"""Applying a fitted calibration: temperature, unknown score and threshold.

A calibration is plain JSON in the adapter's manifest, fitted by `evaluate.calibrate`; the formulas are those of `core.calibration`:
{"temperature": 1.3, "ece": .02, "unknown": {"method": "energy", "threshold": .9, "params": {}}}.
"""

from __future__ import annotations

import numpy as np

from trafficllm.core import calibration as formulas
from trafficllm.core.calibration import Params
from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import F64, Scores


def apply(params: Params, logits: F64) -> F64:
    """Calibrated probabilities [n, labels]; rows sum to 1.

    >>> apply({"temperature": 2.0}, np.log(np.array([[0.8, 0.2]]))).round(3).tolist()
    [[0.667, 0.333]]
    """
    return formulas.softmax(np.asarray(logits, np.float64) / _temperature(params))


def _temperature(params: Params) -> float:
    return float(params.get("temperature", 1.0))


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
    if method not in formulas.METHODS:
        raise ArtifactError(
            "artifact.calibration",
            f"unknown score {method!r} is not known here",
            input=method,
            hint="register the task again with this version",
        )
    if not formulas.missing(method, scores):
        return formulas.unknown_score(method, unknown.get("params") or {}, scores, _temperature(params))
    bare = unknown.get("bare")
    if not bare:
        raise ArtifactError(
            "artifact.calibration",
            "this adapter's unknown score needs hidden states, and the scorer has none",
            hint="use the in-process engine",
        )
    values = formulas.unknown_score(bare["method"], bare["params"], scores, _temperature(params))
    return np.asarray(values - bare["threshold"] + unknown["threshold"])


def likely(params: Params, scores: Scores) -> list[tuple[str, ...]]:
    """The labels of each row that hold the truth in 90 % of flows of captures like the validation ones, the likeliest first.

    Every label where nothing was fitted: an adapter of an earlier version promises nothing.
    """
    least = params.get("set_90")
    if not len(scores.probabilities):
        return []
    rows = formulas.likely_labels(scores.probabilities, 0.0 if least is None else float(least))
    return [tuple(scores.labels[k] for k in row) for row in rows]


def threshold(params: Params) -> float:
    """Above this unknown score a record is called unknown; infinity where none was fitted."""
    value = (params.get("unknown") or {}).get("threshold")
    return float("inf") if value is None else float(value)
