"""What a new user asks first: facts of a capture, shipped adapters, help, tables and formats."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Cli

from trafficllm.registry.store import Registry

CAPTURE = "MTD/Neris/Neris_00.pcap"


def test_analyze_answers_without_an_adapter(cli: Cli, captures: Path, tmp_path: Path) -> None:
    body = cli("analyze", captures / CAPTURE, "--registry", tmp_path / "none", "-q", "how many packets?", "--json").body("analyze")
    assert body["fact"]["value"] == body["capture"]["packets"] > 0
    assert (body["tasks"], body["notable"]) == ([], [])
    shown = cli("analyze", captures / CAPTURE, "--registry", tmp_path / "none", "-q", "top talkers", "-f", "csv")
    assert shown.code == 0
    assert shown.out.startswith("host,bytes,sent")
    refused = cli(
        "analyze", captures / CAPTURE, "--registry", tmp_path / "none", "-q", "top talkers", "-f", "parquet", "-o", tmp_path / "x"
    )
    refused.refused(2, "--format")


def test_bare_groups_print_their_help(cli: Cli) -> None:
    for words in ([], ["capture"], ["adapter"]):
        done = cli(*words)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("Usage: trafficllm")


def test_the_ending_of_a_file_chooses_its_format(cli: Cli, captures: Path, tmp_path: Path) -> None:
    begins = {"f.csv": "ts,uid", "f.jsonl": '{"ts"', "conn.log": "#separator", "eve.json": '{"timestamp"', "f.parquet": "PAR1"}
    for name, text in begins.items():
        assert cli("capture", "flows", captures / CAPTURE, "-o", tmp_path / name).code == 0
        assert (tmp_path / name).read_bytes().startswith(text.encode()), name
    cli("capture", "flows", captures / CAPTURE, "-o", tmp_path / "f.txt").refused(2, "--format")


def test_packets_have_a_header_unless_told_otherwise(cli: Cli, captures: Path) -> None:
    words = ["capture", "packets", captures / CAPTURE, "--fields", "frame.number,ip.src"]
    assert cli(*words).out.splitlines()[:2] == ["frame.number\tip.src", "1\t147.32.84.165"]
    assert cli(*words, "--no-header").out.splitlines()[0] == "1\t147.32.84.165"


def test_the_demo_shows_three_captures_also_without_an_adapter(cli: Cli) -> None:
    done = cli("demo")
    assert done.code == 4
    assert done.out.count("$ trafficllm analyze") == 3
    assert done.out.count(" hosts, ") == 3
    assert "no detection adapter" in done.err


def test_a_shipped_adapter_is_listed_and_shown_as_a_card(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text("weights")
    manifest = {"labels": ["Zeus", "FTP"], "profile": "strict", "base": "traffic", "quality": None, "calibration": {}}
    Registry(tmp_path / "package").register("MTD", folder, manifest, status="live")
    monkeypatch.setenv("TRAFFICLLM_SHIPPED", str(tmp_path / "package"))
    assert [row["source"] for row in cli("adapter", "list", "--json").body("adapter.list")["adapters"]] == ["shipped"]
    card = cli("adapter", "show", "MTD").out
    assert "live, shipped with the package, read only" in card
    assert "2: Zeus, FTP" in card
    assert cli("adapter", "show", "MTD", "--json").body("adapter.show")["manifest"]["labels"] == ["Zeus", "FTP"]
    assert cli("adapter", "promote", "MTD", "v0001").code == 0
    assert [row["source"] for row in cli("adapter", "list", "--json").body("adapter.list")["adapters"]] == ["registry", "shipped"]
