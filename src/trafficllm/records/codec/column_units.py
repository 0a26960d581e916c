"""The units of many flow records at once, up to their packets: the first half of `codec.encode` over columns.

A record is a row of slots, a code point or nothing each; what is written of all rows is one UTF-32 text, cut at the rows' ends.
The same strings as `codec.encode`, by test (tests/unit/test_records_columns.py).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trafficllm.core.types import I64
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import ICMP_PROTOS, TCP
from trafficllm.records.codec.columns import PORT_CLASSES, Columns, buckets

Points: TypeAlias = npt.NDArray[np.uint32]
_HEAD, _EACH = 9, 8
"""Slots before the packets, and of each packet: direction, then those named here."""
_FLAGS, _EXTRA, _HIGH, _LOW, _WINDOW, _TTL, _GAP = range(1, 8)


def head_units(masked: Columns, packets: int) -> list[str]:
    """The units of each flow record up to its packets, as `codec.encode` writes them."""
    n = len(masked)
    limit = min(packets, int(masked.length.max(initial=0)))
    slots = np.zeros((n, _HEAD + _EACH * limit), dtype=np.uint32)
    _head_slots(masked, slots)
    if limit:
        _packet_slots(masked, limit, slots[:, _HEAD:].reshape(n, limit, _EACH))
    written = slots != 0
    text = slots[written].astype("<u4").tobytes().decode("utf-32-le")
    ends = np.cumsum(written.sum(axis=1)).tolist()
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _points(row: Collection[str]) -> Points:
    return np.array([ord(char) if char else 0 for char in row], dtype=np.uint32)


_PROTO_POINT = _points([u.unit(f"proto:{u.PROTOS[k]}") if k in u.PROTOS else u.unit("proto") for k in range(256)])
_PROTO_BYTE = np.array([0 if k in u.PROTOS else u.BYTE0 + k for k in range(256)], dtype=np.uint32)
_IP_POINT = _points(["", "", "", "", u.unit("ip4"), "", u.unit("ip6"), ""])
_PORT_POINT = tuple(_points([*(u.unit(f"{end}:{c}") for c in PORT_CLASSES), ""]) for end in ("orig_p", "resp_p"))
_DIR_POINT, _FLAG_POINT = _points(u.DIR_UNITS), _points(u.FLAG_UNITS)
_EXTRA_POINT = _points([u.EXTRA_UNITS.get(bits << 5, "") for bits in range(8)])
_GAP_POINT, _WINDOW_POINT, _TTL_POINT = _points(u.IAT_UNITS), _points(u.WINDOW_UNITS), _points(u.TTL_UNITS)
_HIGH_POINT = np.concatenate([_points(u.SIZE_ZERO), np.repeat(_points(u.SIZE_HIGH), 32)[1:]])
_LOW_POINT = np.concatenate([[0], np.tile(_points(u.SIZE_LOW), 64)[1:]]).astype(np.uint32)
_OVER, _OVER_POINT = np.array(u.SIZE_BOUNDS, dtype=np.int64), _points(u.SIZE_OVER)
_OCTAVES = np.array([1 << k for k in range(16)], dtype=np.int64)
_TTL_UPPER = np.array(u.TTL_UPPER, dtype=np.int64)


def _head_slots(c: Columns, slots: Points) -> None:
    """Kind, protocol (2), IP version, then ICMP type and code (3), port numbers (5) or port classes (2)."""
    shown = (c.proto >= 0) & (c.proto < 256)
    proto = np.where(shown, c.proto, 0)
    slots[:, 0] = ord(u.unit("kind:flow"))
    slots[:, 1] = np.where(shown, _PROTO_POINT[proto], 0)
    slots[:, 2] = np.where(shown, _PROTO_BYTE[proto], 0)
    slots[:, 3] = _IP_POINT[np.clip(c.ip_version, 0, 7)]
    icmp = np.isin(c.proto, ICMP_PROTOS)
    typed = icmp & (c.icmp >= 0)
    ports = ~icmp & (c.ports[:, 0] >= 0)
    classes = ~icmp & ~ports
    byte = [c.icmp >> 8 & 255, c.icmp & 255, c.ports[:, 0] >> 8 & 255, c.ports[:, 0] & 255, c.ports[:, 1] >> 8 & 255, c.ports[:, 1] & 255]
    octet = [(value + u.BYTE0).astype(np.uint32) for value in byte]
    class_unit = [_PORT_POINT[end][np.where(classes, c.classes[:, end], -1)] for end in (0, 1)]
    slots[:, 4] = np.where(typed, ord(u.unit("icmp")), np.where(ports, ord(u.unit("ports")), class_unit[0]))
    slots[:, 5] = np.where(typed, octet[0], np.where(ports, octet[2], class_unit[1]))
    slots[:, 6] = np.where(typed, octet[1], np.where(ports, octet[3], 0))
    slots[:, 7] = np.where(ports, octet[4], 0)
    slots[:, 8] = np.where(ports, octet[5], 0)


def _packet_slots(c: Columns, limit: int, slots: Points) -> None:
    there = np.arange(limit) < c.length[:, None]
    tcp = ((c.proto == TCP) | (c.proto == -1))[:, None] & there
    dirs = (c.dirs[:, :limit] > 0).astype(np.int64)
    flags, sizes, gaps = c.flags[:, :limit], c.sizes[:, :limit], c.iats[:, :limit]
    slots[:, :, 0] = np.where(there, _DIR_POINT[dirs], 0)
    known = tcp & (flags >= 0)
    slots[:, :, _FLAGS] = np.where(known, _FLAG_POINT[flags & 31], 0)
    slots[:, :, _EXTRA] = np.where(known, _EXTRA_POINT[flags >> 5 & 7], 0)
    sized, small = there & (sizes >= 0), sizes < u.SIZE_EXACT
    exact = np.where(sized & small, sizes, 0)
    over = _OVER_POINT[np.maximum(np.searchsorted(_OVER, sizes, side="right") - 1, 0)]
    slots[:, :, _HIGH] = np.where(sized, np.where(small, _HIGH_POINT[exact], over), 0)
    slots[:, :, _LOW] = np.where(sized & small, _LOW_POINT[exact], 0)
    windows, ttls = c.windows[:, :limit], c.ttls[:, :limit]
    width = np.searchsorted(_OCTAVES, np.minimum(windows, 65535), side="right")
    slots[:, :, _WINDOW] = _changes(np.where(tcp & (windows >= 0), width, -1), dirs, _WINDOW_POINT)
    upper = np.searchsorted(_TTL_UPPER, np.minimum(ttls, 255), side="left")
    slots[:, :, _TTL] = _changes(np.where(there & (ttls >= 0), upper, -1), dirs, _TTL_POINT)
    gap = np.where(there & (gaps >= 0), _GAP_POINT[buckets(gaps)], 0)
    gap[:, 0] = 0
    slots[:, :, _GAP] = gap


def _changes(bucket: I64, dirs: I64, points: Points) -> Points:
    """The unit of a bucket where it differs from the last one of its direction; -1 says nothing."""
    out = np.zeros(bucket.shape, dtype=np.uint32)
    if (bucket < 0).all():
        return out
    rows = np.arange(len(bucket))
    now = np.full((len(bucket), 2), -1, dtype=np.int64)
    for k in range(bucket.shape[1]):
        value, d = bucket[:, k], dirs[:, k]
        new = (value >= 0) & (value != now[rows, d])
        out[new, k] = points[value[new]]
        now[rows[new], d[new]] = value[new]
    return out
