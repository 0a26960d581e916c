"""What our model has to beat: the same rows, the same masks, a small search on validation, one table.

Validation chooses features, depth and rounds of learners of the training part; the learner that answers is then fitted on both parts, as
the adapter's readout is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core.errors import InputError
from trafficllm.core.files import sha256_file
from trafficllm.core.metrics import macro_f1_of_indices
from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import F64, Record, Scores
from trafficllm.evaluate.baselines import features, in_context, probes
from trafficllm.evaluate.baselines.learners import VIEWS, Boosted, Data, Model, Part, fit_booster, fit_forest, fit_knn, fit_linear
from trafficllm.evaluate.results import Baseline, Quality
from trafficllm.records.codec.canonical import DEFAULT

__all__ = ["NAMES", "VIEW_NAMES", "Data", "Fitted", "Outcome", "Part", "fit", "run"]

NAMES = ("majority", "identifier_probe", "artefact_probe", "knn", "lightgbm", "random_forest")
LINEAR = "linear"
"""Logistic regression on character n-grams: beside the others where records are HTTP requests."""
VIEW_NAMES = (
    "majority",
    "identifier_probe",
    "artefact_probe",
    "knn",
    "lightgbm_sizes_times",
    "lightgbm_headers_payload",
    "lightgbm_all",
    "random_forest",
)
"""The audit's rows: LightGBM once for each set of columns, so that it shows where the answer lies."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained baseline: a `Scorer` over masked records (the identifier probe wants a whole Part)."""

    name: str
    labels: tuple[str, ...]
    view: str
    model: Model
    params: Mapping[str, Any]
    seconds: float
    codec: CodecOptions = DEFAULT
    chosen: Model | None = None
    """The same learner of the training part alone, which says how sure validation rows may be answered."""

    def probabilities(self, part: Part, *, held_out: bool = False) -> F64:
        """Label probabilities float64 [n, labels], rows sum to 1; of the learner of the training part alone where validation is
        `held_out`."""
        if not part.records:
            return np.zeros((0, len(self.labels)))
        model = self.chosen if held_out and self.chosen is not None else self.model
        return model(VIEWS[self.view](part))

    def score(self, records: Sequence[Record]) -> Scores:
        """Scores of masked records, as any Scorer gives them."""
        p = self.probabilities(Part(records, (), codec=self.codec))
        return Scores(self.labels, p, np.log(np.maximum(p, 1e-12)))

    def predict(self, part: Part) -> list[str]:
        """The most likely label of each row; the first of the task's order on a tie."""
        return [self.labels[i] for i in self.probabilities(part).argmax(axis=1)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained baseline's answers: `predicted` labels and `probabilities` [n, labels] of the test part, `validation` [n, labels] of
    the validation part as given, by the learner of the training part alone; `params` that validation chose, `seconds` of training,
    `flows_per_s` of answering."""

    predicted: list[str]
    probabilities: F64
    validation: F64
    params: dict[str, Any]
    seconds: float
    flows_per_s: float
    fitted: Fitted


def _val_score(data: Data, view: str, model: Model) -> float:
    truth = data.truth("val")
    guess = model(data.matrix("val", view)).argmax(axis=1) if len(truth) else truth
    return macro_f1_of_indices(truth, guess, len(data.labels))


def _majority(data: Data) -> tuple[str, Model, dict[str, Any]]:
    share = np.bincount(data.truth("train"), minlength=len(data.labels)) / max(len(data.train.y), 1)
    return "sizes_times", lambda X: np.tile(share, (len(X), 1)), {}


def _one_field(data: Data) -> tuple[str, Model, dict[str, Any]]:
    """The best single field left after masking, as chosen on validation."""
    width = len(data.labels)
    scores = probes.field_scores(data.matrix("train", "all"), data.truth("train"), data.matrix("val", "all"), data.truth("val"), width)
    if not scores:
        return _majority(data)
    best = scores[0][1]
    name = features.everything_names(data.train.records, data.train.codec)[best.column]
    return "all", lambda X: np.eye(width)[best.predict(X)], {"field": name, "validation": scores[0][0]}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point of a search: which features, which parameters, estimated work in seconds of one core."""

    view: str
    params: Mapping[str, Any]
    work: float
    fit: Callable[[Data, str, Mapping[str, Any]], Model]


def _affordable(candidates: Sequence[Candidate], budget_s: float) -> Iterator[Candidate]:
    """Candidates in order while their estimated work fits; a clock instead would make results vary."""
    spent = 0.0
    for i, candidate in enumerate(candidates):
        spent += candidate.work
        if i and spent > budget_s:
            return
        yield candidate


def _search(data: Data, candidates: Sequence[Candidate]) -> tuple[Candidate, Model, dict[str, Any]]:
    best: tuple[float, Candidate, Model] | None = None
    tried = 0
    for candidate in _affordable(candidates, data.budget_s):
        model = candidate.fit(data, candidate.view, candidate.params)
        score = _val_score(data, candidate.view, model)
        tried += 1
        if best is None or score > best[0]:
            best = (score, candidate, model)
    assert best is not None
    score, best_try, model = best
    return best_try, model, {**best_try.params, "features": best_try.view, "validation": score, "tried": tried}


def _fitted_on_all(data: Data, choice: Candidate, model: Model) -> Model:
    """The chosen learner on training and validation rows together; LightGBM takes as many rounds as validation chose."""
    if not data.val.records:
        return model
    rounds = {"rounds": model.rounds} if isinstance(model, Boosted) else {}
    both = replace(data, train=data.train + data.val, val=replace(data.val, records=(), y=(), raw=(), meta=()), cache={})
    return choice.fit(both, choice.view, {**choice.params, **rounds})


def _views(data: Data) -> tuple[str, ...]:
    """Sets of columns that records of this kind have, the fullest first."""
    return ("sizes_times",) if data.train.kind == "cells" else ("all", "headers_payload", "sizes_times")


def _grid_linear(data: Data) -> list[Candidate]:
    work = 0.2 + len(data.train.records) * max(len(set(data.train.y)), 2) / 8000
    points = [{"C": c, "balanced": balanced} for balanced in (True, False) for c in (10.0, 100.0, 1.0)]
    return [Candidate("text_grams", point, work, fit_linear) for point in points]


def _grid_knn(data: Data) -> list[Candidate]:
    work = len(data.train.records) * len(data.val.records) / 5e6
    return [Candidate("log_sizes_times", {"k": k}, work, fit_knn) for k in (1, 3, 5, 9)]


def _grid_forest(data: Data) -> list[Candidate]:
    work = 1.0 + len(data.train.records) / 1500
    return [
        Candidate(view, {"trees": 200, "min_samples_leaf": leaf, "balanced": balanced}, work, fit_forest)
        for balanced in (True, False)
        for leaf in (1, 3)
        for view in (("headers_payload", "all") if "all" in _views(data) else _views(data))
    ]


def _grid_booster(data: Data, views: Sequence[str] = ()) -> list[Candidate]:
    """Three points for each set of columns; work measured on one core: 2,000 rows, 20 classes, 300 columns take about 6 s."""
    work = 1.0 + len(data.train.records) * max(len(set(data.train.y)), 2) / 8000
    base = {"rounds": 200, "learning_rate": 0.1, "num_leaves": 15, "min_data_in_leaf": 5, "balanced": True}
    points = [base, base | {"balanced": False}, base | {"num_leaves": 31, "min_data_in_leaf": 2}]
    return [Candidate(view, point, work, fit_booster) for point in points for view in views or _views(data)]


def _grid_in_context(data: Data) -> list[Candidate]:
    """One point, on columns of all kinds: nothing was at hand to choose by. The weights were checked before (`in_context.check`)."""
    assert data.checkpoint is not None
    point = {"rows": in_context.CONTEXT, "checkpoint": data.checkpoint.name, "sha256": sha256_file(data.checkpoint)}
    return [Candidate(_views(data)[0], point, 0.0, in_context.fit_in_context)]


def _grid_identifiers(data: Data) -> list[Candidate]:
    work = 1.0 + len(data.train.records) / 4000
    return [Candidate("identifiers", {"trees": 100, "min_samples_leaf": leaf, "balanced": True}, work, fit_forest) for leaf in (1, 3)]


_GRIDS: dict[str, Callable[[Data], list[Candidate]]] = {
    "identifier_probe": _grid_identifiers,
    "knn": _grid_knn,
    "lightgbm": _grid_booster,
    "lightgbm_sizes_times": lambda data: _grid_booster(data, ("sizes_times",)),
    "lightgbm_headers_payload": lambda data: _grid_booster(data, ("headers_payload",)),
    "lightgbm_all": lambda data: _grid_booster(data, ("all",)),
    "random_forest": _grid_forest,
    LINEAR: _grid_linear,
    in_context.NAME: _grid_in_context,
}
_NOT_OF = {"cells": frozenset({"lightgbm_headers_payload", "lightgbm_all"})}
"""Rows that would say nothing about records of a kind."""
_FIXED: dict[str, Callable[[Data], tuple[str, Model, dict[str, Any]]]] = {"majority": _majority, "artefact_probe": _one_field}


def fit(name: str, data: Data) -> Fitted:
    """Train one baseline of `NAMES`; InputError for no training rows or a label outside `data.labels`."""
    if not data.train.records or (data.truth("train") < 0).any():
        raise InputError(
            "input.labels",
            "training rows are missing or carry a label that is not the task's",
            input=name,
            hint="build the data set again with `trafficllm data build`",
        )
    start = time.perf_counter()
    if name in _FIXED:
        view, model, params = _FIXED[name](data)
        return Fitted(name, data.labels, view, model, params, time.perf_counter() - start, data.train.codec)
    choice, chosen, params = _search(data, _GRIDS[name](data))
    model = _fitted_on_all(data, choice, chosen)
    return Fitted(name, data.labels, choice.view, model, params, time.perf_counter() - start, data.train.codec, chosen)


def run(
    train: Part,
    val: Part,
    test: Part,
    *,
    labels: Sequence[str],
    seed: int = 0,
    threads: int = 1,
    budget_s: float = 120.0,
    names: Sequence[str] = NAMES,
    checkpoint: Path | None = None,
) -> dict[str, Outcome]:
    """Train each baseline and answer the test part; TabICL too where `checkpoint` names its weights (see `in_context`).

    The identifier probe is left out where `raw` and `meta` are empty, rows on payload where records
    are cells; HTTP requests get a linear model besides, and are learnt from and validated on without their copies.
    """
    whole = val
    if train.kind == "http":
        train, val = train.distinct(), val.distinct()
    data = Data(tuple(labels), train, val, seed, threads, budget_s, checkpoint=checkpoint)
    wanted = [*_wanted(train, names), *([in_context.NAME] if checkpoint is not None else ())]
    with _blas(threads):
        return {name: _answer(fit(name, data), whole, test) for name in wanted}


@contextmanager
def _blas(threads: int) -> Iterator[None]:
    """Products of numpy and scipy with so many threads: OpenBLAS else takes one a core, and those wait for each other awake."""
    import scipy.linalg  # noqa: F401 - loads scipy's own BLAS, so that the limit holds for it too
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=threads, user_api="blas"):
        yield


