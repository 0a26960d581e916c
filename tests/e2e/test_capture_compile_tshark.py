"""Wireshark's own verdict on compiled and on real captures; skipped where tshark is not installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from capture_plans import random_plans

from trafficllm.capture.check.captures import check
from trafficllm.capture.compile.plans import compile_flows
from trafficllm.capture.files.read import read_frames
from trafficllm.capture.files.write import write_capture
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.types import FlowPlan
from trafficllm.records import masks
from trafficllm.records.codec import codec
from trafficllm.records.codec.flows import records_of
from trafficllm.records.codec.plan import plan_of

TSHARK = shutil.which("tshark")
pytestmark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
ERROR = 0x00800000
SUMS = ("ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status")
LOW = ("IPv4", "IPv6", "TCP]", "UDP]", "ICMP")


def _verdicts(path: Path) -> list[tuple[list[str], list[str], list[str], str]]:
    """A frame each: malformed protocols, expert severities, checksum states, protocols."""
    options = [arg for proto in ("ip", "tcp", "udp") for arg in ("-o", f"{proto}.check_checksum:TRUE")]
    fields = [arg for name in ("_ws.malformed", "_ws.expert.severity", *SUMS, "frame.protocols") for arg in ("-e", name)]
    command = [str(TSHARK), "-n", "-r", str(path), *options, "-T", "fields", "-E", "separator=|", *fields]
    done = subprocess.run(command, capture_output=True, check=True, text=True, errors="replace")
    out = []
    for line in done.stdout.splitlines():
        malformed, severity, *sums, protocols = line.split("|")
        out.append(([m for m in malformed.split(",") if m], severity.split(",") if severity else [], ",".join(sums).split(","), protocols))
    return out


def _wrong(path: Path) -> Counter[str]:
    """Protocols of frames that tshark calls malformed, wrong in a checksum or an error."""
    bad: Counter[str] = Counter()
    for malformed, severity, sums, protocols in _verdicts(path):
        if malformed or "0" in sums or any(int(level) >= ERROR for level in severity):
            bad[protocols] += 1
    return bad


def test_nonsense_compiles_to_packets_tshark_accepts(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    frames = compile_flows(random_plans(600, seed=21, heads=True), seed=2, start=10**18, spread=10**11)
    packets = write_capture(path, [frames], format="pcapng")
    assert len(_verdicts(path)) == packets > 2000
    assert _wrong(path) == {}


@pytest.mark.parametrize("masked", [True, False])
def test_plans_of_real_flows_compile_to_packets_tshark_accepts(tmp_path: Path, captures: Path, masked: bool) -> None:
    plans = _bundled_plans(captures, masked=masked)
    path = tmp_path / "x.pcap"
    packets = write_capture(path, [compile_flows(plans, seed=3, start=10**18, spread=10**12)])
    assert len(plans) > 150
    assert packets > 600
    assert _wrong(path) == {}
    assert check([path]).valid


def _bundled_plans(captures: Path, *, masked: bool) -> list[FlowPlan]:
    plans = []
    for file in sorted(captures.rglob("*.pcap"))[::2]:
        records = [record for batch in read_flows([file]) for record, _ in records_of(batch)][:8]
        for record in records:
            shown = codec.decode(codec.encode(masks.apply(record))) if masked else record
            plans.append(plan_of(shown, label=file.parent.name))
    return plans


def test_check_agrees_with_tshark_on_real_captures(tmp_path: Path, captures: Path) -> None:
    """All bundled captures in one file: as many wrong checksums, no malformed header that tshark does not see."""
    files = sorted(captures.rglob("*.pcap"))
    path = tmp_path / "all.pcapng"
    packets = write_capture(path, read_frames(files), format="pcapng")
    report, verdicts = check([path]), _verdicts(path)
    wrong = sum("0" in sums for _, _, sums, _ in verdicts)
    low = sum(any(word in name for name in malformed for word in LOW) for malformed, _, _, _ in verdicts)
    assert len(files) >= 30
    assert report.packets == len(verdicts) == packets > 3000
    assert abs(report.bad_checksums - wrong) <= 0.001 * packets
    assert (sum(report.malformed.values()), report.bad_lengths) == (low, 0)
