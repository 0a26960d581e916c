"""`evaluate run` from the inside: seeds, folds, probes on the frozen base, refusals, and the page, on a tiny base in seconds."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import evaluate_samples
import infer_samples as samples
import learn_samples
import numpy as np
import pytest

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Silent
from trafficllm.evaluate import quality
from trafficllm.evaluate.baselines import frozen
from trafficllm.lifecycle.adapters import learn
from trafficllm.lifecycle.studies.evaluation_set import VALIDATION, EvalOptions
from trafficllm.lifecycle.studies.run import evaluate
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.base.load import load_base
from trafficllm.model.tuning.job import tune_task
from trafficllm.surface.docs.schemas import envelope

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True, scope="module")
def _few_trees() -> Iterator[None]:
    with evaluate_samples.few_trees():
        yield


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a second one that stands for a fold, a base and two adapters of different seeds."""
    place = tmp_path_factory.mktemp("evaluate")
    data = learn_samples.data_set(place / "data", learn_samples.KINDS, seed=1)
    learn_samples.data_set(place / "fold", learn_samples.KINDS, seed=2)
    base = load_base(samples.write_base(place / "base"), dtype="float32")
    for seed in (3, 4):
        options = TuneOptions(max_steps=6, batch_tokens=1024, looks=0, seed=seed)
        tune_task(base, learn.tune_data(data), place / f"a{seed}", options, Silent())
    return place


@pytest.fixture(scope="module", name="run")
def _run(place: Path) -> Run:
    """`evaluate` on folders of the place; the same call again is answered from memory."""
    workspace = Workspace(base=str(place / "base"), registry=str(place / "registry"))

    def call(*sets: str, adapters: tuple[str, ...] = ("a3",), part: str = "test", most: int = 0, **more: Any) -> dict[str, Any]:
        key = repr((sets, adapters, part, most, sorted(more.items())))
        if key not in cache:
            folders = [place / name for name in (sets or ("data",))]
            options = EvalOptions(part=part, most=most, budget_s=1.0)
            result = evaluate(workspace, folders, adapters=[place / a for a in adapters], options=options, progress=Silent(), **more)
            cache[key] = result.as_dict()
            envelope("evaluate.run").model_validate({**cache[key], "schema": "trafficllm.evaluate.run/1", "ok": True})
        return copy.deepcopy(cache[key])

    cache: dict[str, dict[str, Any]] = {}
    return call


def test_two_seeds_are_one_report(run: Run) -> None:
    both, first = run(adapters=("a3", "a4")), run(baselines=False)
    assert (both["seeds"], len(both["per_seed"]), first["seeds"]) == ([3, 4], 2, [3])
    assert both["macro_f1"] == pytest.approx(np.mean(both["per_seed"]))
    assert first["macro_f1"] == pytest.approx(both["per_seed"][0])
    assert {"knn", "lightgbm", "random_forest", "identifier_probe", "artefact_probe", "majority"} == set(both["baselines"])
    assert both["cost"]["train_steps"] == 6
    assert both["answers"]["runs"][0] == first["answers"]["runs"][0]


def test_likely_labels_say_how_often_they_hold_the_label(run: Run) -> None:
    body = run(baselines=False)
    sets, kinds = body["labels_90"], len(body["scored_labels"])
    assert sets["n"] == body["n_test"]
    assert body["accuracy"] <= sets["coverage"] <= 1.0, "the likeliest label is always among them"
    assert 0.0 <= sets["coverage_of_captures"] <= 1.0
    assert 1.0 <= sets["mean_size"] <= kinds
    assert sets["mean_size"] > 1.0 or sets["coverage"] == pytest.approx(body["accuracy"])
    assert run("data", "fold", adapters=("a3", "a4"))["labels_90"] is None


def test_folds_are_scored_together(run: Run) -> None:
    body = run("data", "fold", adapters=("a3", "a4"))
    assert body["n_test"] == 2 * run(baselines=False)["n_test"]
    assert (body["split"], body["seeds"]) == ("2 folds", [3])
    assert {row["n_test"] for row in body["baselines"].values()} == {body["n_test"]}
    with pytest.raises(UsageError, match="2 data sets but 1 adapters"):
        run("data", "fold")


def test_validation_is_a_trial(run: Run) -> None:
    body = run(part="val", most=10)
    assert body["leaky"] == [VALIDATION]
    assert body["baselines"]["lightgbm"]["leaky"] == [VALIDATION]
    assert body["n_test"] <= 10
    with pytest.raises(UsageError, match="train"):
        run(part="train")


def test_without_baselines_the_commonest_answer_stands_beside(run: Run) -> None:
    assert list(run(baselines=False)["baselines"]) == ["majority"]


@pytest.mark.parametrize("key", ["split", "mask", "baselines", "ci95", "seen_by_base"])
def test_a_report_that_hides_something_does_not_validate(run: Run, key: str) -> None:
    body = run(baselines=False)
    for change in ("gone", "empty"):
        report = copy.deepcopy(body)
        if change == "gone":
            del report[key]
        else:
            report[key] = {} if key == "baselines" else None
        with pytest.raises(ArtifactError, match="leaves out"):
            quality.validate(report)
        with pytest.raises(ValueError, match=key):
            envelope("evaluate.run").model_validate({**report, "schema": "trafficllm.evaluate.run/1", "ok": True})


def test_probes_and_page(run: Run, tmp_path: Path) -> None:
    body = run(embedding=True, html=tmp_path / "report.html")
    probes = body["embedding"]["probes"]
    assert set(probes) == {"frozen_knn", "frozen_linear"}
    assert probes["frozen_linear"]["macro_f1"] > 0.5, "four protocols are easy to tell even in a random model's vectors"
    assert len(body["embedding"]["map"]["points"]) == body["n_test"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 5
    for word in ("<script", 'src="http', 'href="http', "url(http", "@import"):
        assert word not in page
    for word in ("frozen base: k-NN", "LightGBM", "Split by <b>capture</b>", "bootstrap over groups", "Macro-F1: the mean over classes"):
        assert word in page
    assert not re.search(r"<td>(lightgbm|random_forest|knn|majority|\w+_probe)\b", page), "keys stand there in words"
    table = page[page.index("<h2>The table</h2>") :]
    assert table.index("<td>random forest") < table.index("No rival:") < table.index("<td>identifier probe")


def test_nearest_finds_the_same_vector_first() -> None:
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(50, 8)).astype(np.float32)
    places, near = frozen.nearest(bank, bank[10:13] * 3, k=4)
    assert places[:, 0].tolist() == [10, 11, 12]
    assert near[:, 0] == pytest.approx(1)
    assert (np.diff(near, axis=1) <= 1e-9).all()


def test_a_map_keeps_clusters_apart() -> None:
    rng = np.random.default_rng(1)
    vectors = np.concatenate([rng.normal(size=(40, 12)) + 9 * k for k in range(2)]).astype(np.float32)
    places, how = frozen.flat(vectors)
    assert how == "t-SNE"
    centres = [places[:40].mean(0), places[40:].mean(0)]
    spread = max(places[:40].std(), places[40:].std())
    assert np.linalg.norm(centres[0] - centres[1]) > spread
    assert frozen.flat(vectors[:5])[1] == "PCA"
