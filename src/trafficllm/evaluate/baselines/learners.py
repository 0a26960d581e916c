"""The learners behind the baselines, each one function from data and parameters to a model of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from trafficllm.core.metrics import indices
from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import F64, I64, FlowMeta, Record
from trafficllm.evaluate.baselines import features
from trafficllm.records.codec.canonical import DEFAULT
from trafficllm.records.codec.codec import encode
from trafficllm.records.dataset.dataset import Dataset
from trafficllm.records.dataset.duplicates import first_of_each

Model: TypeAlias = Callable[[F64], F64]


@dataclass(frozen=True, slots=True)
class Part:
    """One side of a split: MASKED `records`, labels `y`; unmasked `raw`, `meta` for the identifier probe."""

    records: Sequence[Record]
    y: Sequence[str]
    raw: Sequence[Record] = ()
    meta: Sequence[FlowMeta] = ()
    codec: CodecOptions = DEFAULT

    @property
    def kind(self) -> str:
        """The records' kind: "flow" where there are none."""
        return self.records[0].kind if self.records else "flow"

    def distinct(self) -> Part:
        """Each content and label once: a thousand copies of one request would teach, and choose, nothing else."""
        keep = first_of_each((encode(record, self.codec), label) for record, label in zip(self.records, self.y, strict=True))
        return Part(
            [self.records[i] for i in keep],
            [self.y[i] for i in keep],
            [self.raw[i] for i in keep] if self.raw else (),
            [self.meta[i] for i in keep] if self.meta else (),
            self.codec,
        )

    def __add__(self, other: Part) -> Part:
        """The rows of both."""
        raw, meta = ([*mine, *theirs] for mine, theirs in ((self.raw, other.raw), (self.meta, other.meta)))
        return Part([*self.records, *other.records], [*self.y, *other.y], raw, meta, self.codec)

    @classmethod
    def of(cls, dataset: Dataset, idx: Sequence[int]) -> Part:
        """Rows `idx` of a built data set."""
        return cls(
            records=dataset.records(idx),
            y=dataset.labels_of(idx),
            raw=dataset.raw_records(idx),
            meta=dataset.meta(idx),
            codec=dataset.codec,
        )


@dataclass(frozen=True, slots=True)
class Data:
    """Train and validation parts with cached feature matrices; `checkpoint`: the weights file of a learner that has one."""

    labels: tuple[str, ...]
    train: Part
    val: Part
    seed: int = 0
    threads: int = 1
    budget_s: float = 120.0
    cache: dict[tuple[str, str], F64] = field(default_factory=dict)
    checkpoint: Path | None = None

    def matrix(self, side: str, view: str) -> F64:
        """Features `view` of the "train" or "val" part."""
        key = (side, view)
        if key not in self.cache:
            self.cache[key] = VIEWS[view](self.train if side == "train" else self.val)
        return self.cache[key]

    def truth(self, side: str) -> I64:
        """Label indices of the "train" or "val" part."""
        return indices(self.labels, (self.train if side == "train" else self.val).y)


def _identifiers(part: Part) -> F64:
    return features.identifiers(part.raw, part.meta)


def _compressed(part: Part) -> F64:
    """Sizes on a signed log scale: k-NN otherwise measures little but the biggest packet."""
    raw = features.sizes_times(part.records, part.codec)
    return np.asarray(np.sign(raw) * np.log1p(np.abs(raw)), dtype=np.float64)


VIEWS: dict[str, Callable[[Part], F64]] = {
    "sizes_times": lambda part: features.sizes_times(part.records, part.codec),
    "headers_payload": lambda part: features.headers_payload(part.records, part.codec),
    "all": lambda part: features.everything(part.records, part.codec),
    "log_sizes_times": _compressed,
    "identifiers": _identifiers,
    "text_grams": lambda part: features.text_grams(part.records, part.codec),
}


def spread(p: F64, classes: Sequence[int], width: int) -> F64:
    """Probabilities over the classes seen in training, widened to all labels of the task."""
    out = np.zeros((len(p), width))
    out[:, list(classes)] = p
    return out


def _weights(y: I64, balanced: bool) -> F64:
    if not balanced:
        return np.ones(len(y))
    counts = np.bincount(y)
    return np.asarray(len(y) / (np.count_nonzero(counts) * counts[y]), dtype=np.float64)


