"""Few shots: which flows are learnt from, and trees that make the most of them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core.files import hash64
from trafficllm.core.metrics import macro_f1_of_indices
from trafficllm.core.types import F64
from trafficllm.evaluate.baselines.learners import VIEWS, Data, Part, fit_booster, fit_forest

SIZES = (5, 10, 20, 50)
_VIEWS = ("all", "sizes_times")
_LEAVES: tuple[Mapping[str, Any], ...] = (
    {"rounds": 60, "learning_rate": 0.1, "num_leaves": 7, "min_data_in_leaf": 1, "balanced": True},
    {"rounds": 60, "learning_rate": 0.1, "num_leaves": 15, "min_data_in_leaf": 3, "balanced": True},
)
_FOREST: Mapping[str, Any] = {"trees": 200, "min_samples_leaf": 1, "balanced": True}
NAMES = ("lightgbm", "random_forest")


def draw(y: Sequence[str], content: Sequence[int], shots: int, seed: int) -> list[int]:
    """At most `shots` rows of each label with unlike contents, by a hash of seed and content: 5 shots are among the 10 of one seed.

    >>> draw(["a", "a", "b", "a"], [1, 1, 2, 3], 2, 0)
    [0, 2, 3]
    """
    order = sorted(range(len(y)), key=lambda i: (hash64(f"{seed} {content[i]}".encode()), i))
    taken: dict[str, set[int]] = defaultdict(set)
    rows = []
    for i in order:
        mine = taken[y[i]]
        if len(mine) < shots and content[i] not in mine:
            mine.add(content[i])
            rows.append(i)
    return sorted(rows)


def _pick(part: Part, rows: Sequence[int]) -> Part:
    return dataclasses.replace(part, records=[part.records[k] for k in rows], y=[part.y[k] for k in rows], raw=(), meta=())


def trees(name: str, train: Part, judged: Part, labels: Sequence[str], *, seed: int = 0, threads: int = 1) -> F64:
    """Label probabilities [n, labels] of LightGBM or a random forest learnt from a few rows.

    LightGBM's columns and leaves are chosen by two-fold cross-validation on the shots alone; then it learns from all of them.
    """
    if name == "random_forest":
        data = Data(tuple(labels), train, Part((), ()), seed=seed, threads=threads)
        return fit_forest(data, "all", _FOREST)(VIEWS["all"](judged))
    halves = [[k for k in range(len(train.y)) if k % 2 == side] for side in (0, 1)]
    parts = [_pick(train, rows) for rows in halves]
    sides = [Data(tuple(labels), own, other, seed=seed, threads=threads) for own, other in (parts, parts[::-1])]
    best, most = (_VIEWS[0], _LEAVES[0]), -1.0
    for view in _VIEWS:
        for leaves in _LEAVES:
            score = float(np.mean([_score(side, view, leaves) for side in sides]))
            if score > most:
                best, most = (view, leaves), score
    data = Data(tuple(labels), train, Part((), ()), seed=seed, threads=threads)
    return fit_booster(data, *best)(VIEWS[best[0]](judged))


def in_context(checkpoint: Path, train: Part, judged: Part, labels: Sequence[str], *, seed: int = 0, threads: int = 1) -> F64:
    """Label probabilities [n, labels] of TabICL, whose weights `checkpoint` holds, with all of a few rows as context."""
    from trafficllm.evaluate.baselines.in_context import CONTEXT, fit_in_context

    data = Data(tuple(labels), train, Part((), ()), seed=seed, threads=threads, checkpoint=checkpoint)
    return fit_in_context(data, "all", {"rows": CONTEXT})(VIEWS["all"](judged))


def _score(data: Data, view: str, params: Mapping[str, Any]) -> float:
    if not data.train.y or not data.val.y:
        return 0.0
    blind = Data(data.labels, data.train, Part((), ()), seed=data.seed, threads=data.threads)
    guess = fit_booster(blind, view, params)(data.matrix("val", view)).argmax(axis=1)
    return macro_f1_of_indices(data.truth("val"), guess, len(data.labels))
