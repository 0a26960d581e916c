"""Fitting the score that tells whether a flow belongs to no class of the task, and choosing which one an adapter uses.

The scores themselves and their sources are in `core.calibration`; higher is stranger. Parameters are plain JSON numbers.

`nearest_energy` is taken where it can be, `nearest` where there is no readout. Chosen on classes left out where no published draw was
looked at: AUROC of `nearest_energy`, `joint`, `faint`, 1 - max probability by the base's states, five draws each, .96, .937, .927, .915
(malware families), .65, .579, .586, .559 (applications); with adapters, two draws of malware families, .92, .89, .87, .88. Scores that
know the packaged background (one class more in the readout, alone or beside these) gained .003 AUROC and lost .02 of what is found at
5 % false alarms; tuning with the background as one label more .004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trafficllm.core import calibration, metrics
from trafficllm.core.calibration import Params, class_distances, log_softmax, project, unit, unknown_score
from trafficllm.core.types import F64, I64

Flags: TypeAlias = npt.NDArray[np.bool_]
METHODS = tuple(calibration.METHODS)
"""In the order of trial, simple ones first: a later one must be better than the best so far."""
WITHOUT_STATES = ("max_probability", "energy")
"""Methods that any scorer allows: they read log-probabilities alone."""
DIMENSIONS = 32
WEIGHT, REACH, SHRINK = 0.5, 0.95, 5
"""`typical`: weight of the distance; its scale is the distance that this share of a class's validation rows stays below, pulled to all
classes' as if by so many rows. Chosen on three left-out classes of twelve VPN services and on four malware families together that none of
the published draws leaves out together."""
BANK = 512
"""Vectors kept of training rows: 512 x 32 numbers are 130 kB of JSON; more did not change which method won."""
_BY_STATES = frozenset({"typical", "joint", "nearest", "nearest_energy"})
"""Taken whatever the trials say, the last of them that can be: see `choose`."""
ENERGY_WEIGHT = 0.5
"""`nearest_energy`: share of `faint` beside the distance."""
FALSE_ALARMS, BOUND = 0.05, 0.8
LEAST_CAPTURES = 20
_ENERGY_T = 2.0
_K = 5


@dataclass(frozen=True, slots=True)
class Rows:
    """Scored rows: `logits` float64 [n, labels] log-probabilities, `y` label indices, and where they are known `hidden` and `pooled`
    [n, width], `readout` [n, labels] logits and `groups` [n], numbers of the captures they are from."""

    logits: F64
    y: I64
    hidden: F64 | None = None
    pooled: F64 | None = None
    readout: F64 | None = None
    groups: I64 | None = field(default=None, kw_only=True)

    def pick(self, rows: I64) -> Rows:
        """Some of the rows."""
        states = (None if side is None else side[rows] for side in (self.hidden, self.pooled, self.readout))
        return Rows(self.logits[rows], self.y[rows], *states, groups=None if self.groups is None else self.groups[rows])


def _rounded(values: F64) -> list[Any]:
    return list(np.round(values, 5).tolist())


def _projection(hidden: F64, *, whiten: bool = True) -> dict[str, Any]:
    """Mean and principal directions [width, <= 32], whitened where distances should not follow the widest direction only."""
    mean = hidden.mean(axis=0)
    _, spread, directions = np.linalg.svd(hidden - mean, full_matrices=False)
    keep = max(int((spread > 1e-6 * max(spread[0], 1e-12)).sum()), 1) if len(spread) else 1
    keep = min(keep, DIMENSIONS)
    scale = np.maximum(spread[:keep] / np.sqrt(max(len(hidden) - 1, 1)), 1e-9) if whiten else np.ones(keep)
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


def _typical(train: Rows, val: Rows, seed: int) -> dict[str, Any]:
    """Parameters of `typical`: a bank of training rows, and how far validation rows of each class lie from their own."""
    assert train.pooled is not None
    assert val.pooled is not None
    base = _projection(train.pooled, whiten=False)
    in_bank = _bank(train.y, BANK, seed)
    params = base | {"weight": WEIGHT, "vectors": _rounded(unit(project(base, train.pooled))[in_bank]), "of": train.y[in_bank].tolist()}
    rows = np.flatnonzero((val.y >= 0) & np.isin(val.y, train.y))
    truth, classes = val.y[rows], train.logits.shape[1]
    vectors, of = np.asarray(params["vectors"]), np.asarray(params["of"])
    distances = class_distances(unit(project(base, val.pooled[rows])), vectors, of, classes)[np.arange(len(rows)), truth]
    overall = float(np.quantile(distances, REACH)) if len(distances) else 1.0
    scale = np.full(classes, overall)
    for c in np.unique(truth):
        own = distances[truth == c]
        scale[c] = (len(own) * np.quantile(own, REACH) + SHRINK * overall) / (len(own) + SHRINK)
    return params | {"scale": _rounded(scale + 1e-3)}


def core_set(z: F64, size: int) -> I64:
    """At most `size` rows that cover the rest: after the one nearest the mean direction always the row farthest from those taken (greedy
    k-centre, Gonzalez 1985). `z` [n, width] has rows of length 1.

    A sample as large misses small clusters of known flows: of 1,300 rows 512 drawn at random gave .928 AUROC, 256 that cover .948, all
    .952 (five draws of left-out malware classes, the base's states).

    >>> core_set(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 3).tolist()
    [0, 2]
    """
    if not len(z):
        return np.zeros(0, dtype=np.int64)
    taken = [int((z @ z.mean(axis=0)).argmax())]
    farthest = 1.0 - z @ z[taken[0]]
    while len(taken) < size and farthest.max() > 1e-6:
        taken.append(int(farthest.argmax()))
        farthest = np.minimum(farthest, 1.0 - z @ z[taken[-1]])
    return np.sort(np.array(taken, dtype=np.int64))


def _nearest(train: Rows) -> dict[str, Any]:
    """Parameters of `nearest`: training rows that cover the others."""
    assert train.pooled is not None
    base = _projection(train.pooled, whiten=False)
    z = unit(project(base, train.pooled))
    return base | {"vectors": _rounded(z[core_set(z, BANK)])}


def _joint(train: Rows, val: Rows, seed: int, temperature: float) -> dict[str, Any]:
    """Parameters of `joint`: those of `typical`, and where validation rows of known classes lie on both scores."""
    return _standardised(_typical(train, val, seed), calibration.PARTS, val, temperature)


def _standardised(params: dict[str, Any], names: Sequence[str], val: Rows, temperature: float) -> dict[str, Any]:
    """The parameters, with where validation rows of known classes lie on each of these scores."""
    labelled = val.pick(np.flatnonzero(val.y >= 0))
    if not len(labelled.y):
        return params | {"centre": [0.0, 0.0], "unit": [1.0, 1.0]}
    parts = np.stack([unknown_score(part, params, labelled, temperature) for part in names])
    centre = np.median(parts, axis=1)
    return params | {"centre": _rounded(centre), "unit": _rounded(np.quantile(parts, REACH, axis=1) - centre + 1e-3)}


def fit(method: str, train: Rows, seed: int = 0, *, val: Rows | None = None, temperature: float = 1.0) -> dict[str, Any]:
    """Parameters of one method from rows whose class the model knows (training rows); `typical`, `joint` and `nearest_energy` take scales
    from `val`, the latter two from its scores at `temperature`."""
    if method == "nearest":
        if not _has(method, train):
            raise ValueError(f"{method} needs hidden states of training rows")
        return _nearest(train)
    if method in ("typical", "joint", "nearest_energy"):
        if val is None or not _has(method, train) or not _has(method, val):
            raise ValueError(f"{method} needs hidden states of training and validation rows")
        if method == "nearest_energy":
            return _standardised(_nearest(train) | {"weight": ENERGY_WEIGHT}, calibration.NEAREST_PARTS, val, temperature)
        return _typical(train, val, seed) if method == "typical" else _joint(train, val, seed, temperature)
    if method == "energy":
        return {"temperature": _ENERGY_T}
    if method in ("max_probability", "faint"):
        return {}
    if train.hidden is None or not len(train.hidden):
        raise ValueError(f"{method} needs hidden states")
    base = _projection(train.hidden)
    z = project(base, train.hidden)
    if method == "knn":
        return base | {"k": _K, "vectors": _rounded(unit(z)[_bank(train.y, BANK, seed)])}
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
    classes = np.setdiff1d(np.arange(rows.logits.shape[1]), left_out)
    y = np.where(np.isin(rows.y, classes), np.searchsorted(classes, rows.y), -1)
    readout = None if rows.readout is None else rows.readout[:, classes]
    return Rows(log_softmax(rows.logits[:, classes]), y, rows.hidden, rows.pooled, readout, groups=rows.groups)


def _has(method: str, rows: Rows) -> bool:
    """Whether rows carry what a method reads."""
    return all((side := getattr(rows, name)) is not None and len(side) > 0 for name in calibration.NEEDS.get(method, ()))


@dataclass(frozen=True, slots=True)
class Trial:
    """One method's validation AUROC, and the share of strangers above the threshold of 5 % false alarms; means over the draws."""

    method: str
    auroc: float
    tpr_at_fpr05: float


def _left_out_scores(method: str, train: Rows, val: Rows, left_out: I64, temperature: float) -> tuple[F64, F64]:
    """Scores of validation rows of the left-out classes, and of the others."""
    val_without = _without(val, left_out)
    train_without = _without(train.pick(np.flatnonzero(~np.isin(train.y, left_out))), left_out)
    params = fit(method, train_without, val=val_without, temperature=temperature)
    values = unknown_score(method, params, val_without, temperature)
    strange = np.isin(val.y, left_out)
    return values[strange], values[~strange]


def trial(method: str, train: Rows, val: Rows, *, temperature: float, outliers: Rows | None, seed: int) -> Trial:
    """How well a method tells left-out classes, and `outliers` of other tasks if given, from known ones."""
    pairs = [_left_out_scores(method, train, val, left_out, temperature) for left_out in draws(val.logits.shape[1], seed)]
    if outliers is not None and len(outliers.y):
        params = fit(method, train, val=val, temperature=temperature)
        known_scores = unknown_score(method, params, val, temperature)
        pairs.append((unknown_score(method, params, outliers, temperature), known_scores))
    usable = [(strange, known_scores) for strange, known_scores in pairs if len(strange) and len(known_scores)]
    if not usable:
        return Trial(method, 0.5, 0.0)
    areas = [metrics.auroc(*pair) for pair in usable]
    rates = [metrics.tpr_at_fpr(*pair, FALSE_ALARMS) for pair in usable]
    return Trial(method, float(np.mean(areas)), float(np.mean(rates)))


def _fitted(method: str, train: Rows, val: Rows, temperature: float, seed: int) -> dict[str, Any]:
    """A method with its parameters and its threshold at 5 % false alarms on validation, or fewer: see `threshold`."""
    params = fit(method, train, seed, val=val, temperature=temperature)
    known_scores = unknown_score(method, params, val, temperature)
    return {"method": method, "threshold": threshold(known_scores, val.groups) if len(known_scores) else 1e9, "params": params}


def threshold(scores: F64, groups: I64 | None, *, draws: int = 200, seed: int = 0) -> float:
    """The threshold that at most 5 % of flows of captures not seen yet should exceed, from `scores` [n] of validation flows.

    Flows of one capture are alike, so each capture counts equally, and we take the 80th percentile (BOUND) of the thresholds of 200
    bootstrap samples of captures. With fewer than nineteen captures there is no 95th percentile of captures: the largest of n stands for
    1 in n + 1, and its distance from the median is stretched to 1 in 20 as on an exponential tail, by at most half. Without `groups` it is
    the plain quantile. On halves of validation captures not fitted on, the plain quantile over flows gave 13, 11 and 7 % unknown (mean
    over captures; malware, apps, VPN services), this 7, 2 and 2.
    """
    if groups is None or not len(scores):
        return metrics.threshold_at_fpr(scores, FALSE_ALARMS)
    _, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    ordered, of = scores[order], of[order]
    rng = np.random.default_rng(seed)
    thresholds = []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, len(sizes), len(sizes)), minlength=len(sizes))
        weight = (times / sizes)[of]
        above = weight[::-1].cumsum()[::-1] - weight  # the share that each value would call unknown
        thresholds.append(ordered[np.argmax(above <= FALSE_ALARMS * weight.sum() + 1e-9)])
    median, captures = float(np.median(scores)), max(len(sizes), 3)
    stretch = np.clip(np.log(0.5 / FALSE_ALARMS) / np.log((captures + 1) / 2), 1.0, 1.5)
    return float(median + stretch * max(np.quantile(thresholds, BOUND) - median, 0.0))


