"""Trees and the identifier probe as learners of the open world: fixed settings, no search, log-odds of the positive side.

A search inside every fold would cost a day and choose by sources that are too few to choose by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trafficllm.core.types import F64, I64
from trafficllm.evaluate.baselines import features
from trafficllm.evaluate.baselines.learners import Part
from trafficllm.evaluate.openworld import Learner

TREES = 200
ROUNDS = 200
_EDGE = 1e-4
"""Probabilities of a forest are kept this far from 0 and 1."""
IDENTIFIERS = "identifier_probe"


def log_odds(p: F64) -> F64:
    """ln(p / (1 - p)), bounded.

    >>> log_odds(np.array([0.5])).tolist()
    [0.0]
    """
    inside = np.clip(p, _EDGE, 1.0 - _EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _varying(train: F64) -> I64:
    """Columns that are not the same in every row."""
    return np.flatnonzero((train != train[:1]).any(axis=0))


@dataclass(frozen=True, slots=True)
class Forest:
    """A random forest of `trees` on all columns of masked records."""

    seed: int = 0
    threads: int = 1
    trees: int = TREES
    name: str = "random_forest"

    def features(self, rows: Part) -> F64:
        """`features.everything` of the masked records."""
        return features.everything(rows.records, rows.codec)

    def fit_score(self, train: F64, positive: I64, weights: F64, judged: F64) -> F64:
        """Log-odds of the share of trees that vote positive, weighted by their leaves."""
        from sklearn.ensemble import RandomForestClassifier

        columns = _varying(train)
        if not len(columns):
            return np.zeros(len(judged))
        forest = RandomForestClassifier(n_estimators=self.trees, min_samples_leaf=2, n_jobs=self.threads, random_state=self.seed)
        forest.fit(train[:, columns].astype(np.float32), positive, sample_weight=weights)
        p = forest.predict_proba(judged[:, columns].astype(np.float32))[:, list(forest.classes_).index(1)]
        return log_odds(np.asarray(p, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Booster:
    """LightGBM, `rounds` rounds, on all columns of masked records; with `identifiers` on what masking hides instead: the probe."""

    seed: int = 0
    threads: int = 1
    rounds: int = ROUNDS
    identifiers: bool = False

    @property
    def name(self) -> str:
        """The row's name."""
        return IDENTIFIERS if self.identifiers else "lightgbm"

    def features(self, rows: Part) -> F64:
        """`features.everything` of the masked records, or `features.identifiers` of the raw ones."""
        return features.identifiers(rows.raw, rows.meta) if self.identifiers else features.everything(rows.records, rows.codec)

    def fit_score(self, train: F64, positive: I64, weights: F64, judged: F64) -> F64:
        """Log-odds as boosted."""
        import lightgbm

        columns = _varying(train)
        if not len(columns):
            return np.zeros(len(judged))
        data = lightgbm.Dataset(train[:, columns], positive, weight=weights)
        booster = lightgbm.train(self._params(), data, num_boost_round=self.rounds)
        p = booster.predict(judged[:, columns], raw_score=True, num_threads=self.threads)
        return np.asarray(p, dtype=np.float64)

    def _params(self) -> dict[str, Any]:
        return {
            "objective": "binary",
            "learning_rate": 0.05,
            "num_leaves": 31,
            "min_data_in_leaf": 10,
            "max_bin": 63,
            "feature_fraction": 0.5,
            "bagging_fraction": 0.9,
            "bagging_freq": 1,
            "seed": self.seed,
            "num_threads": self.threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }


def baselines(*, seed: int = 0, threads: int = 1) -> tuple[Learner, ...]:
    """LightGBM, a random forest and the identifier probe."""
    return Booster(seed, threads), Forest(seed, threads), Booster(seed, threads, identifiers=True)
