"""Which registry answers, and where a registration works."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.settings import Config
from trafficllm.core.types import NONE
from trafficllm.lifecycle.adapters.learn_router import answers, instruct_data
from trafficllm.lifecycle.adapters.register import _definition, _workdir, register
from trafficllm.lifecycle.bases.tuning import tune_options
from trafficllm.lifecycle.workspace import Workspace, quickstart_registry, registry_root
from trafficllm.records.instructions import Instruction
from trafficllm.surface.cli.adapter import _ask_notable


def test_a_quickstart_answers_until_there_is_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAFFICLLM_REGISTRY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "home" / "trafficllm" / "registry"
    assert registry_root() == mine
    for name in ("work/quick/seed0", "work/full/seed1"):
        (tmp_path / name / "registry").mkdir(parents=True)
    assert quickstart_registry(tmp_path) == tmp_path / "work" / "full" / "seed1" / "registry"
    assert registry_root() == Path("work/full/seed1/registry")
    mine.mkdir(parents=True)
    assert registry_root() == mine


def test_work_of_different_commands_is_apart(tmp_path: Path) -> None:
    workspace = Workspace(registry=str(tmp_path / "r"))
    places = {_workdir(workspace, tmp_path / name, task, facts) for name in "ab" for task in ("MTD", "a b") for facts in ("0", "1")}
    assert len(places) == 8
    assert {place.parent for place in places} == {tmp_path / "r" / ".work"}


def test_bad_folders_and_tasks_are_refused_before_any_work(tmp_path: Path) -> None:
    workspace = Workspace(registry=str(tmp_path / "r"))

    def attempt(folder: Path, task: str) -> None:
        register(workspace, folder, task)

    with pytest.raises(InputError):
        attempt(tmp_path / "no", "MTD")
    (tmp_path / "in" / "label").mkdir(parents=True)
    (tmp_path / "in" / "label" / "a.pcap").write_bytes(b"")
    with pytest.raises(UsageError):
        attempt(tmp_path / "in", "MTDD")
    with pytest.raises(InputError):
        attempt(tmp_path / "in", "FIELD")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def _labelled(folder: Path) -> Path:
    for label in ("malware", "office"):
        (folder / label).mkdir(parents=True)
        (folder / label / "a.pcap").write_bytes(b"")
    return folder


def test_notable_labels_are_checked_before_any_work(tmp_path: Path) -> None:
    workspace, folder = Workspace(registry=str(tmp_path / "r")), _labelled(tmp_path / "in")
    assert _definition(workspace, folder, "MINE", ["malware"]).notable == ("malware",)
    assert _definition(workspace, folder, "MINE", []).notable == ()
    with pytest.raises(UsageError, match="malwar"):
        register(workspace, folder, "MINE", notable=["malwar"])
    with pytest.raises(UsageError, match="malicious"):
        register(workspace, folder, "MTD", notable=["malware"])


def test_a_task_of_ones_own_is_asked_what_is_notable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, folder = Workspace(registry=str(tmp_path / "r")), _labelled(tmp_path / "in")
    monkeypatch.setattr("sys.stdin", io.StringIO("malware, office\n"))
    assert _ask_notable(workspace, folder, "MINE") == []
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert _ask_notable(workspace, folder, "mtd") == []
    assert _ask_notable(workspace, folder, "MINE") == ["malware", "office"]
    assert "malware, office" in capsys.readouterr().err


def test_questions_of_stage_1() -> None:
    rows = [Instruction(f"q{k}", tasks, author=f"a{k}") for k, tasks in enumerate([("MTD",), ("MTD", "EAC"), (), ("WF",), ("EAC",)] * 4)]
    data = instruct_data({"MTD", "EAC"}, rows)
    assert data.labels == ("EAC", "MTD", NONE)
    assert len(data.prompts) == len(data.answers)
    assert len(data.prompts) + len(data.val_prompts) == 24
    assert data.val_prompts
    assert answers(("MTD", "EAC"), {"EAC"}) == ["EAC"]
    assert answers(("WF",), {"EAC"}) == [NONE]


def test_tune_options_follow_configuration_and_command_line() -> None:
    config = Config.model_validate({"tune": {"r": 4, "epochs": 3, "max_seconds": 9}})
    options = tune_options(config, seed=3, max_seconds=None)
    assert (options.r, options.epochs, options.max_seconds, options.seed) == (4, 3, 9, 3)
    assert tune_options(config, seed=0, max_seconds=5).max_seconds == 5
