"""`trafficllm live` on a real interface: captures are replayed into one end of a virtual cable, the other end is captured."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runner import REPO, Cli

sys.path.append(str(REPO / "tests" / "unit"))  # the sample bases live there

import server_samples

CAPTURES = REPO / "src" / "trafficllm" / "data" / "captures"
TOOLS = ("tcpreplay", "unshare", "ip")


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Iterator[Path]:
    """A base and a registry; a folder that the capturing process, which is another user, need not read."""
    if missing := [name for name in TOOLS if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip("a network name space of one's own needs root")
    server_samples.write(tmp_path)
    return tmp_path


def _session(
    place: Path, program: str, replay: list[str], *more: str, seconds: float = 120, **plan: Any
) -> tuple[dict[str, Any], list[str]]:
    """Run a session; what it told, and its lines on stderr."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    models = ["--base", str(place / "base"), "--registry", str(place / "registry"), "--task", "EAC"]
    options = [*models, "--with", program, "-o", str(place / "live.jsonl"), *more]
    (place / "plan.json").write_text(json.dumps({"tape": str(place / "tape.pcap"), "replay": replay, "options": options, **plan}))
    script = str(Path(__file__).with_name("live_session.py"))
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    command = ["unshare", "--net", sys.executable, script, str(place / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr.splitlines()


def _rows(path: Path, name: str) -> list[dict[str, Any]]:
    """Verdicts without the name of their capture, in one order."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row.pop("file") for row in rows} == {name}
    return sorted(rows, key=lambda row: (row["ts"], row["uid"]))


def _equal(one: Any, other: Any) -> bool:
    """Whether two answers are the same; numbers within 1e-5, since how many flows are scored together changes a sum's last bits."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-5
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_equal(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


@pytest.mark.parametrize("program", ["tcpdump", pytest.param("dumpcap", marks=pytest.mark.soak)])
def test_same_verdicts_as_from_the_file_and_no_packet_lost(program: str, place: Path, cli: Cli) -> None:
    captures = [str(CAPTURES / "MTD" / "Zeus" / "Zeus_04.pcap"), str(CAPTURES / "EAC" / "DNS" / "conncheck.pcap")]
    told, lines = _session(place, program, ["--pps", "500", *captures])
    sent = int(re.search(r"Successful packets:\s+(\d+)", told["replayed"])[1])  # type: ignore[index]
    assert told["code"] == 0
    assert any(line.startswith(f"{sent:,} packets, 0 dropped by the kernel; ") for line in lines), lines
    models = ["--base", place / "base", "--registry", place / "registry", "--task", "EAC"]
    done = cli("analyze", place / "tape.pcap", *models, "--quiet", "-f", "jsonl", "-o", place / "file.jsonl")
    assert done.code == 0, done.err
    live = _rows(place / "live.jsonl", "tlv1")
    assert len(live) >= 20
    assert _equal(live, _rows(place / "file.jsonl", str(place / "tape.pcap")))
    assert not _equal([{**row, "confidence": row["confidence"] + 1e-3} for row in live], live)


def test_an_interface_that_is_not_there(cli: Cli) -> None:
    cli("live", "nowhere0").refused(3, "no such interface")


@pytest.mark.soak
def test_a_filter(place: Path) -> None:
    told, _ = _session(place, "tcpdump", ["--pps", "500", str(CAPTURES / "EAC" / "DNS" / "conncheck.pcap")], "--filter", "udp")
    assert told["code"] == 0
    assert {row["proto"] for row in _rows(place / "live.jsonl", "tlv1")} == {"udp"}


@pytest.mark.soak
def test_ten_minutes_take_no_more_memory_than_one(place: Path) -> None:
    """Flows of new addresses all the time; after two minutes the memory grows by less than 5 %, and no packet is dropped."""
    capture = str(CAPTURES / "MTD" / "Zeus" / "Zeus_04.pcap")
    replay = ["--unique-ip", "--loop", "0", "--duration", "600", "--pps", "300", "-K", capture]
    told, lines = _session(place, "tcpdump", replay, "--rotate", "60", "--keep", "3", seconds=900, look=5.0)
    assert told["code"] == 0
    early = max(kib for at, kib in told["memory"] if 60 <= at <= 120)
    late = max(kib for at, kib in told["memory"] if at >= 480)
    print(told["memory"], *lines[-3:], sep="\n")
    assert late < 1.05 * early
    assert any("0 dropped by the kernel" in line and "left out" not in line for line in lines[-3:]), lines[-3:]
    assert len(list(place.glob("live-*.jsonl"))) == 3
