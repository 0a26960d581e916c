"""`data check` names what is wrong before anything is trained."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import audit_captures as ac
import pytest

from trafficllm.core.errors import InputError
from trafficllm.core.settings import FlowOptions, RecordOptions
from trafficllm.records.catalog import get_task
from trafficllm.records.lint import check_data
from trafficllm.records.record_shape import RecordShape


def _snapped(*, flows: int, kept: int, declared: int) -> bytes:
    """Raw-IP UDP packets whose payload is longer than what was kept of it."""
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for n in range(flows):
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + declared, n, 0, 64, 17, 0, bytes([192, 0, 2, n]), bytes([198, 51, 100, 1]))
        frame = ip + struct.pack(">HHHH", 5000 + n, 9999, 8 + declared, 0) + bytes(range(kept))
        out += struct.pack("<IIII", n, 0, len(frame), 28 + declared) + frame
    return out


def test_findings_on_cut_captures(captures: Path, tmp_path: Path) -> None:
    root = tmp_path / "MTD"
    for label in ("Gmail", "Zeus"):
        (root / label).mkdir(parents=True)
        for name in ("00", "01"):
            shutil.copy(captures / "MTD" / label / f"{label}_{name}.pcap", root / label)
    (root / "Solo").mkdir()
    shutil.copy(captures / "MTD" / "FTP" / "FTP_00.pcap", root / "Solo")
    (root / "Cut").mkdir()
    (root / "Cut" / "snap.pcap").write_bytes(_snapped(flows=3, kept=40, declared=400))
    report = check_data(root, task=get_task("MTD")).as_dict()
    kinds = {(row["kind"], row["where"]) for row in report["findings"]}
    assert ("one_capture", "Solo") in kinds
    assert ("truncated", "Cut") in kinds
    assert ("link_type", "") in kinds
    assert ("no_handshake", "Solo") in kinds
    assert report["classes"]["Zeus"]["captures"] == 2
    assert len(report["samples"]) == 3
    assert all(sample["record"].startswith("flow") for sample in report["samples"])


def test_an_unusable_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        check_data(tmp_path, task=get_task("MTD"))


def test_samples_show_token_by_token_what_is_masked(captures: Path) -> None:
    report = check_data(captures / "MTD", task=get_task("MTD")).as_dict()
    for sample in report["samples"]:
        shown = " ".join(token["token"] for token in sample["tokens"] if token["state"] != "hidden")
        assert shown == sample["record"]
        assert "ttl" in sample["masked"]
        hidden = [token["token"] for token in sample["tokens"] if token["state"] == "hidden"]
        assert any(token.startswith("ttl=") for token in hidden)


def test_few_flows_from_the_middle_and_mixed_links_are_findings(tmp_path: Path) -> None:
    """Six TCP flows without a handshake in one label; both link types in both labels."""
    world = ac.clean(captures=2, flows=3)
    middle = {key: [(frame[0], frame[1][14:]) for flow in rows for frame in ac.frames(flow)[3:]] for key, rows in world.flows.items()}
    for (label, n), timed in middle.items():
        (tmp_path / label).mkdir(exist_ok=True)
        frames = sorted(timed) if n else sorted((when, bytes(12) + b"\x08\x00" + frame) for when, frame in timed)
        (tmp_path / label / f"session_{label}_{n}.pcap").write_bytes(ac.pcap(frames, link=101 if n else 1))
    kinds = {(row["kind"], row["where"]) for row in check_data(tmp_path, task=get_task("MTD")).as_dict()["findings"]}
    assert {("no_handshake", "left"), ("no_handshake", "right"), ("link_type", ""), ("label_small", "left")} <= kinds


def test_wrong_inside_is_a_finding(captures: Path, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
    shutil.copy(captures / "MTD" / "Zeus" / "Zeus_00.pcap", tmp_path / "a")
    (tmp_path / "b" / "x.pcap").write_text("no capture")
    report = check_data(tmp_path, task=get_task("MTD")).as_dict()
    assert report["findings"][0]["level"] == "error"
    assert "x.pcap" in report["findings"][0]["where"] + report["findings"][0]["message"]


def test_records_are_checked_as_the_settings_shape_them(captures: Path) -> None:
    shape = RecordShape(capture=FlowOptions(max_packets=3), records=RecordOptions(profile="raw", packets=2))
    plain, shaped = (check_data(captures / "MTD", task=get_task("MTD"), shape=one).samples[0] for one in (None, shape))
    assert plain.masked
    assert not shaped.masked
    assert len(shaped.tokens) != len(plain.tokens)
