"""Which score tells that a flow belongs to no class of the task.

Higher = stranger, for every method. From log-probabilities `logits` [n, labels], calibrated `probabilities` p, hidden states h [n, width]
at the answer, means m [n, width] over the record and logits r [n, labels] of a readout, not normalised:

- `max_probability`: 1 - max p.
- `energy`: t * logsumexp(logits / t), t = 2 (t = 1 is 0 for every row, as log-probabilities are normalised).
- `knn`: z = unit((h - mean) @ components); distance from z to its k-th nearest of `vectors`.
- `mahalanobis`: z = (h - mean) @ components; least (z - c) @ precision @ (z - c) over class `centres` c.
- `typical`: z = unit((m - mean) @ components), not whitened; d_c = 1 - the largest cosine with class c's `vectors`; the least over c
  of `weight` * d_c / `scale`_c - log p_c: some label must be likely and the flow must look like that label's own flows.
- `faint`: -logsumexp(r), the energy that normalising takes away: how little any label's direction shows in the record.
- `joint`: the sum of `typical` and `faint`, each less its validation median `centre`, by its way `unit` from there to the 95 % quantile.

The parameters are plain JSON numbers; `infer.calibration` applies them by these same formulas.
Sources: Liu et al. 2020 (energy), Sun et al. 2022 (k-NN), Lee et al. 2018 (Mahalanobis).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trafficllm.core.types import F64, I64
from trafficllm.evaluate import metrics

METHODS = ("max_probability", "energy", "knn", "mahalanobis", "faint", "typical", "joint")
NEEDS: dict[str, tuple[str, ...]] = {
    "knn": ("hidden",),
    "mahalanobis": ("hidden",),
    "faint": ("readout",),
    "typical": ("pooled",),
    "joint": ("pooled", "readout"),
}
"""What of `Rows`, beside log-probabilities, a method reads."""
JOINED = ("typical", "faint")
"""What `joint` sums, in the order of its `centre` and `unit`. Chosen on classes left out where no published draw was looked at. AUROC of
`joint`, `faint`, `typical` and 1 - max probability with adapters: .801, .819, .782, .797 (VPN services), .856, .849, .813, .810 (malware,
training captures alone), .729, .636, .768, .668 (apps, ten strangers); by the base's states alone, mean of sixteen draws of four tasks,
.746, .723, .736, .740."""
DIMENSIONS = 32
WEIGHT, REACH, SHRINK = 0.5, 0.95, 5
"""`typical`: weight of the distance; its scale is the distance that this share of a class's validation rows stays below, pulled to all
classes' as if by so many rows. Chosen on three left-out classes of twelve VPN services and on four malware families together that none of
the published draws leaves out together."""
BANK = 512
"""Vectors kept for k-NN: 512 x 32 numbers are 130 kB of JSON; more did not change which method won."""
FALSE_ALARMS, BOUND = 0.05, 0.8
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


def log_softmax(logits: F64) -> F64:
    """Normalised log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def _logsumexp(values: F64) -> F64:
    top = values.max(axis=1)
    return np.asarray(top + np.log(np.exp(values - top[:, None]).sum(axis=1)))


def _project(params: Mapping[str, Any], hidden: F64) -> F64:
    return np.asarray((hidden - np.asarray(params["mean"])) @ np.asarray(params["components"]), dtype=np.float64)


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


def score(method: str, params: Mapping[str, Any], rows: Rows, temperature: float) -> F64:
    """Strangeness of each row [n]; ValueError where rows lack what the method NEEDS."""
    logits, hidden = rows.logits, rows.hidden
    if any(getattr(rows, name) is None for name in NEEDS.get(method, ())):
        raise ValueError(f"{method} needs hidden states")
    if method == "max_probability":
        return np.asarray(1.0 - np.exp(log_softmax(logits / temperature)).max(axis=1), dtype=np.float64)
    if method == "energy":
        return np.asarray(params["temperature"] * _logsumexp(logits / params["temperature"]))
    if method == "faint":
        assert rows.readout is not None
        return -_logsumexp(rows.readout)
    if method == "joint":
        parts = np.stack([score(part, params, rows, temperature) for part in JOINED], 1)
        return np.asarray(((parts - np.asarray(params["centre"])) / np.asarray(params["unit"])).sum(axis=1))
    hidden = rows.pooled if method == "typical" else hidden
    assert hidden is not None
    z = _project(params, hidden)
    if method == "typical":
        far = params["weight"] * _to_classes(_unit(z), params, logits.shape[1]) / np.asarray(params["scale"])
        return np.asarray((far - log_softmax(logits / temperature)).min(axis=1))
    if method == "knn":
        return _nearest(_unit(z), np.asarray(params["vectors"]), int(params["k"]))
    return _to_centres(z, np.asarray(params["centres"]), np.asarray(params["precision"]))


