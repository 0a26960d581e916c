"""Frames of every link type and tunnel against tshark's fields, and what flows find inside them against what packets show."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest
from tshark_oracle import TSHARK, compare

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from capture_samples import pcap, write
from link_frames import AGGREGATE, LINKS, NO_IP, NOT_TUNNELS, TUNNELS

pytestmark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")

UNLIKE = {
    "Cisco TTag": "not known to tshark",
    "AYIYA": "not known to tshark",
    "PPP of pppd": "link type not known to tshark",
    "Cisco HDLC with direction": "link type not known to tshark",
    "Frame Relay with direction": "link type not known to tshark",
    "Broadcom tag before Ethernet": "link type not known to tshark",
    "netANALYZER": "tshark wants a header of that device",
    "NFLOG, big-endian": "tshark takes the byte order of the machine it runs on",
    "ERF Ethernet with an extension": "tshark takes ERF's own clock for the time",
    "ERF IPv4": "tshark takes ERF's own clock for the time",
    "ERF HDLC": "tshark takes ERF's own clock for the time",
    "VXLAN on 8472": "not a port of VXLAN in tshark's settings",
    "CAPWAP and 802.11": "tshark always swaps the first two bytes, as Cisco's boxes do",
    "VXLAN without its flag": "tshark does not ask for the flag",
    "EtherIP of another version": "tshark does not ask for the version",
}
"""Frames that tshark 4.0 shows in another way, and why."""


def _by_link() -> dict[int, list[bytes]]:
    frames: dict[int, list[bytes]] = defaultdict(list)
    named = {**LINKS, **NO_IP, **{name: (1, frame) for name, (_, frame) in TUNNELS.items()}, "aggregate": (105, AGGREGATE)}
    named |= {name: (1, frame) for name, frame in NOT_TUNNELS.items()}
    for name, (link, frame) in named.items():
        if name not in UNLIKE:
            frames[link].append(frame)
    return frames


def test_fields_are_tsharks(tmp_path: Path) -> None:
    compared = 0
    for link, frames in _by_link().items():
        path = write(tmp_path, pcap([(1.0 + i, frame) for i, frame in enumerate(frames)], link=link), f"{link}.pcap")
        count, found = compare(path, str(link))
        assert found == []
        compared += count
    assert compared > 2000
    assert set(UNLIKE) < {*LINKS, *TUNNELS, *NOT_TUNNELS}
