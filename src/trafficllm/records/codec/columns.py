"""Flows as columns: the packet part of many records at once, masked, probed and written as units by numpy.

The same as `codec.flows`, `masks.apply`, `probe.values_of` and the first half of `codec.encode` one record at a time, by test
(tests/unit/test_records_columns.py); 40 times as fast on a batch. Units are written as rows of slots, a code point or nothing each:
one UTF-32 text of all rows, cut at the rows' ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trafficllm.core.files import hash64
from trafficllm.core.types import I64, FlowBatch
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import ICMP_PROTOS, MAX_PACKETS, TCP
from trafficllm.records.dataset.duplicates import LEAST_PACKETS
from trafficllm.records.masks import ACK, SMALL_WINDOW, SYN

PACKETS = ("dirs", "sizes", "iats", "flags", "windows", "ttls")
PORT_CLASSES = tuple(u.PORT_CLASSES)
_BOUNDS = np.array(u.IAT_BOUNDS, dtype=np.int64)

Bools: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Columns:
    """`n` records: packets int64 [n, 32] (-1 behind the last one), `length` packets each; the rest int64 [n].

    `ports` is [n, 2] with -1 where there are none, `classes` [n, 2] indexes PORT_CLASSES, -1: not shown.
    """

    length: I64
    dirs: I64
    sizes: I64
    iats: I64
    flags: I64
    windows: I64
    ttls: I64
    ip_version: I64
    proto: I64
    icmp: I64
    ports: I64
    classes: I64

    def __len__(self) -> int:
        return int(self.length.shape[0])


def joined(parts: Sequence[Columns]) -> Columns:
    """Records of several one after the other."""
    return Columns(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Columns)))


def from_batch(batch: FlowBatch, rows: I64) -> Columns:
    """Raw records of these flows of a batch, as `build.records_of` gives them."""
    starts, ends = batch.pkt_ptr[rows], batch.pkt_ptr[rows + 1]
    length = np.minimum(ends - starts, MAX_PACKETS)
    there = np.arange(MAX_PACKETS) < length[:, None]
    place = np.where(there, starts[:, None] + np.arange(MAX_PACKETS), 0)

    def packets(column: npt.NDArray[Any], shown: Bools = there) -> I64:
        if not len(column):
            return np.full(there.shape, -1, dtype=np.int64)
        return np.where(shown, column[place].astype(np.int64), -1)

    proto = batch.proto[rows].astype(np.int64)
    tcp = there & (proto == TCP)[:, None]
    icmp = np.isin(proto, ICMP_PROTOS)
    ports = np.stack([batch.orig_p[rows], batch.resp_p[rows]], axis=1).astype(np.int64)
    times = packets(batch.p_ts)
    gaps = np.zeros_like(times)
    gaps[:, 1:] = np.maximum(np.diff(times, axis=1), 0)
    return Columns(
        length,
        packets(batch.p_dir),
        packets(batch.p_payload),
        np.where(there, gaps, -1),
        packets(batch.p_flags, tcp),
        packets(batch.p_window, tcp),
        packets(batch.p_ttl),
        batch.ip_version[rows].astype(np.int64),
        proto,
        np.where(icmp, packets(batch.p_type)[:, 0], -1),
        np.where(icmp[:, None], -1, ports),
        np.full((len(rows), 2), -1, dtype=np.int64),
    )


def from_table(table: pa.Table) -> Columns:
    """Raw records of stored rows (`store.ROWS`), payload and facts aside."""
    n = table.num_rows
    length = np.diff(_flat(table["dirs"])[1])

    def packets(name: str) -> I64:
        values, _ = _flat(table[name])
        out = np.full((n, MAX_PACKETS), -1, dtype=np.int64)
        out[np.arange(MAX_PACKETS) < length[:, None]] = values
        return out

    values, offsets = _flat(table["ports"])
    ports = np.full((n, 2), -1, dtype=np.int64)
    ports[np.diff(offsets) > 0] = values.reshape(-1, 2)
    plain = {name: table[name].to_numpy().astype(np.int64) for name in ("ip_version", "proto", "icmp")}
    classes = np.full((n, 2), -1, dtype=np.int64)
    return Columns(length=length, ports=ports, classes=classes, **plain, **{name: packets(name) for name in PACKETS})


def _flat(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Values of a list column one after the other, and where each list begins in them."""
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy()
    return array.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]


