"""`data check` and `data audit` as a user runs them: exit codes, the page without outside requests, hostile names escaped."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from cli_runner import Cli

from trafficllm.surface.cli.data import _marked

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
import audit_captures as ac

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(name="planted", scope="module")
def _planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TTL tells the label; one label has a name that is markup."""
    root = tmp_path_factory.mktemp("planted")
    world = ac.changed(ac.clean(captures=5, flows=6), lambda flow, k: {"ttl": (flow.ttl[0] + 64 * k, flow.ttl[1])})
    ac.write(world, root)
    (root / "left").rename(root / HOSTILE)
    return root


def test_audit_of_a_folder_names_the_leak_in_json_and_page(cli: Cli, planted: Path, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    body = cli("data", "audit", planted, "--html", page, "--budget", "1", "--json").body("data.audit")
    assert [(row["kind"], row["hidden"]) for row in body["findings"]] == [("ttl", True)]
    assert "The TTL alone tells the answer" in body["verdict"]
    assert body["not_checked"] == []
    text = page.read_text(encoding="utf-8")
    assert "the TTL alone tells the answer" in text
    assert HOSTILE not in text
    assert "&lt;img src=x" in text
    assert not re.search(r"<script|<link|<iframe|@import|url\((?!#)|src=[\"']http|href=[\"']http", text)
    assert "default-src 'none'" in text


def test_check_shows_what_is_masked_and_exits_by_readiness(cli: Cli, planted: Path, tmp_path: Path) -> None:
    done = cli("data", "check", planted)
    assert done.code == 0
    assert "[-" in done.out
    assert "ready to train" in done.err
    bad = tmp_path / "bad"
    ac.write(ac.clean(captures=2, flows=3), bad)
    (bad / "left" / "broken.pcap").write_text("no capture")
    done = cli("data", "check", bad, "--json")
    assert done.code == 3
    body = done.body("data.check")
    assert not body["ready"]
    assert [row["where"] for row in body["findings"] if row["kind"] == "unreadable"] == ["left/broken.pcap"]
    states = {token["state"] for sample in body["samples"] for token in sample["tokens"]}
    assert states == {"shown", "hidden", "instead"}
    assert cli("data", "check", tmp_path / "nowhere").code == 3


def test_runs_of_masked_tokens_share_a_mark() -> None:
    rows = [("flow", "shown"), ("ports", "hidden"), ("c3", "hidden"), ("e", "instead"), ("|", "shown")]
    assert _marked([{"token": token, "state": state} for token, state in rows]) == "flow [-ports c3-] {+e+} |"
