"""The quickstart from the built wheel, outside the clone: contract, honesty of the figures, reuse, resumption, report."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BASELINES = {"majority", "identifier_probe", "artefact_probe", "knn", "lightgbm", "random_forest"}
QUALITY = {"macro_f1", "accuracy", "ci95", "per_class", "n_test", "n_test_unique", "split", "mask", "leaky", "seen_by_base", "seeds"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel unpacked in `site`, as `pip install` would lay it."""
    home = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(home / "dist"), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next((home / "dist").glob("*.whl"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(home / "site"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return home


def quickstart(place: Path) -> dict[str, Any]:
    """One `quickstart --quick --json` run of the installed wheel."""
    code = "import sys, trafficllm; print(trafficllm.__file__, file=sys.stderr); from trafficllm.surface.cli.main import main; main()"
    command = [sys.executable, "-c", code, "quickstart", "--quick", "--json", "--workdir", str(place / "work")]
    environment = {**os.environ, "PYTHONPATH": str(place / "site")}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(place / "site") in done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def first(place: Path) -> dict[str, Any]:
    """The first run's result."""
    return quickstart(place)


def test_contract(first: dict[str, Any]) -> None:
    assert first["schema"] == "trafficllm.quickstart/1"
    assert first["ok"] is True
    assert {task["task"] for task in first["tasks"]} == {"MTD", "EAC"}
    assert first["tokens_per_flow"]["ratio"] > 2.07
    assert first["reused"] == []
    assert set(first["generated"]) >= {"file", "packets", "valid"}
    for row in first["unseen"]:
        assert set(row) >= {"file", "source", "task", "labels", "unknown"}
        assert sum(row["labels"].values()) + row["unknown"] == row["flows"] > 0


def test_scores_stand_with_their_context(first: dict[str, Any]) -> None:
    for task in first["tasks"]:
        quality = task["quality"]
        assert set(quality) >= QUALITY
        assert task["classes"] >= 8
        assert quality["mask"] == "strict"
        assert quality["leaky"] == []
        assert quality["seen_by_base"].startswith("0/")
        assert quality["ci95"][0] <= quality["macro_f1"] <= quality["ci95"][1] + 0.05
        assert set(task["baselines"]) >= BASELINES
        assert all(0 <= row["macro_f1"] <= 1 for row in task["baselines"].values())
        assert quality["macro_f1"] > task["baselines"]["majority"]["macro_f1"]


def test_generated_capture_is_valid(first: dict[str, Any]) -> None:
    generated = first["generated"]
    assert generated["valid"]
    assert generated["packets"] > 0
    assert generated["addresses_outside_documentation"] == 0
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    command = ["tshark", "-r", generated["file"], "-Y", "_ws.malformed || tcp.checksum.status==0 || ip.checksum.status==0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_report_is_self_contained(first: dict[str, Any]) -> None:
    html = Path(first["report"]).read_text(encoding="utf-8")
    assert "<script" not in html
    assert not re.findall(r"""(?:src|href)=["']?https?:""", html)
    assert html.count("<svg") >= 6
    assert "strict" in html


def test_report_opens_in_a_browser(first: dict[str, Any], tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    page = Path(first["report"]).absolute().as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path}"]
    done = subprocess.run([browser, *flags, "--dump-dom", page], capture_output=True, text=True, check=True, timeout=120)
    assert "Captures nothing was trained on" in done.stdout


def test_a_second_run_reuses_and_a_lost_stage_is_made_again(place: Path, first: dict[str, Any]) -> None:
    home = Path(first["report"]).parent
    (home / "stages" / "generate.json").unlink()
    second = quickstart(place)
    assert "generate" not in second["reused"]
    assert set(second["reused"]) == set(second["seconds"]) - {"generate"}
    assert second["tasks"] == first["tasks"]
