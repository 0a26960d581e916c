"""Community ID v1: one name for a flow in every tool (https://github.com/corelight/community-id-spec)."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.capture.kernels_sha1 import sha1_rows

_PAIRS4 = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10}
_PAIRS6 = {128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130, 144: 145, 145: 144, 139: 140, 140: 139}
_WITH_PORTS = frozenset({6, 17, 132})
_BASE64 = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", dtype=np.uint8)


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


def community_ids(flows: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """Community IDs of flow table rows (dtype FLOW), all at once: hashlib would need 3 us for each."""
    out = np.empty(flows.shape[0], dtype=object)
    for version, words in ((4, 4), (6, 16)):
        chosen = np.flatnonzero(flows["ip_version"] == version)
        if chosen.size:
            out[chosen] = _hashed(flows[chosen], words)
    return out


def _hashed(flows: npt.NDArray[Any], size: int) -> npt.NDArray[np.object_]:
    proto = flows["proto"]
    with_ports = np.isin(proto, list(_WITH_PORTS)) | (proto == (1 if size == 4 else 58))
    sides = [_side(flows, name, size, with_ports) for name in ("a", "b")]
    later = _greater(sides[0], sides[1]) & (flows["one_way"] == 0)
    low = np.where(later[:, None], sides[1], sides[0])
    high = np.where(later[:, None], sides[0], sides[1])
    rest = np.zeros((flows.shape[0], 2), dtype=np.uint8)
    rest[:, 0] = proto
    seed = np.zeros_like(rest)
    raw = np.concatenate([seed, low[:, :size], high[:, :size], rest, low[:, size:], high[:, size:]], axis=1)
    return _encoded(_sha1(raw, np.where(with_ports, raw.shape[1], raw.shape[1] - 4)))



def _sha1(raw: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Digests [n, 20] of the first `lengths` bytes of each row (at most 55: one block)."""
    n, width = raw.shape
    blocks = np.zeros((n, 64), dtype=np.uint8)
    blocks[:, :width] = np.where(np.arange(width) < lengths[:, None], raw, 0)
    blocks[np.arange(n), lengths] = 0x80
    blocks[:, 62], blocks[:, 63] = lengths * 8 >> 8, lengths * 8 & 255
    out = np.zeros((n, 20), dtype=np.uint8)
    sha1_rows(blocks, np.zeros(80, dtype=np.int64), out)
    return out


def _encoded(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.object_]:
    """ "1:" and base64 (RFC 4648): 20 bytes make 27 characters and one "="."""
    padded = np.concatenate([digests, np.zeros((digests.shape[0], 1), dtype=np.uint8)], axis=1).astype(np.int32).reshape(-1, 7, 3)
    group = padded[:, :, 0] << 16 | padded[:, :, 1] << 8 | padded[:, :, 2]
    text = np.empty((digests.shape[0], 30), dtype=np.uint8)
    text[:, :2] = np.frombuffer(b"1:", dtype=np.uint8)
    for k in range(4):
        text[:, 2 + k : 30 : 4] = _BASE64[group >> (18 - 6 * k) & 63]
    text[:, 29] = ord("=")
    return text.view("S30").reshape(-1).astype(str).astype(object)


def _side(flows: npt.NDArray[Any], name: str, size: int, with_ports: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Address and port of one side as big-endian bytes [n, size + 2]."""
    halves = np.stack([flows[f"{name}_hi"], flows[f"{name}_lo"]], axis=1).astype(">i8").view(np.uint8).reshape(-1, 16)
    port = np.where(with_ports, flows[f"{name}_p"], 0).astype(">u2").view(np.uint8).reshape(-1, 2)
    return np.concatenate([halves[:, :size], port], axis=1)


def _greater(one: npt.NDArray[np.uint8], two: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Row-wise comparison as byte strings: the first byte that differs decides."""
    different = one != two
    first = different.argmax(axis=1)
    rows = np.arange(one.shape[0])
    return np.asarray(one[rows, first] > two[rows, first])