def arrays(columns: Columns) -> dict[str, pa.Array]:
    """The columns of raw records as Arrow arrays by name, in the types of `store.ROWS`."""
    n = len(columns)
    there = np.arange(MAX_PACKETS) < columns.length[:, None]
    offsets = np.concatenate([[0], np.cumsum(columns.length)]).astype(np.int32)
    types = {"dirs": pa.uint8(), "sizes": pa.int32(), "iats": pa.int64(), "flags": pa.int16(), "windows": pa.int32(), "ttls": pa.int16()}
    out = {}
    for name, kind in types.items():
        out[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(getattr(columns, name)[there]).cast(kind))
    shown = columns.ports[:, 0] >= 0
    ends = np.concatenate([[0], np.cumsum(2 * shown)]).astype(np.int32)
    flat = pa.array(columns.ports[shown].reshape(-1)).cast(pa.uint16())
    out["ports"] = pa.ListArray.from_arrays(pa.array(ends), flat, mask=pa.array(~shown))
    out["ip_version"] = pa.array(columns.ip_version).cast(pa.uint8())
    out["proto"] = pa.array(columns.proto).cast(pa.int16())
    out["icmp"] = pa.array(columns.icmp).cast(pa.int32())
    out["kind"] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int32)), pa.array(["flow"]))
    out["port_class"] = pa.array([""] * n, type=pa.string())
    out["text"] = pa.array([b""] * n, type=pa.binary())
    return out


def hide(columns: Columns, names: Collection[str]) -> Columns:
    """What `masks.apply` leaves of the packet part where the fields `names` are hidden."""
    for name, way in _HIDE.items():
        if name in names:
            columns = way(columns)
    return columns


def _ports(c: Columns) -> Columns:
    classes = np.where(c.ports < 1024, 0, np.where(c.ports < 49152, 1, 2))
    shown = c.ports >= 0
    return replace(c, ports=np.full_like(c.ports, -1), classes=np.where(shown, classes, c.classes))


def _port_class(end: int) -> Callable[[Columns], Columns]:
    def way(c: Columns) -> Columns:
        c = _ports(c)
        classes = c.classes.copy()
        classes[:, end] = -1
        return replace(c, classes=classes)

    return way


def _window_class(c: Columns) -> Columns:
    return replace(c, windows=np.where(c.windows <= 0, c.windows, np.where(c.windows < SMALL_WINDOW, 1, 65535)))


def _handshake(c: Columns) -> Columns:
    """SYN packets without payload at the start go, and the bare ACK behind them; later SYN bits are cleared."""
    opening = (c.flags >= 0) & (c.flags & SYN > 0) & (c.sizes <= 0)
    skip = np.logical_and.accumulate(opening, axis=1).sum(axis=1)
    here = np.minimum(skip, MAX_PACKETS - 1)[:, None]
    flags, sizes = (np.take_along_axis(column, here, axis=1)[:, 0] for column in (c.flags, c.sizes))
    skip += (skip > 0) & (skip < c.length) & (flags == ACK) & (sizes == 0)
    has_flags = np.asarray((c.flags >= 0).any(axis=1))
    c = _from(c, np.where(has_flags, skip, 0), has_flags)
    return replace(c, flags=np.where(c.flags >= 0, c.flags & ~SYN, -1))


def _from(c: Columns, skip: I64, rows: Bools) -> Columns:
    """Packets from number `skip` on; the first of `rows` has no gap before it."""
    length = np.maximum(c.length - skip, 0)
    place = np.minimum(np.arange(MAX_PACKETS) + skip[:, None], MAX_PACKETS - 1)
    there = np.arange(MAX_PACKETS) < length[:, None]
    moved = {name: np.where(there, np.take_along_axis(getattr(c, name), place, axis=1), -1) for name in PACKETS}
    moved["iats"][:, 0] = np.where(rows & (length > 0), 0, moved["iats"][:, 0])
    return replace(c, length=length, **moved)


def _first_packet(c: Columns) -> Columns:
    return _cut(c, 1)


def _cut(c: Columns, packets: int) -> Columns:
    length = np.minimum(c.length, packets)
    there = np.arange(MAX_PACKETS) < length[:, None]
    return replace(c, length=length, **{name: np.where(there, getattr(c, name), -1) for name in PACKETS})


def _no_packets(c: Columns) -> Columns:
    return _cut(c, 0)


def _proto(c: Columns) -> Columns:
    gone = np.full_like(c.flags, -1)
    return replace(c, proto=np.full_like(c.proto, -1), icmp=np.full_like(c.icmp, -1), flags=gone, windows=gone)


