"""The recipe of the shipped adapters, end to end on one tiny task: licences, reserved captures, members, the package's registry."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import evaluate_samples
import infer_samples
import pytest

from trafficllm.core.files import read_json
from trafficllm.records.dataset.dataset import load
from trafficllm.records.sources.background import packaged
from trafficllm.registry.store import Registry

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "shipped"
TASK = {"folders": ["MTD_ustc2016"], "captures": 2, "flows": 2, "seconds": 1.0, "cap": 20, "experimental": "a test"}


@pytest.fixture(autouse=True, scope="module")
def _few_trees() -> Iterator[None]:
    with evaluate_samples.few_trees():
        yield


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> Any:
    sys.path.insert(0, str(RECIPE))
    yield importlib.import_module("shipped")
    sys.path.remove(str(RECIPE))


@pytest.fixture(name="data")
def _data(tmp_path: Path, captures: Path) -> Path:
    """Three families with a reserved capture each, one capture of an origin without a licence, a label with one capture to learn from."""
    rows, held = "task,label,file,origin\n", "task,label,file,part,why\n"
    for label, count in (("Geodo", 4), ("Neris", 4), ("Virut", 4), ("FTP", 2)):
        place = tmp_path / "data" / "MTD_ustc2016" / label
        place.mkdir(parents=True)
        for number in range(count):
            name = f"{label}_0{number}.pcap"
            (place / name).symlink_to(captures / "MTD" / label / name)
            origin = "nobody/unstated@1" if name == "Virut_02.pcap" else "echowei/DeepTraffic@7d06af09 zip"
            rows += f"MTD,{label},MTD_ustc2016/{label}/{name},{origin}\n"
        held += f"MTD,{label},MTD_ustc2016/{label}/{label}_0{count - 1}.pcap,all,test\n"
    (tmp_path / "data" / "manifest.csv").write_text(rows)
    (tmp_path / "data" / "RESERVED.csv").write_text(held)
    infer_samples.write_base(tmp_path / "base")
    return tmp_path / "data"


def test_from_captures_to_the_package(
    recipe: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(recipe.PLAN, "task", {"MTD": TASK})
    monkeypatch.setitem(recipe.PLAN, "members", [0, 1])
    background = data.parent / "background"
    background.mkdir()
    for name in ("FTP_00.pcap", "FTP_01.pcap"):
        (background / name).symlink_to((data / "MTD_ustc2016" / "FTP" / name).resolve())
    monkeypatch.setattr(
        "trafficllm.records.sources.background.packaged", lambda name="background": background if name == "background" else packaged(name)
    )
    run, package = data.parent / "run", data.parent / "package"
    words = ["--data", str(data), "--out", str(run), "--base", str(data.parent / "base"), "--steps", "2", "--tasks", "MTD", "--inline"]
    assert recipe.main([*words, "--stages", "data", "tune"]) == 0
    made = load(run / "MTD" / "data")
    assert made.labels == ("Geodo", "Neris", "Virut"), "one capture to learn from is too little"
    assert set(made.sources.values()) == {"echowei/DeepTraffic"}
    names = {meta.capture.split("/")[-1] for meta in made.meta(range(len(made)))}
    assert "Virut_02.pcap" not in names, "no licence is stated"
    assert {meta.capture.split("/")[-1] for meta in made.meta(made.indices("test"))} == {"Geodo_03.pcap", "Neris_03.pcap", "Virut_03.pcap"}

    assert recipe.main([*words, "--pack", "--package", str(package), "--results", str(run)]) == 0
    assert "\n| MTD | 3 | strict | " in (run / "shipped.md").read_text()
    live = Registry(package).live("MTD")
    assert live.manifest["origins"] == {"echowei/DeepTraffic": "MPL-2.0"}
    assert (live.experimental, live.provenance) == ("a test", "registry, experimental")
    assert len(live.manifest["members"]) == 2
    assert sum(live.manifest["background"]["sources"].values()) > 0
    assert Registry(package).verify() == {}
    card = (live.path / "README.md").read_text()
    assert "echowei/DeepTraffic (MPL-2.0)" in card
    assert "**Experimental**: a test." in card
    assert {path.stat().st_mode & 0o777 for path in package.rglob("*") if path.is_file()} == {0o644}

    for stage in recipe.STAGES:
        monkeypatch.setattr(recipe, stage, None)
    assert recipe.main(words) == 0, "every stage has its file: nothing runs again"
    monkeypatch.setitem(recipe.PLAN, "limit_mb", 0)
    with pytest.raises(SystemExit, match="0 MB allowed"):
        recipe.main([*words, "--pack", "--package", str(package)])
    assert read_json(package / "MTD" / "pointer.json")["live"] == "v0001"


def test_the_router_of_the_package(recipe: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    router = importlib.import_module("router")
    monkeypatch.setitem(recipe.PLAN, "router", {**recipe.PLAN["router"], "instructions": 60, "held_out": 6})
    package, base = data.parent / "package", data.parent / "base"
    words = ["--out", str(data.parent / "router"), "--base", str(base), "--steps", "2", "--pack", "--package", str(package)]
    assert router.main(words) == 0
    live = Registry(package).live("ROUTER")
    assert live.manifest["origins"] == router.ORIGINS
    assert live.manifest["routing"]["n"] >= 6
    assert {path.stat().st_mode & 0o777 for path in package.rglob("*") if path.is_file()} == {0o644}
    monkeypatch.setattr("trafficllm.lifecycle.adapters.learn_router.learn_router", None)
    assert router.main(words) == 0, "it is there already: nothing is learnt again"


def test_every_task_says_what_it_is_from(recipe: ModuleType) -> None:
    from trafficllm.records.catalog import load_tasks

    tasks = load_tasks()
    assert set(recipe.PLAN["task"]) | set(recipe.PLAN["without"]) == {name for name, task in tasks.items() if task.kind != "understanding"}
    assert not set(recipe.PLAN["task"]) & set(recipe.PLAN["without"])
    assert all("GPL" not in licence or licence.startswith("LGPL") for licence in recipe.PLAN["licence"].values())
