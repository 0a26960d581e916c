"""Flows as rows, Arrow tables and Zeek's conn.log."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from trafficllm.capture.flows.conn import uid
from trafficllm.capture.flows.packets import tunnel_names
from trafficllm.core.escape import for_zeek
from trafficllm.core.types import FlowBatch

if TYPE_CHECKING:
    import pyarrow as pa

PROTO_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}
_SECOND = 1_000_000_000
ZEEK_FIELDS = (
    ("ts", "time"), ("uid", "string"), ("id.orig_h", "addr"), ("id.orig_p", "port"), ("id.resp_h", "addr"), ("id.resp_p", "port"),
    ("proto", "enum"), ("service", "string"), ("duration", "interval"), ("orig_bytes", "count"), ("resp_bytes", "count"),
    ("conn_state", "string"), ("local_orig", "bool"), ("local_resp", "bool"), ("missed_bytes", "count"), ("history", "string"),
    ("orig_pkts", "count"), ("orig_ip_bytes", "count"), ("resp_pkts", "count"), ("resp_ip_bytes", "count"),
    ("tunnel_parents", "set[string]"), ("ip_proto", "count"), ("community_id", "string"),
)  # fmt: skip


def address_text(raw: bytes, version: int) -> str:
    """A packed address row of 16 bytes as text.

    >>> address_text(bytes([192, 0, 2, 1]) + bytes(12), 4)
    '192.0.2.1'
    """
    return str(ipaddress.IPv4Address(raw[:4]) if version == 4 else ipaddress.IPv6Address(raw[:16]))


def proto_name(proto: int) -> str:
    """Zeek's word for a protocol number."""
    return PROTO_NAMES.get(proto, "unknown_transport")


def flow_rows(batch: FlowBatch, *, number: int = 0) -> Iterator[dict[str, Any]]:
    """One dict a flow in Zeek's words, times in seconds; `tunnel` names what the packets were wrapped in ("gre", "vxlan:ipip"),
    `splt` lists the stored packets (`dir`, payload `size`, `iat` s).

    `number` is the running number of the batch's first flow over all batches; it keeps `uid` unique.
    """
    for i in range(len(batch)):
        version, proto = int(batch.ip_version[i]), int(batch.proto[i])
        ts, community = int(batch.ts[i]), str(batch.community_id[i])
        yield {
            "uid": uid(ts, community, number + i),
            "ts": ts / _SECOND,
            "duration": int(batch.duration[i]) / _SECOND,
            "orig_h": address_text(batch.orig_h[i].tobytes(), version),
            "orig_p": int(batch.orig_p[i]),
            "resp_h": address_text(batch.resp_h[i].tobytes(), version),
            "resp_p": int(batch.resp_p[i]),
            "proto": proto_name(proto),
            "ip_proto": proto,
            "orig_bytes": int(batch.payload_bytes[i, 0]),
            "resp_bytes": int(batch.payload_bytes[i, 1]),
            "orig_pkts": int(batch.pkts[i, 0]),
            "resp_pkts": int(batch.pkts[i, 1]),
            "orig_ip_bytes": int(batch.ip_bytes[i, 0]),
            "resp_ip_bytes": int(batch.ip_bytes[i, 1]),
            "conn_state": str(batch.conn_state[i]),
            "history": str(batch.history[i]),
            "community_id": community,
            "end_reason": str(batch.end_reason[i]),
            "tunnel": tunnel_names(int(batch.tunnel[i])),
            "splt": _splt(batch, i),
        }


def _splt(batch: FlowBatch, i: int) -> list[dict[str, Any]]:
    part = slice(int(batch.pkt_ptr[i]), int(batch.pkt_ptr[i + 1]))
    times = batch.p_ts[part].tolist()
    columns = zip(batch.p_dir[part].tolist(), batch.p_payload[part].tolist(), times, [times[0], *times] if times else [], strict=False)
    return [{"dir": d, "size": size, "iat": (now - before) / _SECOND} for d, size, now, before in columns]


