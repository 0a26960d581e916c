"""Words and habits of Zeek's conn.log: state names, likely server ports, unique ids."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

CONN_STATES = ("S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR", "OTH")
"""Names by the codes of kernels_gather."""

# Ports that the protocol scripts of Zeek register as likely servers; they decide the originator of flows whose start is missing.
_TCP_SERVERS = (
    21, 22, 25, 53, 80, 81, 88, 102, 110, 135, 139, 143, 389, 443, 445, 502, 514, 563, 585, 587, 614, 631, 636, 853, 989, 990, 992,
    993, 995, 1080, 1434, 2811, 3128, 3268, 3306, 3389, 5061, 5222, 5223, 5269, 5432, 6379, 6666, 6667, 6668, 6669, 8000, 8080, 8443,
    8888, 20000,
)  # fmt: skip
_UDP_SERVERS = (
    53, 67, 68, 88, 123, 137, 161, 162, 389, 443, 514, 1812, 2123, 2152, 3544, 4011, 4789, 5060, 5072, 5353, 5355, 6081, 20000,
)  # fmt: skip
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def likely_servers() -> npt.NDArray[np.uint8]:
    """uint8 [2, 65536]: row 0 TCP, row 1 UDP, 1 where the port is a well-known service."""
    table = np.zeros((2, 65536), dtype=np.uint8)
    table[0, list(_TCP_SERVERS)] = 1
    table[1, list(_UDP_SERVERS)] = 1
    return table


def uid(ts: int, community_id: str, number: int) -> str:
    """A connection's id in Zeek's form ("C" and 17 letters), the same on every run: from its time, five-tuple and place in the output."""
    digest = hashlib.blake2b(f"{ts} {community_id} {number}".encode(), digest_size=16).digest()
    value = int.from_bytes(digest, "big")
    out = []
    for _ in range(17):
        value, rest = divmod(value, 62)
        out.append(_ALPHABET[rest])
    return "C" + "".join(out)
