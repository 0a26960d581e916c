"""Open world: a threshold that is chosen on sources nobody learnt from, and what it promises for the next one.

A source is a repository or a laboratory whose captures share a network, a clock and a way of labelling. Flows of one source stand or
fall together, so false positives are counted source by source: a source's rate is the mean over its captures, and sources count alike.

    rate(t) = 1/S sum_s r_s(t),   r_s(t) = 1/C_s sum_c (flows of capture c with score > t) / (flows of capture c)

Scores must come from models that had not learnt the flow's source (cross-conformal prediction: Vovk 2015, Annals of Mathematics and
Artificial Intelligence 74; Barber, Candes, Ramdas, Tibshirani 2021, "Predictive inference with the jackknife+").
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from trafficllm.core.types import F64, I64
from trafficllm.evaluate.bootstrap import group_codes

if TYPE_CHECKING:
    from trafficllm.evaluate.baselines.learners import Part

RATE = 0.01
"""Wanted false-positive rate of flows, mean over sources."""
UNKNOWN = 0.2
"""Share of negative flows of left-out sources that may be neither positive nor clear."""
CONFIDENCE = 0.9
_TOLERANCE = 1e-9


class Learner(Protocol):
    """What can be judged by leaving sources out: a way to turn flows into numbers, and numbers into log-odds.

    `name` is its row in the result. Folds fit many models on the same numbers, so these are made once.
    """

    @property
    def name(self) -> str:
        """The row's name."""

    def features(self, rows: Part) -> F64:
        """Numbers float64 [n, columns] of masked records (the identifier probe reads `raw` and `meta` of the part)."""

    def fit_score(self, train: F64, positive: I64, weights: F64, judged: F64) -> F64:
        """Learn from `train` [n, columns] with `positive` 0 or 1 [n] and `weights` [n]; log-odds float64 [m] of the `judged` rows."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Where a flow is called positive (score > `threshold`), negative (score <= `clear`) or `unknown` (between them).

    `wanted` is the rate that was asked for; `rate` and `worst` are the mean and the highest false-positive rate over the `sources` it
    was chosen on; `unknown` is the share of their flows between the two thresholds. `expected` bounds the mean rate of a new source,
    `bound` is the rate that a new source stays below with `confidence`; `guarantee` says both in words, with what they rest on.
    """

    threshold: float
    clear: float
    wanted: float
    rate: float
    worst: float
    unknown: float
    sources: int
    expected: float
    bound: float
    confidence: float
    guarantee: str


def source_weights(sources: Sequence[Hashable], captures: Sequence[Hashable]) -> F64:
    """Weight of each flow, float64 [n], sum 1: sources alike, captures alike within a source, flows alike within a capture.

    Capture names need only differ within a source.

    >>> source_weights(["a", "a", "b"], ["x", "x", "y"]).tolist()
    [0.25, 0.25, 0.5]
    """
    within = within_sources(sources, captures)
    return np.asarray(within / max(len(set(sources)), 1), dtype=np.float64)


def within_sources(sources: Sequence[Hashable], captures: Sequence[Hashable]) -> F64:
    """Weight of each flow within its source, float64 [n]: captures alike, flows alike within a capture; 1 in all for each source."""
    source = group_codes(sources)
    capture = group_codes(list(zip(sources, captures, strict=True)))
    if not len(source):
        return np.zeros(0)
    owner = np.zeros(int(capture.max()) + 1, dtype=np.int64)
    owner[capture] = source
    many = np.bincount(owner)
    return np.asarray(1.0 / (many[source] * np.bincount(capture)[capture]), dtype=np.float64)


def threshold_at(scores: F64, weights: F64, rate: float) -> float:
    """The smallest score that flows of at most `rate` of the weight exceed. Weights [n] sum to 1.

    >>> threshold_at(np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 0.25), 0.25)
    3.0
    """
    values, place = np.unique(scores, return_inverse=True)
    mass = np.bincount(place, weights=weights, minlength=len(values))
    above = np.append(np.cumsum(mass[::-1])[::-1][1:], 0.0)
    return float(values[int(np.argmax(above <= rate + _TOLERANCE))])


