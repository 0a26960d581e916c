"""What a new user asks first: facts of a capture, shipped adapters, help, tables and formats."""

from __future__ import annotations

from pathlib import Path

from cli_runner import Cli

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
