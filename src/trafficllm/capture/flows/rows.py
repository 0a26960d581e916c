"""Flows as rows: with all that is known of them, and as Zeek logs connections."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from typing import NotRequired

import numpy as np
from typing_extensions import TypedDict

from trafficllm.capture.flows.conn import uid
from trafficllm.capture.flows.packets import tunnel_names
from trafficllm.core.results import Captured, closed
from trafficllm.core.types import FlowBatch

PROTO_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp", 136: "udplite"}
_NOT_ZEEKS = frozenset({"sctp", "udplite"})
"""Protocols that Zeek's conn.log has among the unknown ones, without ports, sizes, states and history."""
_SECOND = 1_000_000_000
_OTHER = "unknown_transport"


def address_text(raw: bytes, version: int) -> str:
    """A packed address row of 16 bytes as text.

    >>> address_text(bytes([192, 0, 2, 1]) + bytes(12), 4)
    '192.0.2.1'
    """
    return str(ipaddress.IPv4Address(raw[:4]) if version == 4 else ipaddress.IPv6Address(raw[:16]))


def endpoint(host: str, port: int) -> str:
    """One end of a flow as people write it (RFC 3986 3.2.2 for IPv6).

    >>> endpoint("2001:db8::1", 443)
    '[2001:db8::1]:443'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def proto_name(proto: int) -> str:
    """Zeek's word for a protocol number; it has none for SCTP and UDP-Lite."""
    return PROTO_NAMES.get(proto, _OTHER)


@closed
class PacketRow(TypedDict):
    """One of a flow's first packets: direction, payload bytes, seconds since the one before."""

    dir: int
    size: int
    iat: float


class Connection(TypedDict):
    """What both forms of a flow row have, in Zeek's words. Times in seconds, sizes in bytes."""

    ts: float
    uid: str
    orig_h: str
    orig_p: int
    resp_h: str
    resp_p: int
    proto: str
    ip_proto: int
    duration: float | None
    orig_bytes: int | None
    resp_bytes: int | None
    conn_state: str
    orig_pkts: int
    orig_ip_bytes: int
    resp_pkts: int
    resp_ip_bytes: int
    community_id: str
    end_reason: str
    tunnel: str
    splt: list[PacketRow]
    label: NotRequired[Captured | None]


@closed
class FlowRow(Connection):
    """A line of `capture flows -f jsonl`: a connection and its history."""

    history: str


def flow_rows(batch: FlowBatch, *, number: int = 0) -> Iterator[FlowRow]:
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


_OF_FLOWS = (
    *("ts", "duration", "ip_version", "proto", "orig_h", "resp_h", "orig_p", "resp_p", "pkts", "payload_bytes", "ip_bytes"),
    *("conn_state", "history", "end_reason", "community_id", "link", "source", "vlan", "tunnel"),
)
_OF_PACKETS = ("p_dir", "p_ts", "p_ip_len", "p_payload", "p_flags", "p_window", "p_ttl", "p_frame", "p_frame_len", "p_type")


def without_contents(batch: FlowBatch, start: int, stop: int) -> FlowBatch:
    """Flows start to stop - 1 of a batch as rows need them: payload prefixes are left out."""
    first, last = int(batch.pkt_ptr[start]), int(batch.pkt_ptr[stop])
    return replace(
        batch,
        **{name: getattr(batch, name)[start:stop] for name in _OF_FLOWS},
        **{name: getattr(batch, name)[first:last] for name in _OF_PACKETS},
        pkt_ptr=batch.pkt_ptr[start : stop + 1] - first,
        payload_ptr=np.zeros((stop - start, 3), dtype=np.int64),
        payload=np.zeros(0, dtype=np.uint8),
        beyond_ptr=np.zeros((0, 3), dtype=np.int64),
        beyond=np.zeros(0, dtype=np.uint8),
    )


def _splt(batch: FlowBatch, i: int) -> list[PacketRow]:
    part = slice(int(batch.pkt_ptr[i]), int(batch.pkt_ptr[i + 1]))
    times = batch.p_ts[part].tolist()
    columns = zip(batch.p_dir[part].tolist(), batch.p_payload[part].tolist(), times, [times[0], *times] if times else [], strict=False)
    return [{"dir": d, "size": size, "iat": (now - before) / _SECOND} for d, size, now, before in columns]


@closed
class ConnRow(Connection):
    """A line of `capture flows -f zeek`: Zeek's conn.log, and what a flow row has beside it. None is unset, as Zeek writes it.

    Times are whole microseconds, which is what libpcap hands Zeek: the duration is the difference of two of them. A connection of
    one packet has neither duration nor bytes, one of another transport no ports.
    """

    history: str | None
    service: None
    local_orig: None
    local_resp: None
    missed_bytes: int
    tunnel_parents: None


def conn_rows(batch: FlowBatch, *, number: int = 0) -> Iterator[ConnRow]:
    """The rows of `flow_rows` as Zeek logs connections (policy/protocols/conn, `Conn::Info`)."""
    for i, row in enumerate(flow_rows(batch, number=number)):
        start, lasted = int(batch.ts[i]), int(batch.duration[i])
        if row["proto"] in _NOT_ZEEKS:
            row = FlowRow({**row, "proto": _OTHER, "orig_bytes": 0, "resp_bytes": 0, "conn_state": "OTH", "history": ""})
        yield {
            **row,
            "ts": start // 1000 / 1e6,
            "duration": ((start + lasted) // 1000 - start // 1000) / 1e6 if lasted > 0 else None,
            "orig_bytes": row["orig_bytes"] if lasted > 0 else None,
            "resp_bytes": row["resp_bytes"] if lasted > 0 else None,
            "orig_p": 0 if row["proto"] == _OTHER else row["orig_p"],
            "resp_p": 0 if row["proto"] == _OTHER else row["resp_p"],
            "history": row["history"] or None,
            "service": None,
            "local_orig": None,
            "local_resp": None,
            "missed_bytes": 0,
            "tunnel_parents": None,
        }
