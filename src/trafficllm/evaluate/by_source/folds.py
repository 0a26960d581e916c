"""Leave a source out: learn, calibrate and choose the operating point on all other sources, judge on it; for every source.

Harmless and malicious sources are left out alike, and a source that has both sides with both. Weights are the same for every learner:
the two sides alike, sources alike within a side, captures alike within a source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from trafficllm.core.types import F64, I64
from trafficllm.evaluate.baselines.learners import Part
from trafficllm.evaluate.openworld import RATE, Learner, OperatingPoint, operating_point, source_weights

INNER = 5
"""Groups of training sources that are left out in turn to choose the operating point."""
_LEAST_SPREAD = 1e-9

Scoring = Callable[[I64, I64], F64]
"""Rows to learn from, rows to score -> log-odds of the latter: a learner on all flows, its scores perhaps kept on disk."""
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class OpenRows:
    """All flows of a study: `part` are their masked records, `positive` 0 or 1 [n]; `sources`, `captures` and `hosts` say where each is
    from (a host is a client address within a capture). `learnt` rows may be trained on, `judged` rows are scored without their source.
    """

    part: Part
    positive: I64
    sources: Sequence[str]
    captures: Sequence[str]
    hosts: Sequence[str]
    learnt: I64
    judged: I64

    def source_codes(self) -> I64:
        """Numbers of the sources, int64 [n], in alphabetical order."""
        names = {name: k for k, name in enumerate(sorted(set(self.sources)))}
        return np.array([names[name] for name in self.sources], dtype=np.int64)


@dataclass(frozen=True)
class Judged:
    """What the judged rows got from models that had not learnt their source.

    `rows` are their places in the study [m], `score` float64 [m] on the common scale of all folds, `verdict` 1 positive, 0 negative, -1
    unknown by the fold's own thresholds; `points` the operating point of each fold; `skipped` sources that could not be left out, with
    the reason.
    """

    rows: I64
    score: F64
    verdict: I64
    points: Sequence[OperatingPoint]
    skipped: dict[str, str] = field(default_factory=dict)


def balanced_groups(sources: Sequence[str], positive: I64, count: int, *, seed: int = 0) -> list[tuple[str, ...]]:
    """Sources in at most `count` groups (0: each alone) that are as alike as can be: those with positives dealt out first, then the
    others, larger ones first; `seed` turns the order of equals.

    >>> balanced_groups(["a", "a", "b", "c"], np.array([1, 0, 1, 0]), 0)
    [('a',), ('b',), ('c',)]
    """
    names = sorted(set(sources))
    if not count or count >= len(names):
        return [(name,) for name in names]
    source = np.array(sources)
    has = {name: bool(positive[source == name].any()) for name in names}
    size = {name: int((source == name).sum()) for name in names}
    turn = dict(zip(names, np.random.default_rng(seed).permutation(len(names)).tolist(), strict=True))
    groups: list[list[str]] = [[] for _ in range(count)]
    load = np.zeros((count, 2))
    for name in sorted(names, key=lambda n: (not has[n], -size[n].bit_length(), turn[n])):
        side = 0 if has[name] else 1
        place = int(np.lexsort((np.arange(count), load.sum(axis=1), load[:, side]))[0])
        groups[place].append(name)
        load[place, side] += 1
    return [tuple(sorted(group)) for group in groups if group]


def learning_weights(positive: I64, sources: Sequence[str], captures: Sequence[str]) -> F64:
    """Weight of each training flow, float64 [n], mean 1: both sides alike, sources alike within a side, captures alike within a source."""
    out = np.zeros(len(positive))
    for side in (0, 1):
        mine = np.flatnonzero(positive == side).tolist()
        if mine:
            out[mine] = source_weights([sources[k] for k in mine], [captures[k] for k in mine])
    return np.asarray(out * (len(out) / max(out.sum(), 1e-12)))


def scoring_of(learner: Learner, rows: OpenRows, numbers: F64 | None = None) -> Scoring:
    """The learner on all flows of a study; its `numbers` float64 [n, columns] are made once, here where they are not given."""
    numbers = learner.features(rows.part) if numbers is None else numbers

    def score(train: I64, judged: I64) -> F64:
        weights = learning_weights(rows.positive[train], *_where(rows, train))
        return learner.fit_score(numbers[train], rows.positive[train], weights, numbers[judged])

    return score


def leave_out(
    rows: OpenRows,
    score: Scoring,
    *,
    folds: int = 0,
    inner: int = INNER,
    rate: float = RATE,
    worst_factor: float | None = None,
    seed: int = 0,
    step: Step | None = None,
) -> Judged:
    """Judge every source, or each of `folds` groups of sources, by a model of all others; `step` is told how many groups are done. `seed`
    turns the inner groups and nothing else, so that runs of several seeds judge the same rows.

    A group is skipped where the others have one side only.
    """
    source = np.array(rows.sources)
    groups = balanced_groups(_where(rows, rows.judged)[0], rows.positive[rows.judged], folds)
    parts, points, skipped = [], [], {}
    for done, group in enumerate(groups):
        if step is not None:
            step(done, len(groups))
        out = np.isin(source, group)
        train, judged = rows.learnt[~out[rows.learnt]], rows.judged[out[rows.judged]]
        if len(np.unique(rows.positive[train])) < 2:
            side = "positive" if not rows.positive[train].any() else "negative"
            skipped.update(dict.fromkeys(group, f"no other source has {side} flows"))
            continue
        fold = _fold(rows, score, train, judged, inner=inner, rate=rate, worst_factor=worst_factor, seed=seed)
        parts.append((judged, *fold[:2]))
        points.append(fold[2])
    if step is not None:
        step(len(groups), len(groups))
    if not parts:
        return Judged(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), (), skipped)
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return Judged(joined[0][order], joined[1][order], joined[2][order], tuple(points), skipped)


def _fold(
    rows: OpenRows, score: Scoring, train: I64, judged: I64, *, inner: int, rate: float, worst_factor: float | None, seed: int
) -> tuple[F64, I64, OperatingPoint]:
    """Scores and verdicts of the judged rows, and the operating point that training sources gave."""
    held, raw = cross_fitted(rows, score, train, inner=inner, seed=seed)
    negative = rows.positive[held] == 0
    where = _where(rows, held[negative])
    mean, spread = common_scale(raw[negative], source_weights(*where))
    point = operating_point((raw[negative] - mean) / spread, *where, rate=rate, worst_factor=worst_factor)
    scores = (score(train, judged) - mean) / spread
    verdict = np.where(scores > point.threshold, 1, np.where(scores <= point.clear, 0, -1))
    return scores, verdict.astype(np.int64), point


def _where(rows: OpenRows, places: I64) -> tuple[list[str], list[str]]:
    at = places.tolist()
    return [rows.sources[k] for k in at], [rows.captures[k] for k in at]


def cross_fitted(rows: OpenRows, score: Scoring, train: I64, *, inner: int = INNER, seed: int = 0) -> tuple[I64, F64]:
    """Training rows and their log-odds, each from a model that had not learnt the row's source.

    Where the other groups have no positive flow, the group's own positives stay in training, and only its negatives are scored: the
    threshold then is a cautious one, since a source's marks speak for its positives.
    """
    names, _ = _where(rows, train)
    source, positive = np.array(names), rows.positive[train]
    places, scores = [], []
    for group in balanced_groups(names, positive, inner, seed=seed + 1):
        out = np.isin(source, group)
        rest, held = ~out, out
        if not positive[rest].any():
            rest, held = rest | (positive == 1), out & (positive == 0)
        if not held.any() or len(np.unique(positive[rest])) < 2:
            continue
        places.append(train[held])
        scores.append(score(train[rest], train[held]))
    if not any((rows.positive[place] == 0).any() for place in places):  # one harmless source: its own scores are all there is
        return train, score(train, train)
    held_rows, values = np.concatenate(places), np.concatenate(scores)
    order = np.argsort(held_rows, kind="stable")
    return held_rows[order], values[order]


def common_scale(scores: F64, weights: F64) -> tuple[float, float]:
    """Mean and standard deviation of negative flows' scores under weights [n]: scores less the first over the second compare across folds.

    Every fold has a model of its own, and log-odds of two models are not on one scale. Standardised by negatives that each model's
    siblings scored without their source, as cohort normalisation does (z-norm: Auckenthaler, Carey, Lloyd-Thomas 2000, Digital Signal
    Processing 10), they are nearly. AUROC over folds, malware sources left out in eight groups: .62 (forest), .70 (readout); by Platt's
    log-odds above each fold's threshold .51 and .65, since a fold whose positives look like nothing known gives a slope near 0.

    >>> common_scale(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    (2.0, 1.0)
    """
    mean = float(np.average(scores, weights=weights))
    spread = float(np.sqrt(np.average((scores - mean) ** 2, weights=weights)))
    return mean, spread if spread > _LEAST_SPREAD else 1.0
