"""The recipe of the honest table, end to end on two tiny task folders: a trial, a scoring, nothing done twice."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import evaluate_samples
import infer_samples
import pytest

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import read_json, write_json
from trafficllm.lifecycle import workspace
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.studies.scoring import score_rows
from trafficllm.records.dataset.dataset import load

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "results"
RESERVED = "task,label,file,part,why\n"


@pytest.fixture(autouse=True, scope="module")
def _few_trees() -> Iterator[None]:
    with evaluate_samples.few_trees():
        yield


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> Any:
    sys.path.insert(0, str(RECIPE))
    yield importlib.import_module("results")
    sys.path.remove(str(RECIPE))


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory, captures: Path) -> Path:
    """Developer data in small: three families with a reserved capture each, a label with too few captures, a tiny base."""
    root = tmp_path_factory.mktemp("results")
    listed = RESERVED
    for folder, labels in (("MTD_ustc2016", ("Geodo", "Neris", "Virut")), ("EAC_ndpi_app", ("Neris", "Virut"))):
        for label in labels:
            target = root / "data" / folder / label
            target.mkdir(parents=True)
            for number in range(4):
                (target / f"{label}_0{number}.pcap").symlink_to(captures / "MTD" / label / f"{label}_0{number}.pcap")
            listed += f"{folder},{label},{folder}/{label}/{label}_03.pcap,all,test\n"
    few = root / "data" / "EAC_ndpi_app" / "Few"
    few.mkdir()
    (few / "Few_00.pcap").symlink_to(captures / "MTD" / "Geodo" / "Geodo_00.pcap")
    (root / "data" / "RESERVED.csv").write_text(listed)
    infer_samples.write_base(root / "base")
    return root


def _words(place: Path, *more: str) -> list[str]:
    words = ["--data", str(place / "data"), "--out", str(place / "runs"), "--base", str(place / "base"), "--inline", "--steps", "2"]
    return [*words, "--budget", "1", "--cap", "20", "--most", "60", *more]


def test_a_trial_then_a_scoring(
    recipe: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = _words(place, "--tasks", "EAC", "--seeds", "0", "--part", "val", "--leaderboard", str(place / "board.md"))
    assert recipe.main(trial) == 0
    assert "VALIDATION (a trial, no result)" in capsys.readouterr().out
    assert not (place / "board.md").exists(), "a trial never enters the leaderboard"
    assert load(place / "runs" / "EAC" / "data-20").labels == ("Neris", "Virut"), "labels with fewer than three captures are left out"

    monkeypatch.setitem(recipe.PLAN, "members", 2)
    written = ("--results", str(place / "out"), "--leaderboard", str(place / "board.md"))
    scoring = _words(place, "--tasks", "MTD", "--seeds", "0", "1", *written)
    (place / "board.md").write_text("# Leaderboard\n\n| a | b |\n|---|---|\n| x | y |\n\nAfter.\n")
    assert recipe.main(scoring) == 0
    calibrated = [("calibration" in read_json(path)) for path in sorted((place / "runs").glob("*/*/seed*/tune.json"))]
    assert calibrated == [False, True, True], "a trial judges validation, so nothing of it is learnt"
    table = read_json(place / "out" / "table.json")
    row = table["tasks"]["MTD"]
    assert (row["llm"]["seeds"], row["part"], row["llm"]["leaky"]) == ([0, 1], "test", [])
    together = row["members"]
    assert together["members"] == [[0, 1]]
    assert together["n_test"] == row["llm"]["n_test"]
    assert together["gap"] == pytest.approx(together["macro_f1"] - row["baselines"][row["best_baseline"]]["macro_f1"])
    assert together["macro_f1"] != row["llm"]["macro_f1"], "its own answers, not the mean of two scores"
    assert {"lightgbm", "random_forest", "knn", "majority", "identifier_probe", "artefact_probe"} == set(row["baselines"])
    assert 0 < row["packets"]["leaky"]["macro_f1"] <= 1
    assert row["gap"] == pytest.approx(row["llm"]["macro_f1"] - row["baselines"][row["best_baseline"]]["macro_f1"])
    assert set(table["goal"]["missed"]) | set(table["goal"]["within_reached"]) == {"MTD"}
    page = (place / "out" / "table.md").read_text()
    assert page.count("\n| ") == 3
    board = (place / "board.md").read_text()
    assert board.count("reserved flows") == 1
    assert board.index("reserved flows") < board.index("After.")

    for stage in recipe.STAGES:
        monkeypatch.setattr(recipe, stage, None)
    assert recipe.main(scoring) == 0, "every stage has its file: nothing runs again"
    assert (place / "board.md").read_text() == board


def test_errors_of_a_version_are_told_from_one_scoring(recipe: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = importlib.import_module("errors")
    monkeypatch.setitem(recipe.PLAN, "members", 2)
    assert recipe.main(_words(place, "--tasks", "MTD", "--seeds", "0", "1")) == 0
    (place / "runs" / "MTD" / "data").symlink_to(place / "runs" / "MTD" / "data-20")
    monkeypatch.setattr(workspace, "Workspace", partial(workspace.Workspace, base=place / "base"))
    scored: list[int] = []

    def counting(scorer: Any, dataset: Any, rows: list[int]) -> Any:
        scored.extend(rows)
        return score_rows(scorer, dataset, rows)

    monkeypatch.setattr(scoring, "score_rows", counting)
    words = ["--runs", str(place / "runs"), "--tasks", "MTD", "--json", str(place / "errors.json")]
    assert errors.main(words) == 0
    row = read_json(place / "errors.json")["tasks"]["MTD"]
    assert len(scored) == len(set(scored)) == row["n_test"], "each flow once"
    told = row["answered"]
    assert told["wrong"] == row["captures"]["wrong"] == round((1 - told["accuracy"]) * row["n_test"])
    assert 0 <= told["wrong_called_unknown"] <= told["wrong"]
    assert errors.main(words) == 0
    assert len(scored) == row["n_test"], "what is there is not made again"


def test_adapters_of_the_table_under_shifts(
    recipe: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shifts = importlib.import_module("robust")
    monkeypatch.setitem(shifts.PLAN, "robust", {"MTD": {"wire": True, "most": 30}})
    assert recipe.main(_words(place, "--tasks", "MTD", "--seeds", "0", "1")) == 0
    capsys.readouterr()
    words = ["--data", str(place / "data"), "--out", str(place / "runs"), "--base", str(place / "base"), "--steps", "2", "--cap", "20"]
    words += ["--budget", "1", "--seeds", "0", "1", "--results", str(place / "out")]
    assert shifts.main(words) == 0
    assert "share of LightGBM's loss" in capsys.readouterr().out
    row = read_json(place / "out" / "robust.json")["tasks"]["MTD"]
    assert row["on_wire"]
    assert len(row["ratio_per_seed"]) == 2
    assert row["macro_f1"]["gre"] == row["macro_f1"]["none"], "flows inside tunnels are read"
    monkeypatch.setattr("trafficllm.lifecycle.studies.robust.robust", None)
    assert shifts.main(words) == 0, "every run has its file"


def test_one_task_that_fails_stops_no_other(recipe: ModuleType, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe.main(_words(place, "--tasks", "WF", "--seeds", "0", "--part", "val")) == 1
    assert "WF: data failed" in capsys.readouterr().err


def test_a_report_that_hides_its_baselines_makes_no_row(recipe: ModuleType, tmp_path: Path) -> None:
    tables = importlib.import_module("tables")
    write_json(tmp_path / "report.json", {"macro_f1": 0.99, "accuracy": 0.99, "ci95": [0.9, 1.0]})
    with pytest.raises(ArtifactError, match="no baselines"):
        tables.row(tmp_path / "report.json", tmp_path / "none.json")


def test_errors_are_told_by_class_and_capture(recipe: Any) -> None:
    errors = importlib.import_module("errors")
    truth = ["a"] * 6 + ["b"] * 6 + ["c"] * 2
    said = ["b"] * 5 + ["a"] + ["b"] * 5 + ["a"] + ["c"] * 2
    groups = ["x/one"] * 6 + ["x/two"] * 6 + ["x/three"] * 2
    score = {"a": {"f1": 0.25, "recall": 1 / 6}, "b": {"f1": 0.625, "recall": 5 / 6}, "c": {"f1": 1.0, "recall": 1.0}, "d": {"f1": 0.0}}
    body = {"answers": {"truth": truth, "runs": [said], "groups": groups}, "per_class": score}
    rows = errors.classes(body)
    assert [row["label"] for row in rows] == ["a", "b", "c"], "classes without flows are not judged"
    assert rows[0] == {"label": "a", "f1": 0.25, "recall": 0.167, "flows": 6, "captures": 1, "taken_for": {"b": 0.833}}
    told = errors.captures(body)
    assert (told["wrong"], told["captures"], told["share_in_worst_three"]) == (6, 3, 1.0)
    assert told["worst"][0] == {"capture": "one", "label": "a", "flows": 6, "wrong": 5}
