"""The supply chain's files say the same: pins, locks, bill of materials, list of malware; and what CONTRIBUTING names is there."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).resolve().parents[2]


def _recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPO / "recipes" / "supply" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pins() -> dict[str, str]:
    lines = (REPO / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {_recipe("lock").plain(name): version for name, version in pairs}


def test_locks_hold_every_pin_but_torch_with_hashes() -> None:
    sbom = _recipe("sbom")
    locks = [sbom.locked((REPO / name).read_text()) for name in ("requirements.lock", "requirements-test.lock")]
    assert not locks[0].keys() & locks[1].keys()
    both = {**locks[0], **locks[1]}
    assert {name: version for name, (version, _) in both.items()} == {name: v for name, v in _pins().items() if name != "torch"}
    assert all(hashes for _, hashes in both.values())
    assert {"numpy", "transformers", "hatchling"} <= locks[0].keys()
    assert {"pytest", "fastapi"} <= locks[1].keys()


def test_the_bill_of_materials_lists_the_lock_and_is_the_same_each_time() -> None:
    sbom = _recipe("sbom")
    lock, constraints = ((REPO / name).read_text() for name in ("requirements.lock", "constraints.txt"))
    made = sbom.bom(lock, constraints)
    assert made == sbom.bom(lock, constraints)
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", made["serialNumber"])
    names = {part["name"] for part in made["components"]}
    assert names == sbom.locked(lock).keys() | {"torch"}
    assert made["dependencies"][0]["dependsOn"] == [part["bom-ref"] for part in made["components"]]
    other = sbom.bom(lock.replace("numpy==", "numpy==9"), constraints)
    assert other["serialNumber"] != made["serialNumber"]


def test_malware_captures_are_listed_as_they_are(captures: Path) -> None:
    with (captures / "MALWARE.csv").open(newline="") as stream:
        listed = [tuple(row) for row in csv.reader(stream)]
    malware = _recipe("malware")
    assert listed == [malware.HEAD, *malware.rows()]
    assert len(listed) > 50


def test_contributing_names_files_that_are_there() -> None:
    text = (REPO / "CONTRIBUTING.md").read_text()
    named: list[str] = re.findall(r"`([\w./*-]+\.(?:py|toml|txt|csv|lock))`", text)
    roots = (
        REPO,
        REPO / "src" / "trafficllm",
        REPO / "tests" / "unit",
        REPO / "src" / "trafficllm" / "capture" / "facts",
        REPO / "src" / "trafficllm" / "records" / "tasks",
    )
    assert len(named) > 30
    assert not [name for name in named if not any(list(root.glob(name)) for root in roots)]


def test_the_workflow_runs_what_developers_run() -> None:
    text = (REPO / ".github" / "workflows" / "test.yml").read_text()
    assert "run: .ci/run" in text
    assert "has not been run" in text
    assert "pull_request_target" not in text
    assert "--require-hashes" in (REPO / "Makefile").read_text()
    assert "trafficllm --version" in (REPO / "Dockerfile").read_text()
