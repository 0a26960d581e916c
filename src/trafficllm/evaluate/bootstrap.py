"""Intervals by resampling groups (Efron 1979): flows of one capture stand or fall together.

Resampling flows instead would treat a capture's 500 near-equal flows as 500 independent facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trafficllm.core.metrics import f1, indices
from trafficllm.core.types import F64, I64

_CHUNK = 64


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """What a macro-F1 needs, summed a group: `hit`, `true`, `predicted` float64 [groups, labels]."""

    hit: F64
    true: F64
    predicted: F64

    def macro_f1(self, weights: F64) -> F64:
        """Macro-F1 of each resample; `weights` [resamples, groups] says how often each group was drawn.

        A label whose groups were all left out of a resample takes no part in that resample's mean.
        """
        true = weights @ self.true
        scores = f1(weights @ self.hit, true, weights @ self.predicted)
        present = true > 0
        seen = np.maximum(present.sum(axis=1), 1)
        return np.asarray((scores * present).sum(axis=1) / seen, dtype=np.float64)


def group_codes(groups: Sequence[object]) -> I64:
    """Integers 0..g-1 in order of first occurrence."""
    codes: dict[object, int] = {}
    return np.array([codes.setdefault(group, len(codes)) for group in groups], dtype=np.int64)


def count_groups(labels: Sequence[str], y_true: Sequence[str], y_pred: Sequence[str], groups: Sequence[object]) -> GroupCounts:
    """Per-group hits, truths and predictions of each label in `labels`; other labels count only as wrong."""
    code, truth, guess = group_codes(groups), indices(labels, y_true), indices(labels, y_pred)
    shape = (int(code.max()) + 1 if len(code) else 0, len(labels))

    def table(rows: F64, column: I64) -> F64:
        keep = np.asarray(rows, dtype=bool) & (column >= 0)
        flat = np.bincount(code[keep] * shape[1] + column[keep], minlength=shape[0] * shape[1])
        return flat.reshape(shape).astype(np.float64)

    everything = np.ones(len(code))
    return GroupCounts(table(truth == guess, truth), table(everything, truth), table(everything, guess))


def draws(groups: int, n_boot: int, seed: int) -> Iterator[F64]:
    """Chunks [<= 64, groups] of multinomial weights, `n_boot` rows in all: memory stays linear in groups."""
    rng = np.random.default_rng(seed)
    chance = np.full(groups, 1.0 / groups)
    for start in range(0, n_boot, _CHUNK):
        yield rng.multinomial(groups, chance, size=min(_CHUNK, n_boot - start)).astype(np.float64)


def interval(runs: Sequence[GroupCounts], *, n_boot: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of macro-F1, averaged over `runs` (one a seed, same groups).

    One group says nothing about other groups: the interval is then (0, 1).
    """
    groups = runs[0].true.shape[0] if runs else 0
    if groups < 2:
        return 0.0, 1.0
    values = np.concatenate([np.mean([run.macro_f1(w) for run in runs], axis=0) for w in draws(groups, n_boot, seed)])
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Paired:
    """Macro-F1 `before` and `after` on the same rows; one-sided 95 % `lower` bound of the difference."""

    before: float
    after: float
    lower: float
    groups: int


def paired(
    labels: Sequence[str],
    y_true: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    groups: Sequence[object],
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Paired:
    """One-sided paired bootstrap over groups: is `after` not worse than `before`?

    With fewer than two groups `lower` is -1: too few to tell.
    """
    old, new = count_groups(labels, y_true, before, groups), count_groups(labels, y_true, after, groups)
    n = old.true.shape[0]
    whole = np.ones((1, n))
    points = (float(old.macro_f1(whole)[0]), float(new.macro_f1(whole)[0])) if n else (0.0, 0.0)
    if n < 2:
        return Paired(*points, lower=-1.0, groups=n)
    gain = np.concatenate([new.macro_f1(w) - old.macro_f1(w) for w in draws(n, n_boot, seed)])
    return Paired(*points, lower=float(np.percentile(gain, 5)), groups=n)