def fit_knn(data: Data, view: str, params: Mapping[str, Any]) -> Model:
    """Distance-weighted k-NN on standardised columns; `params`: k."""
    from sklearn.neighbors import KNeighborsClassifier

    X, y = data.matrix("train", view), data.truth("train")
    centre, scale = X.mean(axis=0), X.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    k = min(int(params["k"]), len(X))
    net = KNeighborsClassifier(n_neighbors=k, weights="distance", algorithm="brute", n_jobs=data.threads)
    net.fit((X - centre) / scale, y)
    width, classes = len(data.labels), net.classes_.tolist()
    return lambda Z: spread(net.predict_proba((Z - centre) / scale), classes, width)


def fit_forest(data: Data, view: str, params: Mapping[str, Any]) -> Model:
    """Random forest; `params`: trees, min_samples_leaf, balanced."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        n_estimators=params["trees"],
        min_samples_leaf=params["min_samples_leaf"],
        n_jobs=data.threads,
        random_state=data.seed,
        class_weight="balanced" if params["balanced"] else None,
    )
    forest.fit(data.matrix("train", view), data.truth("train"))
    width, classes = len(data.labels), forest.classes_.tolist()
    return lambda Z: spread(forest.predict_proba(Z), classes, width)


def fit_linear(data: Data, view: str, params: Mapping[str, Any]) -> Model:
    """Logistic regression on TF-IDF of n-gram counts; `params`: C (the inverse of the penalty), balanced."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    y, width = data.truth("train"), len(data.labels)
    classes = np.unique(y)
    if len(classes) < 2:
        return lambda Z: np.tile(np.eye(width)[classes[0]], (Z.shape[0], 1))
    weigh = TfidfTransformer(sublinear_tf=True)
    net = LogisticRegression(C=params["C"], max_iter=400, class_weight="balanced" if params["balanced"] else None, random_state=data.seed)
    net.fit(weigh.fit_transform(data.matrix("train", view)), y)
    return lambda Z: spread(net.predict_proba(weigh.transform(Z)), classes.tolist(), width)


def _booster_params(data: Data, params: Mapping[str, Any], classes: int) -> dict[str, Any]:
    return {
        "objective": "multiclass",
        "num_class": classes,
        "metric": "multi_logloss",
        "learning_rate": params["learning_rate"],
        "num_leaves": params["num_leaves"],
        "min_data_in_leaf": params["min_data_in_leaf"],
        "max_bin": 63,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.9,
        "bagging_freq": 1,
        "min_sum_hessian_in_leaf": 1e-3,
        "seed": data.seed,
        "num_threads": data.threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


@dataclass(frozen=True, slots=True)
class Boosted:
    """A LightGBM model of so many `rounds`, as a model of features."""

    answer: Model
    rounds: int

    def __call__(self, X: F64) -> F64:
        return self.answer(X)


def fit_booster(data: Data, view: str, params: Mapping[str, Any]) -> Model:
    """LightGBM with early stopping on validation (20 rounds without a lower loss), where there is any."""
    import lightgbm

    y, width = data.truth("train"), len(data.labels)
    classes = np.unique(y)
    if len(classes) < 2:
        return lambda Z: np.tile(np.eye(width)[classes[0]], (len(Z), 1))
    code = np.full(width + 1, -1)
    code[classes] = np.arange(len(classes))
    y_val = code[data.truth("val")]
    labelled = y_val >= 0
    train = lightgbm.Dataset(data.matrix("train", view), code[y], weight=_weights(code[y], params["balanced"]))
    watched = [lightgbm.Dataset(data.matrix("val", view)[labelled], y_val[labelled], reference=train)] if labelled.any() else []
    stop = [lightgbm.early_stopping(20, verbose=False)] if watched else []
    booster = lightgbm.train(
        _booster_params(data, params, len(classes)), train, num_boost_round=params["rounds"], valid_sets=watched, callbacks=stop
    )
    rounds = int(booster.best_iteration if watched else booster.current_iteration())
    return Boosted(lambda Z: spread(np.asarray(booster.predict(Z, num_threads=data.threads)), classes.tolist(), width), rounds)
