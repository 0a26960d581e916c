"""Fitting on validation what `infer` applies: one temperature, and when a flow is `unknown`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trafficllm.core import metrics
from trafficllm.core.calibration import log_softmax
from trafficllm.core.types import F64, I64, Scores
from trafficllm.evaluate import unknown
from trafficllm.evaluate.bootstrap import paired

_LOW, _HIGH = np.log(0.05), np.log(20.0)
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, slots=True)
class CalibrationParams:
    """Fitted calibration; `as_dict` is the JSON that travels in an adapter's manifest.

    `temperature` divides the log-probabilities before they are normalised; `ece` and `ece_before` are on validation,
    the first by two-fold cross-fitting; `unknown` is what `evaluate.unknown.choose` returns; `set_90` is the least probability of labels
    in a verdict's set, see `least_in_set`.
    """

    temperature: float
    ece: float
    ece_before: float
    n: int
    unknown: dict[str, Any]
    set_90: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        return {
            "temperature": self.temperature,
            "ece": self.ece,
            "ece_before": self.ece_before,
            "n": self.n,
            "unknown": self.unknown,
            "set_90": self.set_90,
        }


@dataclass(frozen=True, slots=True)
class OutOfCapture:
    """Further rows scored by a readout that has not learnt their captures: `logits` [n, labels], label indices `truth` [n], captures."""

    logits: F64
    truth: I64
    groups: Sequence[str]


def nll(logits: F64, truth: I64, temperature: float, weights: F64 | None = None) -> float:
    """Mean negative log-likelihood of the truth at a temperature; rows alike without `weights` [n]."""
    return float(np.average(-log_softmax(logits / temperature)[np.arange(len(truth)), truth], weights=weights))


def captures_alike(groups: Sequence[str]) -> F64:
    """Weights [n] by which each capture counts as much as another.

    >>> captures_alike(["a", "a", "b"]).tolist()
    [0.5, 0.5, 1.0]
    """
    _, of, sizes = np.unique(list(groups), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / sizes[of], dtype=np.float64)


def fit_temperature(logits: F64, truth: I64, weights: F64 | None = None) -> float:
    """The temperature in [.05, 20] of least validation loss (Guo et al. 2017), by golden section to 1e-4; 1 for no rows."""
    if not len(truth):
        return 1.0
    low, high = _LOW, _HIGH
    while high - low > 1e-4:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if nll(logits, truth, float(np.exp(left)), weights) <= nll(logits, truth, float(np.exp(right)), weights):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


INSIDE = (0.2, 0.8)
DRAWS = 100


def temperature_near(start: float, logits: F64, truth: I64, groups: Sequence[str], *, seed: int = 0) -> float:
    """The temperature nearest to `start` between the 20th and 80th percentile of those fitted to 100 bootstrap samples of captures.

    For scores whose temperature is roughly known before, such as an adapter's label tree beside the adapter's verdict. ECE on the other
    half of the validation captures, mean of twenty halves, of this and of the plain fit: malware .044, .050, apps .192, .201, DNS tunnels
    .013, .016, attack tactics .437, .448. `start` for no rows.

    >>> logits, truth = np.log([[0.9, 0.1]] * 10), np.array([0] * 8 + [1] * 2)
    >>> round(temperature_near(1.0, logits, truth, [str(k) for k in range(10)]), 2), round(fit_temperature(logits, truth), 2)
    (1.0, 1.58)
    """
    if not len(truth):
        return start
    names, of = np.unique(list(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    times = (np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[of] for _ in range(DRAWS))
    low, high = np.quantile([fit_temperature(logits, truth, weights.astype(np.float64)) for weights in times], INSIDE)
    return float(np.clip(start, low, high))


WEIGHTS = (0.8, 1.0, 0.9, 0.6, 0.4, 0.2, 0.0)
"""Shares of the readout that are tried. The first one stays unless another is better by GAIN macro-F1 on validation, and surely so."""
GAIN = 0.01
CHOOSING = 400
"""Validation rows from which they may choose. Tuning kept the weights of its best look at these very rows, which flatters the label trie
beside a readout that has not learnt them: on 38 flows of 16 captures the trie alone was ahead by .11 [one-sided 95 %: .04]."""


def choose_weight(
    trie: F64, readout: F64, y: Sequence[str], labels: Sequence[str], groups: Sequence[object], *, seed: int = 0
) -> tuple[float, F64]:
    """The readout's share of the verdict and the mixed log-probabilities [n, labels], from the label trie's and the readout's logits.

    Another share than the first is taken only from CHOOSING rows on, and where a paired bootstrap over `groups`, the captures of the rows,
    has it ahead with 95 %.

    >>> trie, readout = np.log([[0.9, 0.1], [0.8, 0.2]]), np.log([[0.7, 0.3], [0.1, 0.9]])
    >>> choose_weight(trie, readout, ["a", "b"], ["a", "b"], groups=["x", "y"])[0]
    0.8
    """
    readout, first = log_softmax(readout), WEIGHTS[0]
    tried = WEIGHTS if len(y) >= CHOOSING else (first,)
    mixed = {w: log_softmax((1.0 - w) * trie + w * readout) for w in tried}
    answers = {w: [labels[k] for k in logits.argmax(axis=1)] for w, logits in mixed.items()}
    score = {w: metrics.macro_f1(labels, y, answer) for w, answer in answers.items()}
    best = max(tried, key=lambda w: score[w])
    ahead = score[best] > score[first] + GAIN
    if ahead and paired(labels, y, answers[first], answers[best], groups, seed=seed).lower > 0.0:
        return best, mixed[best]
    return first, mixed[first]


COVERAGE = 0.9


def least_in_set(probabilities: F64, truth: I64, groups: Sequence[str] | None = None, *, coverage: float = COVERAGE) -> float:
    """The least probability a label needs to be in a verdict's set, so that sets hold the truth of `coverage` of a new capture's flows.

    Split conformal over captures: 1 - p(truth) of validation flows, every capture weighing alike, and one capture more that is as bad as
    can be (hierarchical exchangeability: Lee, Barber, Willett 2023, arXiv 2306.06342). 0, every label, where there are too few captures
    to promise anything. Without `groups` each flow stands alone.

    >>> least_in_set(np.array([[0.9, 0.1]] * 9 + [[0.4, 0.6]]), np.zeros(10, int), coverage=0.8)
    0.9
    """
    if not len(truth):
        return 0.0
    scores = 1.0 - probabilities[np.arange(len(truth)), truth]
    names = [str(k) for k in range(len(truth))] if groups is None or not len(groups) else list(groups)
    _, of, sizes = np.unique(names, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum((1.0 / sizes)[of][order]) / (len(sizes) + 1)
    place = int(np.searchsorted(reached, coverage - 1e-12))
    return 0.0 if place >= len(order) else max(float(1.0 - scores[order[place]]), 0.0)


def _temperature(logits: F64, truth: I64, groups: Sequence[str] | None, more: OutOfCapture | None, start: float | None) -> float:
    """The temperature of validation rows, near `start` where one is given, or of these and `more` together, captures alike."""
    if start is not None and groups is not None:
        return temperature_near(start, logits, truth, groups)
    if more is None or groups is None:
        return fit_temperature(logits, truth)
    both = np.concatenate([logits, more.logits]), np.concatenate([truth, more.truth])
    return fit_temperature(*both, captures_alike([*groups, *more.groups]))


def _cross_ece(logits: F64, truth: I64, groups: Sequence[str] | None, more: OutOfCapture | None, start: float | None) -> float:
    """ECE where each half is scored at the temperature of the other half, and of `more`."""
    half = np.arange(len(truth)) % 2
    p = np.empty_like(logits)
    for side in (0, 1):
        mine = half == side
        others = None if groups is None or not len(groups) else [group for group, own in zip(groups, mine, strict=True) if not own]
        p[mine] = np.exp(log_softmax(logits[mine] / _temperature(logits[~mine], truth[~mine], others, more, start)))
    return metrics.ece(p, truth)


def _sides(val: unknown.Rows, train: unknown.Rows | None) -> tuple[unknown.Rows, unknown.Rows]:
    """Rows to fit distances on, and rows to choose and set the threshold on: never the same."""
    if train is not None and len(train.y):
        return train, val
    rows = np.arange(len(val.y))
    if val.hidden is None or len(rows) < 2:
        return val, val
    return val.pick(rows[rows % 2 == 0]), val.pick(rows[rows % 2 == 1])


def rows_of(scores: Scores, y: Sequence[str] | None = None) -> unknown.Rows:
    """Scores with their truths as label indices (-1: none of the labels)."""
    truth = metrics.indices(scores.labels, y) if y is not None else np.full(len(scores.logits), -1)
    states = (None if side is None else side.astype(np.float64) for side in (scores.hidden, scores.pooled, scores.readout))
    return unknown.Rows(scores.logits, truth, *states)


def fit(
    logits: F64,
    y: Sequence[str],
    labels: Sequence[str],
    *,
    hidden: F64 | None = None,
    pooled: F64 | None = None,
    readout: F64 | None = None,
    groups: Sequence[str] | None = None,
    train: tuple[Scores, Sequence[str]] | None = None,
    more: OutOfCapture | None = None,
    outliers: Scores | None = None,
    start: float | None = None,
    seed: int = 0,
) -> CalibrationParams:
    """Fit temperature and unknown score from validation rows.

    `logits` float64 [n, labels] log-probabilities of validation rows with labels `y`; `hidden` and `pooled` [n, width] their
    hidden states and `readout` [n, labels] the readout's logits (see Scores); `groups` the captures they are from, whose spread
    the threshold allows for;
    `train`: scores (with hidden states) and labels of training rows, which k-NN and Mahalanobis distances are
    fitted on; `more`: training rows out of capture, which share in the temperature, every capture counting alike (ECE on validation
    captures held out, without and with them, rows alike: VPN services .192, .156, malware .029, .022, apps .242, .217; VPN services with
    captures alike .136, the others not measured so); `outliers`: scores of validation rows of other tasks, as further strangers; `start`:
    a temperature to stay near to, see `temperature_near`. Raises ValueError where a truth is not in `labels`.

    >>> params = fit(np.log([[0.9, 0.1], [0.2, 0.8]]), ["a", "b"], ["a", "b"])
    >>> params.unknown["method"]
    'max_probability'
    """
    truth = metrics.indices(labels, y)
    if (truth < 0).any():
        raise ValueError("a validation row has a label outside the task's")
    logits = np.asarray(logits, dtype=np.float64).reshape(len(truth), len(labels))
    temperature = _temperature(logits, truth, groups, more, start)
    states = (None if side is None else np.asarray(side, dtype=np.float64) for side in (hidden, pooled, readout))
    captures = None if groups is None or not len(groups) else np.unique(list(groups), return_inverse=True)[1].astype(np.int64)
    val = unknown.Rows(logits, truth, *states, groups=captures)
    fitted_on, judged_on = _sides(val, rows_of(*train) if train else None)
    return CalibrationParams(
        temperature=temperature,
        ece=_cross_ece(logits, truth, groups, more, start),
        ece_before=metrics.ece(np.exp(log_softmax(logits)), truth) if len(truth) else 0.0,
        n=len(truth),
        set_90=least_in_set(np.exp(log_softmax(logits / temperature)), truth, groups),
        unknown=unknown.choose(fitted_on, judged_on, temperature=temperature, outliers=rows_of(outliers) if outliers else None, seed=seed),
    )