def flows_arrow(batch: FlowBatch, *, number: int = 0) -> pa.Table:
    """The rows of `flow_rows` as an Arrow table (Parquet-ready), with ts and duration in ns as int64."""
    import pyarrow as pa

    rows = list(flow_rows(batch, number=number))
    names = [name for name in _ARROW_TYPES if name != "splt"]
    arrays = {name: pa.array([row[name] for row in rows], type=getattr(pa, _ARROW_TYPES[name])()) for name in names}
    arrays["ts"], arrays["duration"] = pa.array(batch.ts), pa.array(batch.duration)
    entry = pa.struct([("dir", pa.uint8()), ("size", pa.uint32()), ("iat", pa.float64())])
    arrays["splt"] = pa.array([row["splt"] for row in rows], type=pa.list_(entry))
    return pa.table(arrays)


_ARROW_TYPES = {
    "uid": "string", "ts": "int64", "duration": "int64", "orig_h": "string", "orig_p": "uint16", "resp_h": "string", "resp_p": "uint16",
    "proto": "string", "ip_proto": "uint8", "orig_bytes": "int64", "resp_bytes": "int64", "orig_pkts": "int64", "resp_pkts": "int64",
    "orig_ip_bytes": "int64", "resp_ip_bytes": "int64", "conn_state": "string", "history": "string", "community_id": "string",
    "end_reason": "string", "tunnel": "string", "splt": "list",
}  # fmt: skip


def _seconds(ns: int) -> str:
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    micro = ns // 1000
    return f"{sign}{micro // 1_000_000}.{micro % 1_000_000:06d}"


def zeek_row(batch: FlowBatch, i: int, *, number: int = 0, service: str = "") -> tuple[str, ...]:
    """One conn.log row in the order of Zeek's fields; "-" where Zeek leaves a field unset."""
    version, proto, lasted = int(batch.ip_version[i]), int(batch.proto[i]), int(batch.duration[i])
    name = proto_name(proto)
    ports = ("0", "0") if name == "unknown_transport" else (str(int(batch.orig_p[i])), str(int(batch.resp_p[i])))
    sizes = [str(int(value)) for value in batch.payload_bytes[i]]
    start = int(batch.ts[i])
    apart = (start + lasted) // 1000 - start // 1000  # libpcap hands Zeek whole microseconds
    measured = (_seconds(1000 * apart), *sizes) if lasted > 0 else ("-", "-", "-")
    return (
        _seconds(int(batch.ts[i])),
        uid(int(batch.ts[i]), str(batch.community_id[i]), number + i),
        address_text(batch.orig_h[i].tobytes(), version),
        ports[0],
        address_text(batch.resp_h[i].tobytes(), version),
        ports[1],
        name,
        for_zeek(service) if service else "-",
        *measured,
        str(batch.conn_state[i]),
        "-",
        "-",
        "0",
        str(batch.history[i]) or "-",
        str(int(batch.pkts[i, 0])),
        str(int(batch.ip_bytes[i, 0])),
        str(int(batch.pkts[i, 1])),
        str(int(batch.ip_bytes[i, 1])),
        "-",
        str(proto),
        str(batch.community_id[i]),
    )


def zeek_conn_log(batches: Iterable[FlowBatch]) -> Iterator[str]:
    """Lines of a conn.log in Zeek's tab-separated form, header first."""
    yield "#separator \\x09"
    yield "#set_separator\t,"
    yield "#empty_field\t(empty)"
    yield "#unset_field\t-"
    yield "#path\tconn"
    yield "\t".join(("#fields", *(name for name, _ in ZEEK_FIELDS)))
    yield "\t".join(("#types", *(kind for _, kind in ZEEK_FIELDS)))
    number = 0
    for batch in batches:
        for i in range(len(batch)):
            yield "\t".join(zeek_row(batch, i, number=number))
        number += len(batch)
