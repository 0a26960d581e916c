"""The transfer recipes in small: a task left out leaves nothing behind, and drift is shown end to end (the latter a soak)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import infer_samples
import pytest

from trafficllm.core.files import read_json

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "transfer"
RESERVED = "task,label,file,part,why\nMTD_ustc2016,Zeus,MTD_ustc2016/Zeus/Zeus_01.pcap,all,test\n"


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"transfer_{name}", RECIPE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _links(captures: Path, target: Path, label: str, source: str, numbers: tuple[int, ...]) -> None:
    (target / label).mkdir(parents=True)
    for number in numbers:
        (target / label / f"{label}_0{number}.pcap").symlink_to(captures / "MTD" / source / f"{source}_0{number}.pcap")


def test_a_task_left_out_is_in_no_other_folder(captures: Path, tmp_path: Path) -> None:
    recipe = _load("leave_one_out")
    for label in ("Neris", "Zeus"):
        _links(captures, tmp_path / "data" / "MTD_ustc2016", label, label, (0, 1))
    (tmp_path / "data" / "RESERVED.csv").write_text(RESERVED)
    folders = {"MTD_ustc2016": "MTD", "EAC_ndpi_app": "EAC"}
    traffic = SimpleNamespace(
        RECIPE={"folders": folders}, held_back=lambda sets: ({"mine"}, {7}), content=hash, strict=lambda made, rows: []
    )
    recipe.narrow(traffic, "MTD", tmp_path / "data", tmp_path / "out")
    assert traffic.RECIPE["folders"] == {"EAC_ndpi_app": "EAC"}
    origins, contents = traffic.held_back([])
    assert {"mine", "Neris_00", "Zeus_01"} <= origins
    assert 7 in contents
    assert len(contents) > 20


@pytest.mark.soak
def test_drift_is_shown_and_updated(captures: Path, tmp_path: Path) -> None:
    recipe = _load("drift")
    for label, old, new in (("Chat", "Neris", "Virut"), ("Voip", "Geodo", "Zeus")):
        _links(captures, tmp_path / "data" / "EVD_iscxvpn2016", label, old, (0, 1, 2, 3))
        _links(captures, tmp_path / "data" / "CD_service_after_2015", label, new, (0, 1, 2))
    (tmp_path / "data" / "RESERVED.csv").write_text(RESERVED)
    base = infer_samples.write_base(tmp_path / "base")
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--base", str(base), "--seconds", "1", "--cap", "30"]
    assert recipe.main([*words, "--json", str(tmp_path / "drift.json")]) == 0
    body = read_json(tmp_path / "drift.json")
    assert body["drift"]["fields"]
    assert body["before"]["n_test"] == body["after"]["n_test"] > 10
    assert all("lightgbm" in body[side]["baselines"] for side in ("before", "after"))
    assert body["update"]["status"] in {"live", "candidate", "rejected"}
