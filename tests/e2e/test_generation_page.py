"""Every command of docs/generation.md runs, in its order, on small captures and for a second instead of minutes."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from cli_runner import REPO

from trafficllm.surface.cli.main import run

PAGE = REPO / "docs" / "generation.md"
CAPTURES = REPO / "src" / "trafficllm" / "data" / "captures" / "MTD"
SMALL = {"--max-seconds": "1", "--flows": "6"}


def commands() -> list[list[str]]:
    """The shell commands of the page as words, numbers that cost time made small."""
    block = re.search(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert block
    rows = [shlex.split(line) for line in block[1].splitlines()]
    return [[SMALL.get(words[k - 1], word) if k else word for k, word in enumerate(words)] for words in rows]


def test_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("FTP", "Neris", "Zeus"):
        (tmp_path / "captures" / label).mkdir(parents=True)
        for number in (0, 1, 2):
            name = f"{label}_0{number}.pcap"
            shutil.copyfile(CAPTURES / label / name, tmp_path / "captures" / label / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAFFICLLM_REGISTRY", str(tmp_path / "registry"))
    lines = commands()
    assert len(lines) == 6
    for words in lines:
        assert words[0] == "trafficllm"
        assert run(words[1:]) == 0, words
    page = (tmp_path / "fidelity.html").read_text(encoding="utf-8")
    assert "Neris" in page
    comment = (tmp_path / "generated" / "Neris" / "neris.pcapng").read_bytes()[:400]
    assert b"synthetic traffic: TrafficLLM" in comment
    assert (tmp_path / "generated" / "Neris" / "neris.pcapng.json").is_file()
