"""Is live traffic still like what an adapter was trained on? Which fields moved, since when, is an update due.

PSI (population stability index) a field, with the usual reading: below .1 stable, above .25 moved. MMD is the squared
maximum mean discrepancy under a Gaussian kernel (Gretton et al. 2012), with a permutation test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import F64, Record, Scores
from trafficllm.evaluate.baselines import features
from trafficllm.evaluate.baselines.probes import field_of
from trafficllm.evaluate.results import Drift, DriftField
from trafficllm.records.codec.canonical import DEFAULT

MOVED = 0.25
_BINS = 10
_MOST = 400
_WINDOWS = 10
_SMALL = 0.5


def psi(before: F64, now: F64) -> float:
    """Population stability index of one column over deciles of `before`, half a count added to each bin."""
    edges = np.unique(np.quantile(before, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = len(edges) + 1
    counts = [np.bincount(np.searchsorted(edges, x, side="right"), minlength=bins) + _SMALL for x in (before, now)]
    old, new = (c / c.sum() for c in counts)
    return float(((new - old) * np.log(new / old)).sum())


def psi_noise(before: int, now: int) -> float:
    """PSI that two samples of one population show by chance, at about its 95th percentile (9 degrees of freedom)."""
    return 16.9 * (1.0 / max(before, 1) + 1.0 / max(now, 1))


def field_drift(names: Sequence[str], before: F64, now: F64) -> dict[str, float]:
    """Largest PSI among the columns of each field, most moved first."""
    worst: dict[str, float] = {}
    for column, name in enumerate(names):
        if np.ptp(before[:, column]) or np.ptp(now[:, column]) or before[0, column] != now[0, column]:
            field = field_of(name)
            worst[field] = max(worst.get(field, 0.0), psi(before[:, column], now[:, column]))
    return dict(sorted(worst.items(), key=lambda item: (-item[1], item[0])))


def _thin(X: F64, rng: np.random.Generator) -> F64:
    return X if len(X) <= _MOST else X[rng.choice(len(X), _MOST, replace=False)]


def mmd(before: F64, now: F64, *, seed: int = 0, permutations: int = 100) -> tuple[float, float]:
    """Squared MMD of two samples [n, columns] (standardised, median kernel width) and its permutation p-value."""
    rng = np.random.default_rng(seed)
    x, y = _thin(before, rng), _thin(now, rng)
    both = np.vstack([x, y])
    spread = both.std(axis=0)
    both = (both - both.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    squared = np.maximum((both**2).sum(1)[:, None] + (both**2).sum(1)[None] - 2 * both @ both.T, 0.0)
    kernel = np.exp(-squared / max(float(np.median(squared)), 1e-12))

    def value(sign: F64) -> float:
        return float(sign @ kernel @ sign)

    sign = np.concatenate([np.full(len(x), 1.0 / len(x)), np.full(len(y), -1.0 / len(y))])
    seen = value(sign)
    chance = [value(rng.permutation(sign)) for _ in range(permutations)]
    return seen, float((1 + sum(v >= seen for v in chance)) / (permutations + 1))


def since(names: Sequence[str], before: F64, now: F64, ts: Sequence[int], field: str) -> int | None:
    """Start (ns) of the first tenth of live traffic from which `field` has moved and stayed so, or None."""
    columns = [k for k, name in enumerate(names) if field_of(name) == field]
    order = np.argsort(np.asarray(ts), kind="stable")
    windows = [w for w in np.array_split(order, min(_WINDOWS, max(len(order) // 20, 1))) if len(w)]
    limits = [MOVED + psi_noise(len(before), len(w)) for w in windows]
    moved = [max(psi(before[:, k], now[w][:, k]) for k in columns) > limit for w, limit in zip(windows, limits, strict=True)]
    start = len(moved)
    while start and moved[start - 1]:
        start -= 1
    return int(ts[int(windows[start][0])]) if start < len(windows) else None


def _confidence(scores: Scores | None, unknown: Sequence[bool] | None) -> dict[str, float]:
    out = {} if scores is None else {"confidence": float(scores.probabilities.max(axis=1).mean())}
    return out | ({} if unknown is None else {"unknown": float(np.mean(unknown))})


def drift(
    trained_on: Sequence[Record],
    live: Sequence[Record],
    ts: Sequence[int],
    *,
    scores: tuple[Scores, Scores] | None = None,
    unknown: tuple[Sequence[bool], Sequence[bool]] | None = None,
    codec: CodecOptions = DEFAULT,
    seed: int = 0,
) -> Drift:
    """The `drift` object of `evaluate drift` from MASKED records the adapter was trained on, and live ones at times `ts` (ns).

    `scores` and `unknown`: (validation, live) scores and unknown verdicts of the adapter. Returns `score` (squared MMD), `p`,
    `fields` [{field, psi, since}] that moved, `since` (ns or None: the earliest of them), `confidence` and `unknown`
    before and now, and `update_due`: traffic differs beyond chance (p <= .01) and a field moved.
    """
    names = features.everything_names(trained_on, codec)
    before, now = features.everything(trained_on, codec), features.everything(live, codec)
    limit = MOVED + psi_noise(len(before), len(now))
    moved = {name: value for name, value in field_drift(names, before, now).items() if value > limit}
    value, p = mmd(features.sizes_times(trained_on, codec), features.sizes_times(live, codec), seed=seed)
    rows = [DriftField(field=f, psi=round(v, 4), since=since(names, before, now, ts, f)) for f, v in moved.items()]
    starts = [row.since for row in rows if row.since is not None]
    sides = [(scores or (None, None))[k] for k in (0, 1)]
    verdicts = [(unknown or (None, None))[k] for k in (0, 1)]
    return Drift(
        score=value,
        p=p,
        fields=rows,
        since=min(starts) if starts else None,
        before=_confidence(sides[0], verdicts[0]),
        now=_confidence(sides[1], verdicts[1]),
        update_due=p <= 0.01 and bool(rows),
    )
