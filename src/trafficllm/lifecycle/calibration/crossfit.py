"""Calibration across captures: every learning capture is scored by a readout that has not learnt it.

The states of training and validation rows are computed once. With each fifth of the captures left out, a readout is fitted on the others
and scores those left out; temperature, sets and unknown score are fitted on these out-of-capture scores. Then validation has done its
work, and the readout that serves learns training and validation rows together.

Measured with one tuned adapter each of three tasks, macro-F1 on reserved captures, readout of training rows -> of both: malware .822 ->
.833, apps .575 -> .571, VPN services .671 -> .741. Tuning has seen the training captures, so their states, and the label trie most of all,
are surer than those of a new capture: they share only where that measured better, in the temperature (`evaluate.calibrate.fit`) and the
unknown threshold (`evaluate.unknown.capture_threshold`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trafficllm.core.sampling import evenly_over_labels, every_nth
from trafficllm.core.types import F64, I64, Scores
from trafficllm.lifecycle.studies import scoring
from trafficllm.registry import members

if TYPE_CHECKING:
    from trafficllm.evaluate import unknown
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.model.adapter.readout import Readout
    from trafficllm.model.base.load import Base
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset

FOLDS = 5
LEARNT, HELD_OUT = 3000, 1500
"""Training rows at most, evenly over labels, and validation rows at most, every n-th: half a minute of one core for the embedded base."""
STRENGTH, STEPS = 0.03, 60
"""C and L-BFGS steps of each fit. Cross-fitted loss on validation captures at C .1, .03, .01: apps 1.57, 1.58, 1.58, VPN services 1.20,
1.19, 1.19, malware .148, .143, .144."""
BALANCE = 0.5
"""Power of the inverse label frequency in the loss, as in tuning."""


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """What a scorer becomes: the `readouts` of all learning rows, one a member, the `calibration` fitted out of capture (JSON), and the
    `answers`, by row, that readouts without a validation row's capture gave."""

    readouts: tuple[Readout, ...]
    calibration: dict[str, Any]
    answers: dict[int, str]


@dataclass(frozen=True, slots=True)
class Learning:
    """Learning rows: their numbers in the data set, label indices, captures, and scores of the label trie alone with all states. The
    first `held_out` rows are validation; the states of `members` stand side by side."""

    rows: list[int]
    y: I64
    groups: list[str]
    scores: Scores
    held_out: int
    members: int = 1

    @property
    def features(self) -> list[Any]:
        """Pooled states float32 [n, features] of each member."""
        assert self.scores.features is not None
        return np.split(self.scores.features, self.members, axis=1)

    def labels(self, some: slice) -> list[str]:
        """Labels of some of the rows."""
        return [self.scores.labels[k] for k in self.y[some]]

    def left_out(self) -> tuple[F64, Any]:
        """Readout logits [n, labels] out of capture, means over members, and which rows have one that counts: their label is learnt from
        other captures."""
        folds = capture_folds(self.groups)
        logits, counts = np.zeros((len(self.y), len(self.scores.labels))), np.zeros(len(self.y), dtype=bool)
        for fold in np.unique(folds):
            mine = folds == fold
            for features in self.features:
                matrix, bias = fitted(features[~mine], self.y[~mine], len(self.scores.labels))
                logits[mine] += (features[mine] @ matrix + bias) / self.members
            counts[mine] = np.isin(self.y[mine], self.y[~mine])
        return logits, counts


def capture_folds(groups: Sequence[str], count: int = FOLDS) -> I64:
    """The fold of each row [n], whole captures; with fewer than two captures a fold, rows go round the folds instead.

    >>> capture_folds(["a", "a", "b", "c"], 2).tolist()
    [0, 1, 0, 1]
    """
    from trafficllm.evaluate.umbrella import source_groups

    if len(set(groups)) < 2 * count:
        return np.arange(len(groups), dtype=np.int64) % count
    return source_groups(groups, count)


def fitted(features: Any, y: I64, classes: int) -> tuple[Any, Any]:
    """Matrix [features, classes] and bias [classes] of a readout of features float32 [n, features]."""
    import torch

    from trafficllm.model.adapter.readout import logistic
    from trafficllm.model.tuning.options import class_weights

    weights = class_weights([str(k) for k in y.tolist()], BALANCE)
    of_class = torch.tensor([weights.get(str(k), 1.0) for k in range(classes)])
    matrix, bias = logistic(torch.from_numpy(features), torch.from_numpy(y), of_class, STRENGTH, steps=STEPS)
    return matrix.numpy(), bias.numpy()


def cross_fit(scorer: LLMScorer, dataset: Dataset, *, seed: int = 0, weight: float | None = None) -> CrossFitted | None:
    """Cross-fitted calibration of a scorer whose adapter has a readout, and the readout that serves; None where it has none, or the data
    set no validation rows. The scorer stays as it is. `weight`: the readout's share of the verdict, instead of choosing it."""
    own = scorer.engine.readout(scorer.adapter, scorer.labels)
    learning = _learning(scorer, dataset) if own is not None else None
    if own is None or learning is None:
        return None
    calibration, best = _calibration(learning, seed, weight)
    readouts = stored(_readout(own, features, learning.y) for features in learning.features)
    answers = {row: scorer.labels[k] for row, k in zip(learning.rows, best.tolist(), strict=False)}
    return CrossFitted(readouts, calibration, answers)


def stored(readouts: Iterable[Readout]) -> tuple[Readout, ...]:
    """One readout a member as a version stores them: those of several in float16, so that three members are not three times as large."""
    each = tuple(readouts)
    return each if len(each) == 1 else tuple(readout.halved() for readout in each)