def _to_classes(z: F64, params: Mapping[str, Any], classes: int) -> F64:
    """1 - the largest cosine of each row with each class's kept vectors [n, classes]; 2, the largest there is, where it has none."""
    vectors, of = np.asarray(params["vectors"]), np.asarray(params["of"])
    far = np.full((len(z), classes), 2.0)
    for c in np.unique(of):
        far[:, c] = 1.0 - (z @ vectors[of == c].T).max(axis=1)
    return far


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
    kept = _bank(train.y, BANK, seed)
    params = base | {"weight": WEIGHT, "vectors": _rounded(_unit(_project(base, train.pooled))[kept]), "of": train.y[kept].tolist()}
    known = np.flatnonzero((val.y >= 0) & np.isin(val.y, train.y))
    classes = train.logits.shape[1]
    far = _to_classes(_unit(_project(base, val.pooled[known])), params, classes)[np.arange(len(known)), val.y[known]]
    everywhere = float(np.quantile(far, REACH)) if len(far) else 1.0
    scale = np.full(classes, everywhere)
    for c in np.unique(val.y[known]):
        mine = far[val.y[known] == c]
        scale[c] = (len(mine) * np.quantile(mine, REACH) + SHRINK * everywhere) / (len(mine) + SHRINK)
    return params | {"scale": _rounded(scale + 1e-3)}


def _joint(train: Rows, val: Rows, seed: int, temperature: float) -> dict[str, Any]:
    """Parameters of `joint`: those of `typical`, and where validation rows of known classes lie on both scores."""
    params = _typical(train, val, seed)
    known = val.pick(np.flatnonzero(val.y >= 0))
    if not len(known.y):
        return params | {"centre": [0.0, 0.0], "unit": [1.0, 1.0]}
    parts = np.stack([score(part, params, known, temperature) for part in JOINED])
    centre = np.median(parts, axis=1)
    return params | {"centre": _rounded(centre), "unit": _rounded(np.quantile(parts, REACH, axis=1) - centre + 1e-3)}


def fit(method: str, train: Rows, seed: int = 0, *, val: Rows | None = None, temperature: float = 1.0) -> dict[str, Any]:
    """Parameters of one method from rows whose class the model knows (training rows); `typical` and `joint` take scales from `val`, the
    latter from its scores at `temperature`."""
    if method in ("typical", "joint"):
        if val is None or not _has(method, train) or not _has(method, val):
            raise ValueError(f"{method} needs hidden states of training and validation rows")
        return _typical(train, val, seed) if method == "typical" else _joint(train, val, seed, temperature)
    if method == "energy":
        return {"temperature": _ENERGY_T}
    if method in ("max_probability", "faint"):
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
    y = np.where(np.isin(rows.y, kept), np.searchsorted(kept, rows.y), -1)
    readout = None if rows.readout is None else rows.readout[:, kept]
    return Rows(log_softmax(rows.logits[:, kept]), y, rows.hidden, rows.pooled, readout, groups=rows.groups)


def _has(method: str, rows: Rows) -> bool:
    """Whether rows carry what a method reads."""
    return all((side := getattr(rows, name)) is not None and len(side) > 0 for name in NEEDS.get(method, ()))


@dataclass(frozen=True, slots=True)
class Trial:
    """Mean validation AUROC and found share at 5 % false alarms of one method, over the draws."""

    method: str
    auroc: float
    found: float


def _left_out_scores(method: str, train: Rows, val: Rows, out: I64, temperature: float) -> tuple[F64, F64]:
    """Scores of validation rows of the left-out classes, and of the others."""
    reduced = _without(val, out)
    kept = _without(train.pick(np.flatnonzero(~np.isin(train.y, out))), out)
    fitted = fit(method, kept, val=reduced, temperature=temperature)
    values = score(method, fitted, reduced, temperature)
    strange = np.isin(val.y, out)
    return values[strange], values[~strange]


