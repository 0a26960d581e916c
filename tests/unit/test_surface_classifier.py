"""`TrafficClassifier`: scikit-learn's own checks, and captures and flow tables as samples."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

import trafficllm as tl
from trafficllm.core.errors import ArtifactError


def _samples(captures: Path) -> tuple[list[Path], list[str]]:
    found = [(path, label) for label in ("DNS", "NetBIOS") for path in sorted((captures / "EAC" / label).glob("*.pcap"))[:6]]
    return [path for path, _ in found], [label for _, label in found]


def test_the_estimator_checks_of_scikit_learn() -> None:
    """All that apply: the ones on matrices need the trees, the others do not ask what is learnt from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(tl.TrafficClassifier(learner="trees"), on_fail=None, on_skip=None)
    failed = {row["check_name"]: row["exception"] for row in results if row["status"] == "failed"}
    assert failed == {}
    assert sum(row["status"] == "passed" for row in results) >= 40


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