def _readout(own: Readout, features: Any, y: I64) -> Readout:
    """A readout of the same states and labels, learnt from these rows."""
    import torch

    matrix, bias = fitted(features, y, len(own.labels))
    return replace(own, matrix=torch.from_numpy(matrix), bias=torch.from_numpy(bias))


def finish(base: Base, dataset: Dataset, task: Task, folder: Path, *, seed: int = 0) -> dict[str, Any] | None:
    """Cross-fit the adapter in a folder and write its members' readouts there; the calibration to keep with it, None where nothing can be
    fitted. Again on the same folder it gives the same bytes: the numbers of the readouts that lie there are not read."""
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.engine.scorer import LLMScorer

    engine = Engine(base)
    engine.add_adapter(task.id, folder)
    scorer = LLMScorer(engine, task.id, task, scoring.labels_of(dataset), codec=dataset.codec)
    cross = cross_fit(scorer, dataset, seed=seed)
    if cross is None:
        return None
    for place, readout in zip(members.folders(folder), cross.readouts, strict=True):
        readout.save(place)
    return cross.calibration


def _learning(scorer: LLMScorer, dataset: Dataset) -> Learning | None:
    """Learning rows with their states; None without validation rows."""
    from trafficllm.core.metrics import indices
    from trafficllm.infer.engine.scorer import WEIGHT

    val, y_val = scoring.distinct(dataset, *scoring.rows(dataset, "val", scorer.labels))
    train, y_train = scoring.distinct(dataset, *scoring.rows(dataset, "train", scorer.labels))
    if not val:
        return None
    held = every_nth(range(len(val)), HELD_OUT)
    some = evenly_over_labels(y_train, LEARNT)
    rows, y = [val[k] for k in held] + [train[k] for k in some], [y_val[k] for k in held] + [y_train[k] for k in some]
    past, scorer.calibration = scorer.calibration, {WEIGHT: 0.0}
    try:
        scores = scoring.score_rows(scorer, dataset, rows, features=True)
    finally:
        scorer.calibration = past
    count = len(scorer.engine.members(scorer.adapter))
    return Learning(rows, indices(scorer.labels, y), _groups(dataset, rows), scores, len(held), count)


def _groups(dataset: Dataset, rows: Sequence[int]) -> list[str]:
    """The captures of rows; of page loads, which many users' visits put into one file, each by itself."""
    return [str(row) for row in rows] if dataset.kind == "cells" else dataset.groups(rows)


def _calibration(learning: Learning, seed: int, weight: float | None = None) -> tuple[dict[str, Any], I64]:
    """The calibration, and the likeliest label of each validation row out of capture."""
    from trafficllm.core.calibration import log_softmax
    from trafficllm.evaluate import calibrate as fitting
    from trafficllm.evaluate import unknown
    from trafficllm.infer.engine.scorer import WEIGHT

    scores, (readout, counts) = learning.scores, learning.left_out()
    val, train = slice(0, learning.held_out), slice(learning.held_out, None)
    if weight is None:
        captures = learning.groups[: learning.held_out]
        weight, _ = fitting.choose_weight(scores.logits[val], readout[val], learning.labels(val), scores.labels, captures, seed=seed)
    logits = log_softmax((1.0 - weight) * scores.logits + weight * log_softmax(readout))
    held = np.flatnonzero(counts[val])
    taught = learning.held_out + np.flatnonzero(counts[train])
    bank = learning.held_out + np.array(evenly_over_labels(learning.labels(train), scoring.BANK), dtype=np.int64)
    states = {name: side.astype(np.float64) for name in ("hidden", "pooled") if (side := getattr(scores, name)) is not None}
    fit = fitting.fit(
        logits[held],
        [scores.labels[k] for k in learning.y[held]],
        scores.labels,
        **{name: side[held] for name, side in states.items()},
        readout=readout[held],
        groups=[learning.groups[k] for k in held],
        train=(_picked(scores, logits, readout, bank), [scores.labels[k] for k in learning.y[bank]]),
        more=fitting.OutOfCapture(logits[taught], learning.y[taught], [learning.groups[k] for k in taught]),
        seed=seed,
    )
    calibration = fit.as_dict() | {WEIGHT: weight}
    learnt = unknown.Rows(logits, learning.y, states.get("hidden"), states.get("pooled"), readout)
    threshold = _threshold(learning, calibration, learnt, np.flatnonzero(counts), bank)
    if threshold is not None:
        calibration["unknown"] = calibration["unknown"] | {"threshold": threshold}
    return calibration, logits[val].argmax(axis=1)


def _threshold(learning: Learning, calibration: dict[str, Any], rows: unknown.Rows, counted: I64, bank: I64) -> float | None:
    """The unknown threshold from all learning captures, each scored without its own rows; None where they are too few."""
    from trafficllm.evaluate import unknown

    in_bank = np.zeros(len(learning.y), dtype=bool)
    in_bank[bank] = True
    folds = capture_folds(learning.groups)
    scores = unknown.without_own_capture(calibration["unknown"], rows, in_bank, folds, calibration["temperature"])
    return unknown.capture_threshold(scores[counted], [learning.groups[k] for k in counted])


def _picked(scores: Scores, logits: F64, readout: F64, rows: I64) -> Scores:
    """Some rows' scores with other logits."""
    hidden, pooled = (None if side is None else side[rows] for side in (scores.hidden, scores.pooled))
    return Scores(scores.labels, np.exp(logits[rows]), logits[rows], hidden, pooled, readout[rows].astype(np.float32))