def trial(method: str, train: Rows, val: Rows, *, temperature: float, outliers: Rows | None, seed: int) -> Trial:
    """How well a method tells left-out classes, and `outliers` of other tasks if given, from known ones."""
    pairs = [_left_out_scores(method, train, val, out, temperature) for out in draws(val.logits.shape[1], seed)]
    if outliers is not None and len(outliers.y):
        fitted = fit(method, train, val=val, temperature=temperature)
        known = score(method, fitted, val, temperature)
        pairs.append((score(method, fitted, outliers, temperature), known))
    usable = [(strange, known) for strange, known in pairs if len(strange) and len(known)]
    if not usable:
        return Trial(method, 0.5, 0.0)
    areas = [metrics.auroc(*pair) for pair in usable]
    found = [metrics.found_at(*pair, FALSE_ALARMS) for pair in usable]
    return Trial(method, float(np.mean(areas)), float(np.mean(found)))


def _fitted(method: str, train: Rows, val: Rows, temperature: float, seed: int) -> dict[str, Any]:
    """A method with its parameters and its threshold at 5 % false alarms on validation, or fewer: see `threshold`."""
    params = fit(method, train, seed, val=val, temperature=temperature)
    known = score(method, params, val, temperature)
    return {"method": method, "threshold": threshold(known, val.groups) if len(known) else 1e9, "params": params}


def threshold(known: F64, groups: I64 | None, *, draws: int = 200, seed: int = 0) -> float:
    """Above which scores [n] of known flows 5 % of flows of captures not seen yet lie, by caution rather fewer.

    Flows of one capture are alike, so that n flows say less than n captures would: captures weigh alike, and of 200 bootstrap samples of
    captures the threshold that BOUND of them do not exceed is taken. Fewer than nineteen captures hold no 5 % of captures: the largest of
    n stands for 1 in n + 1, and the way from the median grows to 1 in 20 as on an exponential tail, by at most half. Without `groups`, the
    plain quantile. On halves of validation captures not fitted on, 5 % over flows gave 13, 11 and 7 % unknown (mean over captures; malware,
    apps, VPN services), this 7, 2 and 2.
    """
    if groups is None or not len(known):
        return metrics.threshold_at(known, FALSE_ALARMS)
    _, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(known, kind="stable")
    ordered, of = known[order], of[order]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, len(sizes), len(sizes)), minlength=len(sizes))
        weight = (times / sizes)[of]
        above = weight[::-1].cumsum()[::-1] - weight  # the share that each value would call unknown
        found.append(ordered[np.argmax(above <= FALSE_ALARMS * weight.sum() + 1e-9)])
    middle, few = float(np.median(known)), max(len(sizes), 3)
    longer = np.clip(np.log(0.5 / FALSE_ALARMS) / np.log((few + 1) / 2), 1.0, 1.5)
    return float(middle + longer * max(np.quantile(found, BOUND) - middle, 0.0))


def choose(
    train: Rows, val: Rows, *, temperature: float, outliers: Rows | None = None, seed: int = 0, methods: Sequence[str] = METHODS
) -> dict[str, Any]:
    """The `unknown` object of a calibration: method, threshold at 5 % false alarms on validation, parameters.

    Also `auroc`, `tpr_at_fpr05` on validation, `trials` of every method, and as `bare` the better one of those that need no hidden
    states, for scorers that have none (a remote server, a cascade). `typical` is taken wherever means over the records are there:
    leaving classes out of a model that has learnt them flatters distances at the answer, so these trials mislead (measured: .93 here,
    .70 on true strangers); and `joint` wherever there is a readout too. Else the best trial wins; methods that need
    hidden states take part where both sides have them, and a more complex one must be better by .01 AUROC.
    """
    usable = [m for m in methods if all(_has(m, side) for side in (train, val))]
    trials = [trial(method, train, val, temperature=temperature, outliers=outliers, seed=seed) for method in usable]
    best = trials[0]
    for candidate in trials[1:]:
        if candidate.method in ("typical", "joint") or candidate.auroc > best.auroc + 0.01:
            best = candidate
    by_probability = max((t for t in trials if t.method in METHODS[:2]), key=lambda t: t.auroc, default=best)
    return {
        **_fitted(best.method, train, val, temperature, seed),
        "bare": _fitted(by_probability.method, train, val, temperature, seed),
        "auroc": best.auroc,
        "tpr_at_fpr05": best.found,
        "trials": {t.method: {"auroc": t.auroc, "tpr_at_fpr05": t.found} for t in trials},
    }
