"""From which confidence on a first, cheap stage may answer alone: fitted on validation, applied by `lifecycle.cascade`.

The threshold is the least at which the share of wrong answers among what the stage would answer is, at 95 % confidence, at most
what was asked (Clopper and Pearson, 1934). Equal contents count once: a template seen a hundred times is one trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trafficllm.core.types import F64

ERROR = 0.02
"""Wrong answers of the first stage that are accepted. 149 sure and right contents are the fewest that can show it."""
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Sure:
    """The first stage answers from `threshold` on: on validation a `share` of `n` contents, `error` of them wrong, at most `bound`."""

    threshold: float
    share: float
    error: float
    bound: float
    n: int
    asked: float


def upper(wrong: int, n: int) -> float:
    """One-sided 95 % upper bound of an error rate.

    >>> round(upper(0, 149), 4), upper(0, 0)
    (0.0199, 1.0)
    """
    from scipy.stats import beta

    return 1.0 if wrong >= n else float(beta.ppf(LEVEL, wrong + 1, n - wrong))


def fit(confidence: F64, right: Sequence[bool], content: Sequence[int], *, error: float = ERROR) -> Sure:
    """The threshold for `confidence` [n] of validation rows; infinite, so that nothing is answered, where none is good enough."""
    rows = sorted({h: k for k, h in enumerate(content)}.values())
    ranked = sorted(rows, key=lambda k: (-confidence[k], k))
    best = Sure(float("inf"), 0.0, 0.0, 1.0, len(rows), error)
    wrong = 0
    for place, k in enumerate(ranked, start=1):
        wrong += not right[k]
        if place < len(ranked) and confidence[ranked[place]] == confidence[k]:
            continue  # what is equally sure is answered together
        if (bound := upper(wrong, place)) <= error:
            best = Sure(float(confidence[k]), place / len(rows), wrong / place, bound, len(rows), error)
    return best


def answered(confidence: F64, threshold: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Rows that the first stage answers."""
    return np.asarray(confidence >= threshold)