def without_own_capture(unknown: Params, rows: Rows, in_bank: Flags, folds: I64, temperature: float) -> F64:
    """A fitted method's scores [n] of learning rows as those of captures not seen: what distances are measured to are rows of other folds
    alone, of those `in_bank` [n]. `folds` [n] keep captures whole; the rows' readout logits must be out of capture too."""
    method, params = str(unknown["method"]), unknown["params"]
    scores = unknown_score(method, params, rows, temperature)
    if method not in ("nearest", "nearest_energy"):
        return scores
    for fold in np.unique(folds):
        mine, others = np.flatnonzero(folds == fold), np.flatnonzero((folds != fold) & in_bank)
        if len(others):
            scores[mine] = unknown_score(method, {**params, **_nearest(rows.pick(others))}, rows.pick(mine), temperature)
    return scores


def capture_threshold(scores: F64, groups: Sequence[str]) -> float | None:
    """The threshold that 5 % of all flows exceed, or that where each capture counts equally, whichever is higher, from scores [n] out of
    capture; None with fewer than twenty captures, of which there is no 95th percentile.

    Chosen on validation captures that the threshold was not fitted on (halves of all learning captures; `nearest_energy`): called unknown
    5.8, 4.6, 4.2, 4.1, 6.1, 4.5 % of malware, VPN services, apps, DNS tunnels, web requests, page loads; `threshold` on validation
    captures alone 3.0, 4.3, 3.6, 2.3, 4.1, 4.7 %, on all 4.0, 5.6, 3.1, 2.0, 5.4, 4.3 %, captures alike 6.0, 7.1, 5.4, 4.6, 6.1, 4.5 %.
    """
    _, of, sizes = np.unique(list(groups), return_inverse=True, return_counts=True)
    if len(sizes) < LEAST_CAPTURES:
        return None
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum((1.0 / sizes)[of][order]) / len(sizes)
    alike = scores[order[min(int(np.searchsorted(reached, 1.0 - FALSE_ALARMS - 1e-12)), len(order) - 1)]]
    return max(float(alike), metrics.threshold_at_fpr(scores, FALSE_ALARMS))


