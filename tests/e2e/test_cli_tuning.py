"""docs/tuning.md is true: its settings and commands run as printed, in order, and leave what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import REPO, Cli

PAGE = (REPO / "docs" / "tuning.md").read_text(encoding="utf-8")
CAPTURES = REPO / "src" / "trafficllm" / "data" / "captures" / "MTD"
LABELS = ("FTP", "Neris", "Zeus")


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def _commands(kind: str) -> list[list[str]]:
    return [shlex.split(line) for block in _blocks(kind) for line in block.splitlines() if line]


def _prepare(place: Path) -> None:
    for label in LABELS:
        (place / "captures" / label).mkdir(parents=True)
        for number in (0, 1, 2):
            name = f"{label}_0{number}.pcap"
            shutil.copyfile(CAPTURES / label / name, place / "captures" / label / name)
    (place / "tune.toml").write_text(_blocks("toml")[0])


def test_the_page_runs_as_printed(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _prepare(tmp_path)
    commands = _commands("sh")
    assert len(commands) >= 6
    for command in commands:
        assert command[0] == "trafficllm"
        result = cli(*command[1:])
        assert result.code == 0, (command, result.err)
    assert json.loads(result.out)["reused"]
    for name in ("router", "from-base", "from-router"):
        files = {path.name for path in (tmp_path / name).iterdir()}
        own = {"readout.safetensors"} if name != "router" else set()
        assert files == {"adapter_config.json", "adapter_model.safetensors", "tune.json", "metrics.jsonl", "loss.svg"} | own
        assert (tmp_path / name / "loss.svg").read_text().startswith("<svg")
    plan = cli("tune", "plan", "D", "--base", "default", "--config", "tune.toml", "--json").body("tune.plan")
    done = json.loads((tmp_path / "from-base" / "tune.json").read_text())["report"]
    assert plan["steps"] == done["steps"] == 12
    assert plan["trainable"] == done["trainable"]
    assert plan["tokens"] == pytest.approx(done["tokens"], rel=0.2)
    first = cli("tune", "plan", "--base", "default", "--task", "MTD", "--task", "EAC", "--json").body("tune.plan")
    assert (first["stage"], first["labels"]) == ("instruct", 3)


def test_methods_that_cannot_be_served_are_not_registered(cli: Cli, tmp_path: Path) -> None:
    _prepare(tmp_path)
    (tmp_path / "prefix.toml").write_text('[tune]\nmethod = "prefix"\n')
    result = cli("adapter", "register", tmp_path / "captures", "--task", "MTD", "--config", tmp_path / "prefix.toml")
    assert result.code == 2
    assert "cannot be served" in result.err


@pytest.mark.soak
def test_the_launch_line_runs(cli: Cli, tmp_path: Path) -> None:
    _prepare(tmp_path)
    assert cli("data", "build", tmp_path / "captures", "-o", tmp_path / "D", "--task", "MTD").code == 0
    for command in _commands("sh launch"):
        words = [sys.executable, "-m", "torch.distributed.run", *command[1:], "--json"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["processes"] == 2  # one process speaks
