"""Community ID v1: one name for a flow in every tool (https://github.com/corelight/community-id-spec)."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.capture.kernels.sha1 import LANES, PLACES, name_flows

_PAIRS4 = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10}
_PAIRS6 = {128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130, 144: 145, 145: 144, 139: 140, 140: 139}
_WITH_PORTS = frozenset({6, 17, 132})


def community_id(proto: int, a: bytes, pa: int, b: bytes, pb: int, *, seed: int = 0) -> str:
    """Community ID of one flow; `a`, `b` packed addresses (4 or 16 bytes), for ICMP the ports are type and code of side a.

    >>> community_id(6, bytes([128, 232, 110, 120]), 34855, bytes([66, 35, 250, 204]), 80)
    '1:LQU9qZlK+B5F3KDmev6m5PMibrg='
    """
    one_way = False
    if proto in {1, 58}:
        pairs = _PAIRS4 if proto == 1 else _PAIRS6
        one_way = pa not in pairs
        pb = pairs.get(pa, pb)
    elif proto not in _WITH_PORTS:
        pa = pb = 0
    if not one_way and (b, pb) < (a, pa):
        a, pa, b, pb = b, pb, a, pa
    if proto in _WITH_PORTS or proto in {1, 58}:
        raw = struct.pack("!H", seed) + a + b + struct.pack("!BBHH", proto, 0, pa, pb)
    else:
        raw = struct.pack("!H", seed) + a + b + struct.pack("!BB", proto, 0)
    return "1:" + base64.b64encode(hashlib.sha1(raw, usedforsecurity=False).digest()).decode("ascii")


def community_ids(rows: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """Community IDs of finished flows (dtype SUMMARY), all at once: hashlib would need 3 us for each."""
    count = rows.shape[0]
    text = np.full((count, 31), ord("\n"), dtype=np.uint8)  # a separator behind each: `split` is twice as fast as slices
    name_flows(rows, np.zeros(64, dtype=np.uint8), np.zeros((PLACES, LANES), dtype=np.uint32), text)
    out = np.empty(count, dtype=object)
    out[:] = text.tobytes().decode("ascii").split("\n")[:count]
    return out