def _ip_version(c: Columns) -> Columns:
    return replace(c, ip_version=np.zeros_like(c.ip_version))


def _all(name: str) -> Callable[[Columns], Columns]:
    return lambda c: replace(c, **{name: np.full_like(getattr(c, name), -1)})


def _one(name: str, position: int) -> Callable[[Columns], Columns]:
    def way(c: Columns) -> Columns:
        column = getattr(c, name).copy()
        if position >= 0:
            column[:, position] = -1
        else:
            rows = np.flatnonzero(c.length)
            column[rows, c.length[rows] - 1] = -1
        return replace(c, **{name: column})

    return way


_HIDE: dict[str, Callable[[Columns], Columns]] = {
    "ports": _ports,
    "orig_port_class": _port_class(0),
    "resp_port_class": _port_class(1),
    "ttl": _all("ttls"),
    "window_value": _window_class,
    "window": _all("windows"),
    "handshake": _handshake,
    "packet_count": _first_packet,
    "proto": _proto,
    "ip_version": _ip_version,
    "flags_first": _one("flags", 0),
    "flags": _all("flags"),
    "size_first": _one("sizes", 0),
    "size_last": _one("sizes", -1),
    "iat_first": _one("iats", 1),
    "iat_second": _one("iats", 2),
    "iat_third": _one("iats", 3),
    "iats": _all("iats"),
    "packets": _no_packets,
}


def buckets(gaps: I64) -> I64:
    """`units.iat_bucket` of many times."""
    return np.where(gaps > 0, np.searchsorted(_BOUNDS, gaps, side="right") - 1, 0)


def sequence_hashes(masked: Columns) -> list[int | None]:
    """`duplicates.sequence_hash` of each record."""
    out: list[int | None] = [None] * len(masked)
    told = (masked.length >= LEAST_PACKETS) & ((masked.sizes > 0).sum(axis=1) >= LEAST_PACKETS // 2)
    rows = np.flatnonzero(told)
    if len(rows):
        times = buckets(masked.iats[rows]) // 3
        keys = np.stack([masked.dirs[rows], masked.sizes[rows], times], axis=2)
        for row, count, key in zip(rows.tolist(), masked.length[rows].tolist(), keys, strict=True):
            out[row] = hash64(key[:count].tobytes())
    return out


NO_VALUE = -(1 << 62)
"""Stands for None among probe values."""


def probes(masked: Columns) -> dict[str, I64]:
    """The values of `probe.PROBES` that need no payload, as numbers; NO_VALUE where there is none."""
    has = masked.length > 0
    has_flag = masked.flags >= 0
    last = np.maximum(masked.length - 1, 0)[:, None]

    def edge(direction: int) -> I64:
        there = masked.dirs == direction
        first = np.take_along_axis(masked.windows, there.argmax(axis=1)[:, None], axis=1)[:, 0]
        return np.where(there.any(axis=1), first, NO_VALUE)

    def gap(position: int) -> I64:
        values = masked.iats[:, position]
        return np.where((masked.length > position) & (values >= 0), buckets(values), NO_VALUE)

    def first(name: str) -> I64:
        return np.where(has, getattr(masked, name)[:, 0], NO_VALUE)

    syn = (has_flag & (masked.flags & SYN > 0)).any(axis=1)
    return {
        "proto": masked.proto,
        "ip_version": masked.ip_version,
        "ports": np.where(masked.ports[:, 1] >= 0, masked.ports[:, 1], NO_VALUE),
        "orig_port_class": masked.classes[:, 0],
        "resp_port_class": masked.classes[:, 1],
        "ttl": first("ttls"),
        "window_orig": edge(0),
        "window_resp": edge(1),
        "handshake": np.where(has_flag.any(axis=1), syn, NO_VALUE),
        "flags_first": first("flags"),
        "size_first": first("sizes"),
        "size_last": np.where(has, np.take_along_axis(masked.sizes, last, axis=1)[:, 0], NO_VALUE),
        "iat_first": gap(1),
        "iat_second": gap(2),
        "iat_third": gap(3),
        "packet_count": masked.length,
    }


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
    has_flag = tcp & (flags >= 0)
    slots[:, :, _FLAGS] = np.where(has_flag, _FLAG_POINT[flags & 31], 0)
    slots[:, :, _EXTRA] = np.where(has_flag, _EXTRA_POINT[flags >> 5 & 7], 0)
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
