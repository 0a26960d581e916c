"""The recipe of the open-world page: studies of a plan, nothing done twice, a page that names every source and the worst one."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import infer_samples
import pytest

from trafficllm.core.files import read_json, write_json
from trafficllm.evaluate.by_source import learners
from trafficllm.records.catalog import read_task

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "results"
CAPTURES = Path(__file__).resolve().parents[2] / "src" / "trafficllm" / "data" / "captures" / "MTD"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> Iterator[ModuleType]:
    sys.path.insert(0, str(RECIPE))
    yield importlib.import_module("openworld")
    sys.path.remove(str(RECIPE))


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of families and one of VPN captures by two laboratories each, everyday captures of three sources, a tiny base."""
    place = tmp_path_factory.mktemp("openworld")
    rows = ["file,origin"]
    for folder, label, source in (
        ("MTD_lab", "Neris", "CTU"), ("MTD_lab", "Virut", "sandbox"), ("MTD_lab", "FTP", "generator"),
        ("EVD_lab", "OpenVPN", "north"), ("EVD_lab", "PPTP", "south"),
        ("everyday", "Gmail", "home"), ("everyday", "SMB", "office"), ("everyday", "Skype", "school"),
    ):  # fmt: skip
        name = label if (CAPTURES / label).is_dir() else {"OpenVPN": "Geodo", "PPTP": "Tinba"}[label]
        (place / "data" / folder / label).mkdir(parents=True)
        for number in (0, 1):
            shutil.copyfile(CAPTURES / name / f"{name}_0{number}.pcap", place / "data" / folder / label / f"{number}.pcap")
            rows.append(f"{folder}/{label}/{number}.pcap,{source}@12 x")
    (place / "data" / "manifest.csv").write_text("\n".join(rows))
    (place / "data" / "EVD_lab" / "L2TP").mkdir()
    (place / "data" / "EVD_lab" / "L2TP" / "0.pcap").write_bytes(b"no capture")
    infer_samples.write_base(place / "base")
    return place


def test_every_study_becomes_a_part_of_the_page(
    recipe: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = (learners.Booster(rounds=5), learners.Forest(trees=5), learners.Booster(rounds=5, identifiers=True))
    monkeypatch.setattr(learners, "baselines", lambda **_: quick)
    monkeypatch.setitem(recipe.PLAN, "everyday", ["everyday"])
    small = {"background": [], "folds": 0, "says": "sizes"}
    studies = {
        "malware": {**small, "title": "Malware", "data": ["MTD_lab"], "limits": "Labels are those of hosts."},
        "vpn": {**small, "title": "VPN protocols", "data": ["EVD_lab"], "task": "VPN", "without": ["L2TP"]},
    }
    monkeypatch.setattr(recipe, "STUDIES", studies)
    own = {
        "own_captures": 5,
        "flagged": 0.027,
        "unknown": 0.09,
        "captures_flagged": 0.1724,
        "known_found": 0.59,
        "flows": 1740,
        "captures": 29,
    }
    write_json(place / "out" / "own_captures.json", {"task": "MTD", "own": ["Chat"], "rows": [own]})
    words = ["--data", str(place / "data"), "--out", str(place / "runs"), "--results", str(place / "out"), "--base", str(place / "base")]
    assert recipe.main([*words, "--studies", "malware", "vpn"]) == 0
    page = (place / "out" / "openworld.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == page.strip()
    body = read_json(place / "out" / "openworld.json")["studies"]
    assert {row["source"] for row in body["malware"]["sources"]} == {"CTU", "sandbox", "generator", "home", "office", "school"}
    assert (body["vpn"]["task"], body["vpn"]["positive"]) == ("VPN", ["vpn"])
    assert {row["source"] for row in body["vpn"]["sources"] if row["side"] == "malicious"} == {"north", "south"}
    for text in (
        "## Malware",
        "## VPN protocols",
        "| CTU |",
        "| north |",
        "What to do with `unknown`",
        "identifiers only",
        "new source",
        "**What limits it.** Labels are those",
        "| 5 | 2.7 % | 9.0 % | 17 % | 59 % |",
    ):
        assert text in page
    monkeypatch.setattr("trafficllm.lifecycle.studies.openworld.openworld", None)
    assert recipe.main([*words, "--studies", "malware"]) == 0, "every study has its file"
    assert (place / "out" / "openworld.md").read_text(encoding="utf-8") == page


def test_the_plan_names_tasks_with_a_question(recipe: ModuleType) -> None:
    assert set(recipe.STUDIES) == {"malware", "web", "dns", "vpn", "tor", "tactics"}
    vpn = read_task(RECIPE / "openworld_vpn.toml")
    assert all(vpn.is_positive(label) for label in vpn.labels)
    assert {folder.split("_")[0] for study in recipe.STUDIES.values() for folder in study["data"]} == {
        "MTD", "BND", "WAD", "MDD", "EVD", "TBD", "AAD",
    }  # fmt: skip
