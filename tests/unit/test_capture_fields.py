from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from capture_samples import Talk, ethernet, ipv4, pcap, udp, write

from trafficllm.capture.fields.table import FIELDS, FRAME_FIELDS, packet_rows
from trafficllm.core.errors import UsageError

NAMES = [*FRAME_FIELDS, *FIELDS]


def test_values_and_formats(tmp_path: Path) -> None:
    path = write(tmp_path, pcap(Talk().open().frames))
    fields = ["frame.number", "frame.time_epoch", "eth.type", "ip.src", "ip.id", "tcp.dstport", "tcp.flags", "tcp.len", "udp.length"]
    assert next(iter(packet_rows([path], fields))) == ("1", "1.000000000", "0x0800", "192.0.2.1", "0x0001", "80", "0x0002", "0", "")


def test_what_an_icmp_error_quotes_follows_behind_a_comma(tmp_path: Path) -> None:
    quoted = ipv4(17, udp(1000, 2000, b"x"))
    path = write(tmp_path, pcap([(1, ethernet(ipv4(1, bytes([3, 3]) + bytes(6) + quoted)))]))
    assert next(iter(packet_rows([path], ["ip.proto", "udp.dstport", "icmp.type"]))) == ("1,17", "2000", "3")


def test_an_unknown_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tcp\.sport"):
        list(packet_rows([write(tmp_path, pcap([]))], ["tcp.sport"]))


def _tshark(path: Path) -> list[list[str]]:
    arguments = [argument for name in NAMES for argument in ("-e", name)]
    done = subprocess.run(["tshark", "-n", "-r", str(path), "-T", "fields", *arguments], capture_output=True, check=False)
    return [line.split("\t") for line in done.stdout.decode("utf-8", "replace").split("\n")[:-1]]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_fields_equal_tsharks_on_the_bundled_captures(captures: Path) -> None:
    files = sorted(captures.rglob("*.pcap"))[:12]
    compared = different = 0
    for path in files:
        for theirs, ours in zip(_tshark(path), packet_rows([path], NAMES), strict=True):
            pairs = [(one, two) for one, two in zip(theirs, ours, strict=True) if one or two]
            compared += len(pairs)
            different += sum(one != two for one, two in pairs)
    assert compared > 1000
    assert different / compared <= 0.001
