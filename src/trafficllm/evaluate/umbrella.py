"""Fitting what the first step of a verdict needs besides its readout: row weights, groups of sources, probability, operating points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trafficllm.core.types import F64, I64
from trafficllm.core.umbrella import host_score, sigmoid
from trafficllm.evaluate.openworld import OperatingPoint, operating_point, source_weights, within_sources

GROUPS = 5
"""Groups that sources are left out in: with as many models as groups each source is scored by one that has not learnt it."""
WORST = 3.0
"""No left-out source may have more than this many times the wanted false-positive rate."""
HOST_RATE = 0.05
"""Share of harmless hosts of left-out sources that may be called positive."""
CAPTURES = 0.1
"""Share of left-out captures that may hold any positive flow."""
LARGE, STEP, STEPS = 3, 0.8, 24
"""Flows that a capture must have to count for it, and by how much and how often the wanted rate may be lowered for it."""
UNKNOWN = 0.1
"""Share of harmless flows of left-out sources that may end between the two thresholds. Of known families .2 cleared none and .1 2.6 %; of
harmless flows of yet other sources 42 and 9 % were unknown."""
PRECISION, PREVALENCE = 0.9, 0.01
"""Share of true ones that alerts must have where one flow in a hundred is positive."""
_STEPS = 50


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Negative flows scored by models that had not learnt their source: log-odds [n], and where each is from."""

    odds: F64
    sources: Sequence[str]
    captures: Sequence[str]
    hosts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The operating points of `flow` and `host` for the rate that was `asked`, and what left-out sources gave: `captures_flagged` is the
    share of captures of LARGE flows or more that hold any positive flow, None where there is none so large."""

    asked: float
    flow: OperatingPoint
    host: OperatingPoint
    captures_flagged: float | None

    def as_dict(self) -> dict[str, Any]:
        """Its part of a calibration's `umbrella`: plain numbers and words."""
        share = None if self.captures_flagged is None else round(self.captures_flagged, 4)
        return {"asked": self.asked, "flow": _row(self.flow), "host": _row(self.host), "captures_flagged": share}


def row_weights(positive: Sequence[bool], strata: Sequence[str]) -> F64:
    """Weights [n], of mean 1: both sides alike, labels alike on the positive side, strata by the square root of their flows on the other.

    `strata` are labels of positive rows and, of negative ones, what should count by the square root: sources, or kinds of flows within
    them. With sources alike a source of five flows would weigh as much as one of four hundred; with flows alike two sources would be
    half of all there is.

    >>> row_weights([True, True, False], ["a", "b", "c"]).round(2).tolist()
    [0.75, 0.75, 1.5]
    """
    side = np.asarray(positive, dtype=bool)
    out = np.zeros(len(side))
    for value, power in ((True, 1.0), (False, 0.5)):
        rows = np.flatnonzero(side == value)
        if not len(rows):
            continue
        _, which, counts = np.unique([strata[k] for k in rows.tolist()], return_inverse=True, return_counts=True)
        weight = counts[which].astype(float) ** -power
        out[rows] = weight / weight.sum()
    return np.asarray(out * len(side) / out.sum(), dtype=np.float64)


def source_groups(sources: Sequence[str], count: int = GROUPS) -> I64:
    """The group of each row [n], 0 to count - 1: whole sources, the largest first, each into the group with the fewest rows so far.

    >>> source_groups(["a", "a", "b", "c", "c", "c"], 2).tolist()
    [1, 1, 1, 0, 0, 0]
    """
    names, which, counts = np.unique(list(sources), return_inverse=True, return_counts=True)
    load = np.zeros(min(count, len(names)), dtype=np.int64)
    group = np.zeros(len(names), dtype=np.int64)
    for source in np.argsort(-counts, kind="stable"):
        group[source] = int(load.argmin())
        load[group[source]] += counts[source]
    return np.asarray(group[which], dtype=np.int64)


