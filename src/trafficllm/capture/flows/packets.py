"""Decoded packets: one row a frame, as the decode kernel fills it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.core.types import FrameBatch

Rows = npt.NDArray[Any]
"""A structured numpy array; its dtype is named where it is made."""

ERRORS = (
    "",
    "link.truncated",
    "link.unknown",
    "link.depth",
    "ip.truncated",
    "ip.version",
    "ip.header",
    "ip.length",
    "ip6.extension",
    "tcp.truncated",
    "tcp.header",
    "udp.truncated",
    "udp.length",
    "icmp.truncated",
    "arp.truncated",
    "fragment.invalid",
    "fragment.overflow",
    "sctp.truncated",
)
"""Kinds of malformation by the code in a row's `error`; a row keeps the first one met."""

TUNNELS = (
    "", "ipip", "gre", "erspan", "pptp", "vxlan", "geneve", "gtp", "teredo", "l2tp", "lisp", "capwap", "tzsp", "etherip", "mpls", "ayiya",
)  # fmt: skip
"""Kinds of tunnels by their four-bit code; "ipip" is IP in IP of either version, "mpls" MPLS in UDP or IP."""

PACKET = np.dtype(
    [
        ("src_hi", "<i8"),  # address bytes 0-7, big-endian; IPv4 in the upper four
        ("src_lo", "<i8"),
        ("dst_hi", "<i8"),
        ("dst_lo", "<i8"),
        ("seq", "<u4"),  # SCTP: the verification tag
        ("ack", "<u4"),  # SCTP: the tag an INIT or INIT ACK hands out
        ("l3", "<i4"),  # offsets from the start of the frame, -1: absent
        ("l4", "<i4"),
        ("payload", "<i4"),
        ("ip_len", "<u4"),  # IP total length, header included
        ("payload_len", "<u4"),  # transport payload by the headers
        ("payload_cap", "<u4"),  # how much of it was captured
        ("vlan", "<i4"),
        ("rest", "<i4"),  # where the next packet of an 802.11 aggregate begins, 0: there is none
        ("ip_id", "<u4"),
        ("ethertype", "<u2"),
        ("sport", "<u2"),
        ("dport", "<u2"),
        ("flags", "<u2"),  # TCP: the low nine bits of offset and flags
        ("window", "<u2"),
        ("icmp", "<u2"),  # type << 8 | code
        ("frag", "<u2"),  # offset in 8-byte units << 1 | more fragments
        ("chunks", "<u2"),  # SCTP: what the packet's chunks do, bits of `kernels.connection.sctp`
        ("tunnel", "<u2"),  # around this packet: four bits each (TUNNELS), the outermost highest
        ("around", "<u2"),  # tunnels around the aggregate of `rest`
        ("ip_version", "u1"),
        ("proto", "u1"),
        ("ttl", "u1"),
        ("tos", "u1"),
        ("usable", "u1"),  # 1: belongs to a flow; 2: a fragment; 0: neither
        ("error", "u1"),
        ("ip_sum", "u1"),  # 0 not checked, 1 right, 2 wrong
        ("l4_sum", "u1"),
    ],
    align=True,
)

FLOW_PACKET, FRAGMENT = 1, 2
SUM_UNKNOWN, SUM_RIGHT, SUM_WRONG = 0, 1, 2


@cache
def tunnel_names(chain: int) -> str:
    """The tunnels around a packet, the outermost first, from a row's `tunnel`.

    >>> tunnel_names(0x52)
    'vxlan:gre'
    """
    codes = [chain >> shift & 15 for shift in (12, 8, 4, 0)]
    return ":".join(TUNNELS[code] for code in codes if code)


@dataclass(frozen=True, slots=True)
class PacketBatch:
    """Headers of a FrameBatch: `rows` has dtype PACKET, one row a frame, in the same order.

    `batch["ttl"]` is a column. Offsets (`l3`, `l4`, `payload`) count from the start of the frame.
    """

    frames: FrameBatch
    rows: Rows

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """One column as a view."""
        return self.rows[column]

    def address(self, which: str) -> npt.NDArray[np.uint8]:
        """Addresses as uint8 [n, 16]; `which` is "src" or "dst"."""
        return address_rows(self.rows[f"{which}_hi"], self.rows[f"{which}_lo"])


def address_rows(high: npt.NDArray[np.int64], low: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Address halves (int64 [n], big-endian value) to uint8 [n, 16]."""
    halves = np.empty((high.shape[0], 2), dtype=">i8")
    halves[:, 0] = high
    halves[:, 1] = low
    return halves.view(np.uint8).reshape(-1, 16)