def _wanted(train: Part, names: Sequence[str]) -> list[str]:
    """Of these baselines those that records of the training part's kind have."""
    wanted = [name for name in names if name != "identifier_probe" or (train.raw and train.meta)]
    wanted = [name for name in wanted if name not in _NOT_OF.get(train.kind, ())]
    if train.kind == "http" and tuple(names) in (NAMES, VIEW_NAMES):
        wanted.append(LINEAR)
    return wanted


def expected_seconds(train: Part, val: Part, *, budget_s: float = 120.0, names: Sequence[str] = NAMES) -> float:
    """Estimated work of `run` in seconds of one core: every candidate that each search can afford, and the chosen one once more."""
    data = Data((), train, val, 0, 1, budget_s)
    grids = [list(_affordable(_GRIDS[name](data), budget_s)) for name in _wanted(train, names) if name in _GRIDS]
    return sum(sum(each.work for each in grid) + max(each.work for each in grid) for grid in grids)


def _answer(fitted: Fitted, val: Part, test: Part) -> Outcome:
    """Answers to all rows of both parts, copies too."""
    start = time.perf_counter()
    p = fitted.probabilities(test)
    spent = max(time.perf_counter() - start, 1e-9)
    return Outcome(
        predicted=[fitted.labels[i] for i in p.argmax(axis=1)],
        probabilities=p,
        validation=fitted.probabilities(val, held_out=True) if val.records else p[:0],
        params=dict(fitted.params),
        seconds=fitted.seconds,
        flows_per_s=len(p) / spent,
        fitted=fitted,
    )


def table(outcomes: Mapping[str, Outcome], score: Callable[[Sequence[str], F64], Quality]) -> dict[str, Baseline]:
    """The baselines' rows of a report: the quality object of each with its choice and cost.

    `score` makes the quality object from labels and probabilities: the same for the model and all baselines.
    """
    return {
        name: Baseline.of(
            score(row.predicted, row.probabilities), params=row.params, seconds=round(row.seconds, 3), flows_per_s=round(row.flows_per_s, 1)
        )
        for name, row in outcomes.items()
    }
