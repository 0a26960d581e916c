"""`TrafficClassifier`: scikit-learn's own checks, and captures and flow tables as samples."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import trafficllm as tl
from trafficllm.core.errors import ArtifactError


def _samples(captures: Path) -> tuple[list[Path], list[str]]:
    found = [(path, label) for label in ("DNS", "NetBIOS") for path in sorted((captures / "EAC" / label).glob("*.pcap"))[:6]]
    return [path for path, _ in found], [label for _, label in found]


NOT_SAID = {"check_positive_only_tag_during_fit", "check_classifiers_one_label"}
"""Checks that want their own words where a matrix cannot be learnt from; the adapter says that it wants traffic."""


def _checked(learner: str) -> dict[str, list[tuple[str, str]]]:
    """Names and reasons of scikit-learn's checks by their status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(tl.TrafficClassifier(learner), on_fail=None, on_skip=None)
    found: dict[str, list[tuple[str, str]]] = {}
    for row in results:
        found.setdefault(row["status"], []).append((row["check_name"], str(row["exception"])))
    return found


def test_every_estimator_check_of_scikit_learn() -> None:
    """With trees all of them; the one that is skipped asks for SCIPY_ARRAY_API."""
    found = _checked("trees")
    assert found.get("failed", []) == []
    assert [name for name, _ in found["skipped"]] == ["check_array_api_input"]
    assert len(found["passed"]) >= 54


def test_estimator_checks_of_an_adapter() -> None:
    """The checks that feed no matrix pass; every other is refused because a matrix is no traffic, and for nothing else."""
    found = _checked("adapter")
    assert len(found["passed"]) >= 24
    others = [name for name, why in found["failed"] if "a matrix of numbers needs learner='trees'" not in why]
    assert set(others) == NOT_SAID


def test_model_selection_takes_captures(captures: Path) -> None:
    X, y = _samples(captures)
    search = GridSearchCV(tl.TrafficClassifier("trees"), {"profile": ["strict", "raw"]}, cv=2).fit(X, y)
    assert search.best_score_ >= 0.8
    assert search.predict(X[:1]).tolist() == y[:1]


def test_captures_are_samples(captures: Path, tmp_path: Path) -> None:
    X, y = _samples(captures)
    model = tl.TrafficClassifier(learner="trees").fit(X, y)
    assert model.classes_.tolist() == ["DNS", "NetBIOS"]
    p = model.predict_proba(X)
    assert p.shape == (len(X), 2)
    assert np.allclose(p.sum(axis=1), 1)
    assert model.score(X, y) >= 0.9
    model.save(tmp_path / "model")
    again = tl.TrafficClassifier.load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(X), p)
    assert again.get_params() == model.get_params()
    with pytest.raises(ValueError, match="labels"):
        clone(model).fit(X, y[:-1])


def test_flow_tables_are_samples(captures: Path) -> None:
    tables = {label: tl.read(captures / "EAC" / label).to_pandas() for label in ("DNS", "QUIC")}
    import pandas as pd

    X = pd.concat(tables.values(), ignore_index=True)
    y = [label for label, table in tables.items() for _ in range(len(table))]
    model = tl.TrafficClassifier(learner="trees").fit(X, y)
    assert model.score(X, y) > 0.9
    assert len(model.predict(tl.read(captures / "EAC" / "DNS"))) == len(tables["DNS"])


def test_an_adapter_learns_and_comes_back_from_disk(captures: Path, tmp_path: Path) -> None:
    import infer_samples as samples

    X, y = _samples(captures)
    base = str(samples.write_base(tmp_path / "base"))
    model = tl.TrafficClassifier(base=base, max_seconds=2.0).fit(X, y)
    p = model.predict_proba(X)
    assert np.allclose(p.sum(axis=1), 1)
    assert set(model.predict(X)) <= {"DNS", "NetBIOS"}
    model.save(tmp_path / "model")
    assert not list((tmp_path / "model").rglob("*.pkl"))
    assert np.allclose(tl.TrafficClassifier.load(tmp_path / "model").predict_proba(X), p, atol=1e-4)


@pytest.mark.parametrize("text", ["{}", '{"schema": "trafficllm.classifier/1", "files": ["../x"], "params": {}}'])
def test_other_folders_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classifier.json").write_text(text)
    with pytest.raises(ArtifactError):
        tl.TrafficClassifier.load(tmp_path)


def test_a_matrix_is_no_traffic(captures: Path) -> None:
    X: Any = np.zeros((4, 2))
    with pytest.raises(ValueError, match="trees"):
        tl.TrafficClassifier().fit(X, [0, 1, 0, 1])


def test_cross_validation_in_a_pipeline_with_captures_as_groups(captures: Path) -> None:
    files, labels = _samples(captures)
    model = make_pipeline(tl.TrafficClassifier("trees"))
    scores = cross_val_score(model, files, labels, groups=[path.stem for path in files], cv=GroupKFold(3), error_score="raise")
    assert scores.shape == (3,)
    assert scores.mean() > 0.6
