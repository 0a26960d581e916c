"""The session of docs/adapters.md, command by command, on bundled captures with tiny budgets: minutes, as two baseline searches run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from cli_runner import REPO, Cli

CAPTURES = REPO / "src" / "trafficllm" / "data" / "captures" / "MTD"
KNOWN, ADDED = ("FTP", "Neris"), "Zeus"


def _folders(place: Path) -> dict[str, str]:
    """The page's names and what stands for them here."""
    for folder, labels in {"in": KNOWN, "more": (ADDED,)}.items():
        for label in labels:
            (place / folder / label).mkdir(parents=True)
            for number in (0, 1, 2):
                name = f"{label}_0{number}.pcap"
                shutil.copyfile(CAPTURES / label / name, place / folder / label / name)
    unseen = CAPTURES / ADDED / f"{ADDED}_03.pcap"
    return {"CAPTURES": str(place / "in"), "NEW": str(place / "more"), "UNSEEN": str(unseen), "OUT": str(place / "out")}


def _commands() -> list[list[str]]:
    page = (REPO / "docs" / "adapters.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```\n(.*?)```", page, flags=re.DOTALL) for line in block.splitlines()]
    return [line.split()[1:] for line in lines if line.startswith("trafficllm ")]


@pytest.mark.soak
def test_the_pages_session_runs(cli: Cli, tmp_path: Path) -> None:
    names = _folders(tmp_path)
    (tmp_path / "c.toml").write_text("[tune]\nlearning_rate = 1e-3\n")
    where = ["--registry", str(tmp_path / "registry")]
    done: list[str] = []
    for words in _commands():
        noun = " ".join(words[: 2 if words[0] == "adapter" else 1])
        told = [names.get(word, word) for word in words] + where
        if noun in ("adapter register", "adapter update"):
            told += ["--max-seconds", "2"]
        if noun.startswith("adapter"):
            told.append("--json")
        answer = cli(*told)
        # The gate judges two seconds of tuning as it must: all three of its answers end as the page says.
        assert answer.code == 0 or (noun == "adapter update" and answer.code == 5), answer.err
        done.append(noun)
        if noun == "adapter update" and answer.code == 0:
            body = json.loads(answer.out)
            assert body["added_labels"] == [ADDED]
            if body["status"] == "candidate":  # two seconds may not convince the gate; the page goes on from a promoted version
                assert body["why"]
        if noun == "adapter update":
            assert cli("adapter", "promote", "FAMILIES", "v0002", *where).code == 0
    assert done[0] == "adapter register"
    assert {"analyze", "adapter update", "adapter rollback", "adapter verify", "adapter export"} <= set(done)
    live = cli("adapter", "show", "FAMILIES", *where, "--json").body("adapter.show")
    assert (live["version"], live["manifest"]["labels"]) == ("v0001", sorted(KNOWN))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