def choose(
    train: Rows, val: Rows, *, temperature: float, outliers: Rows | None = None, seed: int = 0, methods: Sequence[str] = METHODS
) -> dict[str, Any]:
    """The `unknown` object of a calibration: method, threshold at 5 % false alarms on validation, parameters.

    Also `auroc` and `tpr_at_fpr05` on validation, `trials` of every method, and as `bare` the better one of those WITHOUT_STATES, for
    scorers that have no hidden states (a remote server, a cascade). `nearest` is taken wherever means over the record are there, and
    `nearest_energy` wherever there is a readout too: trials that leave classes out of a model which has learnt them flatter distances
    at the answer (measured: AUROC .93 in trials, .70 on classes never learnt). Otherwise the best trial wins, and a later method must be
    better by .01 AUROC.
    """
    usable = [m for m in methods if all(_has(m, side) for side in (train, val))]
    trials = [trial(method, train, val, temperature=temperature, outliers=outliers, seed=seed) for method in usable]
    best = trials[0]
    for candidate in trials[1:]:
        if candidate.method in _BY_STATES or candidate.auroc > best.auroc + 0.01:
            best = candidate
    bare = max((t for t in trials if t.method in WITHOUT_STATES), key=lambda t: t.auroc, default=best)
    return {
        **_fitted(best.method, train, val, temperature, seed),
        "bare": _fitted(bare.method, train, val, temperature, seed),
        "auroc": best.auroc,
        "tpr_at_fpr05": best.tpr_at_fpr05,
        "trials": {t.method: {"auroc": t.auroc, "tpr_at_fpr05": t.tpr_at_fpr05} for t in trials},
    }
