"""Every command of docs/datasets.md runs, in its order."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest


def test_commands_of_the_page_run(cli: Any, repo: Path, captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("FTP", "Neris", "Zeus"):
        shutil.copytree(captures / "MTD" / label, tmp_path / "captures" / label)
    monkeypatch.chdir(tmp_path)
    page = (repo / "docs" / "datasets.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "trafficllm"
        assert cli(*words[1:]).code == 0, line
    first, again, fold = (json.loads(Path("sets", name, "manifest.json").read_text()) for name in ("first", "again", "fold"))
    folds = [f"splits/fold-{k}.json" for k in (1, 2, 3)]
    assert first["split_files"] == ["split.json", *folds, "splits/shots-5.json", "splits/shots-10.json"]
    assert again["split"]["parts"] == first["split"]["parts"]
    assert fold["split"]["unit"] == "fixed"
    assert json.loads(Path("sets/unknown/manifest.json").read_text())["classes"]["Zeus"]["train"] == 0