def operating_point(
    scores: F64,
    sources: Sequence[Hashable],
    captures: Sequence[Hashable],
    *,
    rate: float = RATE,
    worst_factor: float | None = None,
    unknown: float = UNKNOWN,
    confidence: float = CONFIDENCE,
) -> OperatingPoint:
    """Choose the thresholds from negative flows that were scored without their source.

    `scores` float64 [n], higher is more positive; `sources` and `captures` name where each flow is from. The upper threshold is the
    smallest one with a mean false-positive rate of at most `rate`, and with `worst_factor` also the smallest one at which no source
    exceeds `worst_factor * rate`. The lower one, `clear`, is the smallest that leaves at most a share `unknown` of the flows between the
    two. Raises ValueError for no flows, a score that is not a number, or a rate outside [0, 1).

    Guarantees, for n sources and a new one exchangeable with them:

    - `expected`: with the threshold chosen for the mean, the expected rate on the new source is at most (n rate + 1) / (n + 1)
      (conformal risk control: Angelopoulos, Bates, Fisch, Lei, Schuster 2022, arXiv 2208.02814, with losses bounded by 1).
    - `bound`: the k-th smallest of the rates that each source has at the threshold chosen without it, k = ceil(confidence (n + 1)).
      A new source stays at or below it with probability about `confidence` (jackknife over sources); 1.0 where n is too small to say.
      At the highest of the leave-one-out thresholds the probability is at least 2 confidence - 1 (jackknife+).

    The first is exact for one fixed model that learnt from none of the sources, and close where each source was scored by a model of
    the others. Neither holds for a network unlike all of the sources, nor for one flow or one day.

    >>> point = operating_point(np.arange(100.0), ["a", "b"] * 50, ["x"] * 100, rate=0.02)
    >>> point.threshold, point.rate, point.sources
    (97.0, 0.02, 2)
    """
    rows = _Negatives.of(np.asarray(scores, dtype=np.float64), sources, captures)
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"a false-positive rate of {rate} is not in [0, 1)")
    most = None if worst_factor is None else worst_factor * rate
    threshold = rows.threshold(rate, most)
    achieved = rows.rates(threshold)
    between = rows.clear(threshold, unknown)
    n = rows.count
    bound = _bound(rows.left_out(rate, most), confidence)
    expected = min((n * rate + 1.0) / (n + 1.0), 1.0)
    return OperatingPoint(
        threshold=threshold,
        clear=between,
        wanted=rate,
        rate=math.fsum(achieved) / n,
        worst=float(achieved.max()),
        unknown=float((rows.weights * ((rows.scores > between) & (rows.scores <= threshold))).sum() / n),
        sources=n,
        expected=expected,
        bound=bound,
        confidence=confidence,
        guarantee=guarantee(n, expected=expected, bound=bound, confidence=confidence),
    )


def guarantee(n: int, *, expected: float, bound: float, confidence: float) -> str:
    """What an operating point chosen on `n` sources promises for a new source, in words."""
    if bound >= 1.0:
        least = math.ceil(confidence / (1.0 - confidence) - _TOLERANCE)
        one = f"{n} sources are too few to bound one new source (at {confidence:.0%} confidence {least} are needed)"
    else:
        one = f"one new source stays at or below {bound:.2%} with about {confidence:.0%} confidence (jackknife over sources)"
    return (
        f"chosen on {n} left-out sources: over many new sources like them the mean false-positive rate is at most {expected:.2%} "
        f"(conformal risk control); {one}; a network unlike all of them is not covered"
    )


def _bound(rates: F64, confidence: float) -> float:
    """The ceil(confidence (n + 1))-th smallest rate, 1 where there are fewer."""
    place = math.ceil(confidence * (len(rates) + 1) - _TOLERANCE)
    return 1.0 if place > len(rates) else float(np.sort(rates)[max(place, 1) - 1])


@dataclass(frozen=True, slots=True)
class _Negatives:
    """Scores, source numbers, and weights within each source of negative flows, all [n]."""

    scores: F64
    source: I64
    weights: F64
    count: int

    @classmethod
    def of(cls, scores: F64, sources: Sequence[Hashable], captures: Sequence[Hashable]) -> _Negatives:
        """Rows in an order that does not depend on how they came, so that sums are the same to the last bit."""
        if not len(scores):
            raise ValueError("no negative flows to choose a threshold on")
        if np.isnan(scores).any():
            raise ValueError("a score is not a number")
        source, weights = group_codes(sources), within_sources(sources, captures)
        order = np.lexsort((weights, scores))
        return cls(scores[order], source[order], weights[order], int(source.max()) + 1)

    def rates(self, threshold: float) -> F64:
        """False-positive rate of each source, float64 [sources]."""
        above = self.weights * (self.scores > threshold)
        return np.asarray(np.bincount(self.source, weights=above, minlength=self.count), dtype=np.float64)

    def threshold(self, rate: float, most: float | None, without: int | None = None) -> float:
        """The smallest threshold with a mean rate of at most `rate` and no source above `most`; one source may be left out."""
        here = np.ones(len(self.scores), dtype=bool) if without is None else self.source != without
        scores, weights, source = self.scores[here], self.weights[here], self.source[here]
        chosen = threshold_at(scores, weights / (self.count - (without is not None)), rate)
        if most is None:
            return chosen
        return max(chosen, *(threshold_at(scores[source == s], weights[source == s], most) for s in np.unique(source)))

    def clear(self, threshold: float, share: float) -> float:
        """The smallest threshold that leaves at most `share` of the weight above it and at or below the upper one."""
        below = self.scores <= threshold
        if not below.any():
            return threshold
        return min(threshold_at(self.scores[below], self.weights[below] / self.count, share), threshold)

    def left_out(self, rate: float, most: float | None) -> F64:
        """The rate of each source at the threshold chosen without it, float64 [sources]; 1 where it is the only one."""
        if self.count < 2:
            return np.ones(self.count)
        return np.array([self.rates(self.threshold(rate, most, without=s))[s] for s in range(self.count)])