def platt(odds: F64, positive: Sequence[bool], weights: F64) -> tuple[float, float]:
    """Slope and intercept of the least weighted log-loss of sigmoid(slope * odds + intercept) (Platt 1999), by Newton's method; the slope
    is at least a hundredth, so that the order stays. (1, 0) where a side is missing."""
    y, w = np.asarray(positive, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not len(y) or y.min() == y.max():
        return 1.0, 0.0
    w = w / w.sum()
    scale = max(float(np.std(odds)), 1e-6)
    x = np.stack([np.asarray(odds, dtype=np.float64) / scale, np.ones(len(y))], axis=1)
    theta = np.array([1.0, 0.0])
    ridge = 1e-3 * np.eye(2)
    for _ in range(_STEPS):
        p = sigmoid(x @ theta)
        gradient = x.T @ (w * (p - y)) + ridge @ theta
        step = np.linalg.solve((x * (w * p * (1 - p))[:, None]).T @ x + ridge, gradient)
        theta = theta - step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-9:
            break
    return max(float(theta[0] / scale), 0.01), float(theta[1])


def hosts_of(left: LeftOut) -> tuple[F64, list[str], list[str]]:
    """Score, source and name of each host: a client's address within one capture."""
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    for k, key in enumerate(zip(left.captures, left.hosts, strict=True)):
        rows[key].append(k)
    scores = np.array([host_score(left.odds[members]) for members in rows.values()])
    return scores, [left.sources[members[0]] for members in rows.values()], ["\t".join(key) for key in rows]


def chosen(left: LeftOut, *, rate: float) -> Chosen:
    """The operating points of flows and hosts. Where more than CAPTURES of the captures are flagged at the rate that was asked for, the
    rate is lowered by a fifth until they are not: a rate of flows alone would let every capture of some hundred flows raise an alarm."""
    wanted = rate
    for _ in range(STEPS):
        point = operating_point(left.odds, left.sources, left.captures, rate=wanted, worst_factor=WORST, unknown=UNKNOWN)
        share = flagged(left, point.threshold)
        if share is None or share <= CAPTURES:
            break
        wanted *= STEP
    scores, sources, names = hosts_of(left)
    host = operating_point(scores, sources, names, rate=max(HOST_RATE, rate), worst_factor=WORST, unknown=UNKNOWN)
    return Chosen(rate, point, host, share)


def flagged(left: LeftOut, threshold: float) -> float | None:
    """Share of captures of LARGE flows or more that hold any flow above a threshold; None where no capture is so large."""
    highest: dict[tuple[str, str], list[float]] = defaultdict(list)
    for key, score in zip(zip(left.sources, left.captures, strict=True), left.odds.tolist(), strict=True):
        highest[key].append(score)
    large = [max(scores) > threshold for scores in highest.values() if len(scores) >= LARGE]
    return float(np.mean(large)) if large else None


def alert_point(left: LeftOut, held_out: F64, positive: Sequence[bool], *, least: float) -> dict[str, float] | None:
    """The lowest threshold above `least` at which alerts are precise enough, None where none is.

        precision = q recall / (q recall + (1 - q) (rate + 1 / n))

    `rate` is the mean false-positive rate of the n left-out flows by source, to which one false alarm more is added: no false alarm among
    n flows is no proof of precision 1. `recall` is that of the positive validation rows among `held_out`, q is PREVALENCE.
    """
    true = np.sort(np.asarray(held_out, dtype=np.float64)[np.asarray(positive, dtype=bool)])
    if not len(true) or not len(left.odds):
        return None
    weights = source_weights(left.sources, left.captures)
    order = np.argsort(left.odds, kind="stable")
    odds, above = left.odds[order], np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    for threshold in np.unique(np.append(odds[odds > least], least)):
        rate = float(above[np.searchsorted(odds, threshold, side="right")])
        recall = float(np.mean(true > threshold))
        hit, wrong = PREVALENCE * recall, (1.0 - PREVALENCE) * (rate + 1.0 / len(odds))
        if recall and hit / (hit + wrong) >= PRECISION:
            told = {"threshold": threshold, "precision": hit / (hit + wrong), "recall": recall, "rate": rate, "prevalence": PREVALENCE}
            return {name: float(value) for name, value in told.items()}
    return None


def _row(point: OperatingPoint) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(point).items()}


def calibrated(left: LeftOut, held_out: F64, positive: Sequence[bool]) -> dict[str, float]:
    """`slope` and `intercept` of the probability, from left-out negatives and the task's validation rows (log-odds and side). Both sides
    weigh alike; on the negative one so do the sources, the task's own negatives being one of them."""
    own = [bool(value) for value in positive]
    odds = np.concatenate([left.odds, held_out])
    side = np.array([False] * len(left.odds) + own)
    task = "(task)"
    weights = within_sources([*left.sources, *[task] * len(own)], [*left.captures, *[f"{task} {value}" for value in own]])
    for value in (False, True):
        total = weights[side == value].sum()
        weights[side == value] /= total if total else 1.0
    slope, intercept = platt(odds, side.tolist(), weights)
    return {"slope": round(slope, 6), "intercept": round(intercept, 6)}
