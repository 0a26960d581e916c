"""The workspace without a model: tasks, adapters, folders, what the machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trafficllm.core.errors import ArtifactError, InputError, UsageError
from trafficllm.core.settings import Config
from trafficllm.lifecycle import datasets
from trafficllm.lifecycle.adapters.upkeep import list_adapters, show_adapter
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.lifecycle.doctor import diagnose
from trafficllm.lifecycle.generate.synthesis import label_of
from trafficllm.lifecycle.tasks import task_list
from trafficllm.lifecycle.workspace import Workspace, registry_root
from trafficllm.records.catalog import load_tasks


def test_registry_root_by_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRAFFICLLM_REGISTRY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # a quickstart's ./work in the repository would answer first
    assert registry_root() == tmp_path / "trafficllm" / "registry"
    config = Config(registry=str(tmp_path / "c"))
    assert registry_root("", config) == tmp_path / "c"
    monkeypatch.setenv("TRAFFICLLM_REGISTRY", str(tmp_path / "e"))
    assert registry_root("", config) == tmp_path / "e"
    assert registry_root(str(tmp_path / "o"), config) == tmp_path / "o"


def test_catalogue_without_adapters(tmp_path: Path) -> None:
    workspace = Workspace(registry=str(tmp_path))
    rows = {row.id: row for row in task_list(workspace).tasks}
    assert len(rows) >= 15
    assert rows["MTD"].live is None
    assert len(rows["MTD"].labels) == 20
    assert workspace.task("mtd").id == "MTD"
    assert list_adapters(workspace).adapters == []
    with pytest.raises(ArtifactError, match="no live adapter"):
        show_adapter(workspace, "MTD")
    with pytest.raises(UsageError) as found:
        workspace.task("MTDD")
    assert "MTD" in found.value.hint


@pytest.mark.parametrize(("folder", "task"), [("MTD_ustc2016", "MTD"), ("eac", "EAC"), ("my_captures", "my_captures")])
def test_task_of_a_folder(tmp_path: Path, folder: str, task: str) -> None:
    assert datasets.task_of_folder(tmp_path / folder, load_tasks()).id == task


def test_tasks_of_ones_own() -> None:
    known = load_tasks()
    mine = datasets.own_task("CAMERAS", known)
    assert (mine.kind, mine.labels, mine.housekeeping) == ("detection", (), True)
    assert datasets.own_task("mtd", known).id == "MTD"
    with pytest.raises(UsageError, match="MTDD"):
        datasets.own_task("MTDD", known)
    with pytest.raises(InputError):
        datasets.own_task("../x", known)


def test_labels_of_a_generation_task() -> None:
    assert label_of(("Zeus", "Neris"), "Zeus", "MTG") == "Zeus"
    with pytest.raises(UsageError) as found:
        label_of(("Zeus", "Neris"), "Zeuss", "MTG")
    assert found.value.hint == "did you mean 'Zeus'?"


UMBRELLA = {"Zeus": "malicious", "FTP": "benign", "unknown": "unknown"}


def _analysis() -> Analysis:
    names = frozenset({"Zeus", "FTP", "unknown", "malicious", "benign"})
    return Analysis(("MTD",), None, iter(()), names, notable={"MTD": frozenset({"malicious"})})


@pytest.mark.parametrize(("label", "severity"), [("Zeus", 1), ("FTP", 0), ("unknown", 2)])
def test_what_is_notable(label: str, severity: int) -> None:
    row: dict[str, Any] = {"task": "MTD", "label": label, "umbrella": UMBRELLA[label]}
    assert _analysis().severity(row) == severity
    assert label in _analysis().names(row)


def test_a_typo_in_fail_on_is_refused() -> None:
    _analysis().check_labels(["malicious", "Zeus", "unknown"])
    with pytest.raises(UsageError) as found:
        _analysis().check_labels(["Malicous"])
    assert "malicious" in found.value.hint


def test_notable_labels_of_a_task_of_ones_own() -> None:
    mine = datasets.with_notable(datasets.new_task("MINE"), ["malware"], ["malware", "office"])
    notable = {"MINE": mine.notable_among(["malware", "office"])}
    analysis = Analysis(("MINE",), None, iter(()), frozenset({"malware", "office", "unknown"}), notable=notable)
    assert [analysis.severity({"task": "MINE", "label": label, "umbrella": None}) for label in ("malware", "office", "unknown")] == [
        1,
        0,
        2,
    ]
    with pytest.raises(UsageError, match="malwar") as found:
        datasets.with_notable(mine, ["malwar"], ["malware", "office"])
    assert "'malware'" in found.value.hint


def test_the_catalogue_says_what_is_notable() -> None:
    tasks = load_tasks()
    said = {name: task.notable for name, task in tasks.items() if task.notable}
    assert said == {"AAD": ("attack",), "BND": ("botnet",), "MDD": ("malicious",), "MTD": ("malicious",), "WAD": ("malicious",)}
    assert all(task.notable_among(task.labels) == frozenset(task.notable) for task in tasks.values() if task.notable)
    assert tasks["MTD"].notable_among(["FTP", "Gmail"]) == frozenset()


def test_the_catalogue_says_which_task_answers_unasked() -> None:
    assert max(load_tasks().values(), key=lambda task: task.priority).id == "MTD"


@pytest.mark.parametrize("name", ["MDT", "MTDD", "mtd2", "NTD", "TMD", "MT"])
def test_a_name_one_edit_away_is_a_typo(name: str) -> None:
    with pytest.raises(UsageError) as found:
        datasets.own_task(name, load_tasks())
    assert "did you mean" in found.value.hint


@pytest.mark.parametrize("name", ["WILD", "MALWARE", "FIELDWORK", "TDM"])
def test_a_sound_name_is_a_task_of_ones_own(name: str) -> None:
    assert datasets.own_task(name, load_tasks()).id == name


@pytest.mark.parametrize("name", ["unknown", "None"])
def test_an_answer_is_no_task(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        datasets.own_task(name, load_tasks())


def test_unknown_is_not_notable_where_nothing_is_malicious() -> None:
    plain = Analysis(("EAC",), None, iter(()), frozenset({"DNS", "unknown"}))
    assert plain.severity({"task": "EAC", "label": "unknown", "umbrella": None}) == 0


def test_doctor_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    body = diagnose(tmp_path / "registry").as_dict()
    rows = {row["name"]: row for row in body["findings"]}
    assert rows["python"]["status"] == "ok"
    assert rows["tshark"]["status"] == "optional"
    assert rows["tshark"]["hint"]
    assert all(row["hint"] for row in body["findings"] if row["status"] == "missing")
    assert body["ready"] == all(row["status"] != "missing" for row in body["findings"])


def test_doctor_sees_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "gone"))
    rows = {row["name"]: row for row in diagnose(tmp_path).as_dict()["findings"]}
    assert (rows["temporary"]["status"], rows["kernel cache"]["status"]) == ("missing", "optional")
    assert "TMPDIR" in rows["temporary"]["hint"]
    assert "NUMBA_CACHE_DIR" in rows["kernel cache"]["hint"]
