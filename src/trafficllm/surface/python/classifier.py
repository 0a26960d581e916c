"""`TrafficClassifier`: scikit-learn's interface to captures and flow tables."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import atomic_dir, atomic_write, read_json, write_json
from trafficllm.core.types import F64, I64
from trafficllm.surface.python import learners as models
from trafficllm.surface.python.samples import Samples, samples_of

if TYPE_CHECKING:
    from trafficllm.infer.engine.scorer import LLMScorer

_SCHEMA = "trafficllm.classifier/1"
_LEARNERS = ("adapter", "trees")
_TREES = "trees.txt"


class TrafficClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of network traffic, to scikit-learn's letter.

    `X` is a list of capture files (a sample each; its flows are judged together), a flow table as `trafficllm.read`
    gives it (a sample a row), or, with `learner="trees"`, any matrix of numbers. `learner` "adapter" tunes the traffic
    base with LoRA, "trees" is LightGBM on the same masked records. `profile` names the masks; `base` a base folder, ""
    the configured one; `max_seconds` bounds tuning.

    >>> import trafficllm as tl
    >>> model = tl.TrafficClassifier("trees").fit(["dns.pcap", "netbios.pcap"], ["DNS", "NetBIOS"])
    >>> model.predict(["dns.pcap"])
    array(['DNS'], dtype='<U7')
    >>> model.classes_.tolist(), model.predict_proba(["dns.pcap"]).shape
    (['DNS', 'NetBIOS'], (1, 2))
    """

    def __init__(
        self, learner: str = "adapter", *, base: str = "", profile: str = "strict", max_seconds: float | None = None, random_state: Any = 0
    ) -> None:
        self.learner = learner
        self.base = base
        self.profile = profile
        self.max_seconds = max_seconds
        self.random_state = random_state

    # Learning

    def fit(self, X: Any, y: Any) -> Self:
        """Learn to name the label of each sample. Raises ValueError for shapes and labels that do not fit together."""
        if self.learner not in _LEARNERS:
            raise ValueError(f"learner is one of {', '.join(_LEARNERS)}, not {self.learner!r}")
        samples = samples_of(X, self.profile)
        if samples is None:
            X, y = validate_data(self, X, y, dtype=np.float64)
        else:
            y = column_or_1d(y, warn=True)
            if len(y) != len(samples):
                raise ValueError(f"X has {len(samples)} samples, y {len(y)} labels")
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        self.prior_ = np.bincount(index) / len(index)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._forget()
        if self.learner == "trees":
            self._fit_trees(X if samples is None else samples, index, seed)
        else:
            self._fit_adapter(self._must_be_traffic(samples), index, seed)
        return self

    def _forget(self) -> None:
        self._scorer: LLMScorer | None = None
        self.files_: dict[str, bytes] = {}

    def _fit_trees(self, X: F64 | Samples, index: I64, seed: int) -> None:
        if isinstance(X, Samples):
            index, X = np.repeat(index, X.sizes()), models.record_matrix(X.records)
        if len(self.classes_) > 1:
            self.files_ = {_TREES: models.fit_trees(X, index, classes=len(self.classes_), seed=seed)}

    def _fit_adapter(self, samples: Samples, index: I64, seed: int) -> None:
        answers = [self._labels()[k] for k in np.repeat(index, samples.sizes()).tolist()]
        if len(self.classes_) > 1:
            self.files_ = models.fit_adapter(
                samples.records, answers, labels=self._labels(), base=self.base, seed=seed, max_seconds=self.max_seconds
            )

    def _labels(self) -> tuple[str, ...]:
        """The classes as the adapter names them."""
        names = tuple(str(label) for label in self.classes_.tolist())
        if len(set(names)) < len(names):
            raise ValueError("two classes are written alike")
        return names

    def _must_be_traffic(self, samples: Samples | None) -> Samples:
        if samples is None:
            raise ValueError("the adapter learns from captures or flow tables; a matrix of numbers needs learner='trees'")
        return samples

    # Asking

    def predict_proba(self, X: Any) -> F64:
        """Probability of each class, columns in the order of `classes_`; of a capture, the mean over its flows."""
        check_is_fitted(self)
        samples = samples_of(X, self.profile)
        if samples is None:
            if self.learner != "trees":
                self._must_be_traffic(None)
            X = validate_data(self, X, dtype=np.float64, reset=False)
            return self._tree_rows(X)
        rows = self._record_rows(samples)
        out = np.tile(np.asarray(self.prior_, dtype=np.float64), (len(samples), 1))
        for k, (start, stop) in enumerate(zip(samples.starts, samples.starts[1:], strict=False)):
            if stop > start:
                out[k] = rows[start:stop].mean(axis=0)
        return out

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The likeliest class of each sample."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[likeliest])

    def _record_rows(self, samples: Samples) -> F64:
        if self.learner == "trees" or not self.files_:
            return self._tree_rows(models.record_matrix(samples.records))
        if self._scorer is None:
            self._scorer = models.open_adapter(self.files_, self._labels(), base=self.base)
        return self._scorer.score(samples.records).probabilities

    def _tree_rows(self, X: F64) -> F64:
        if not self.files_ or not len(X):
            return np.ones((len(X), len(self.classes_)))  # one class: nothing was learnt
        return models.tree_probabilities(self.files_[_TREES], X)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "_scorer" in state:
            state["_scorer"] = None  # opened again from `files_` where it is needed
        return state

    # Keeping

    def save(self, path: str | PathLike[str]) -> None:
        """Write a folder of JSON and model files (no pickle), whole or not at all."""
        check_is_fitted(self)
        if not isinstance(self.random_state, int | None):
            raise TypeError("a classifier with a RandomState object cannot be written: use a number")
        facts = {"classes": self.classes_.tolist(), "dtype": self.classes_.dtype.str, "prior": self.prior_.tolist()}
        learnt = {"features": getattr(self, "n_features_in_", None), "files": sorted(self.files_)}
        with atomic_dir(Path(path)) as folder:
            write_json(folder / "classifier.json", {"schema": _SCHEMA, "params": self.get_params(), **facts, **learnt})
            for name, data in self.files_.items():
                atomic_write(folder / name, data)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Open what `save` wrote; ArtifactError for any other folder."""
        folder = Path(path)
        try:
            facts = read_json(folder / "classifier.json")
            if facts["schema"] != _SCHEMA or not set(facts["files"]) <= {_TREES, *models.KEPT}:
                raise KeyError("schema")
            made = cls(**facts["params"])
            made._forget()
            made.classes_ = np.array(facts["classes"], dtype=np.dtype(facts["dtype"]))
            made.prior_ = np.array(facts["prior"], dtype=np.float64)
            made.files_ = {name: (folder / name).read_bytes() for name in facts["files"]}
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ArtifactError(
                "artifact.classifier",
                "this is no saved classifier",
                input=str(path),
                hint="give a folder that `TrafficClassifier.save` wrote",
            ) from error
        if facts["features"] is not None:
            made.n_features_in_ = facts["features"]
        return made
