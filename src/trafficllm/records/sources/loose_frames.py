"""A handful of loose frames, without times, as one record: what the original's flow files hold."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import numpy as np

from trafficllm.capture.facts.flow_facts import facts_of
from trafficllm.capture.flows.decode import decode
from trafficllm.capture.flows.packets import FLOW_PACKET
from trafficllm.core.types import FlowMeta, FrameBatch, Record
from trafficllm.records.codec.canonical import ICMP_PROTOS, TCP

ETHERNET, RAW = 1, 101
_LIMIT = 512


def frame_batch(frames: Sequence[bytes]) -> FrameBatch:
    """Frames as a FrameBatch: Ethernet where an EtherType of IP stands at byte 12, raw IP else; all times 0."""
    sizes = [len(frame) for frame in frames]
    n = len(frames)
    return FrameBatch(
        buffer=np.frombuffer(b"".join(frames), dtype=np.uint8),
        offset=np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64),
        caplen=np.array(sizes, dtype=np.uint32),
        origlen=np.array(sizes, dtype=np.uint32),
        ts=np.zeros(n, dtype=np.int64),
        link=np.array([_link(frame) for frame in frames], dtype=np.uint16),
        source=np.zeros(n, dtype=np.uint32),
        number=np.arange(1, n + 1, dtype=np.int64),
        files=("",),
    )


def _link(frame: bytes) -> int:
    return ETHERNET if frame[12:14] in {b"\x08\x00", b"\x86\xdd", b"\x81\x00"} or frame[:1][0] >> 4 not in (4, 6) else RAW


def record_of_frames(frames: Sequence[bytes]) -> tuple[Record, FlowMeta]:
    """The packets of one flow as a record; sizes by the headers, though frames may be cut; gaps unknown.

    The first packet's sender is the originator. Frames without IP are left out; none at all gives an empty record.
    """
    kept = [frame for frame in frames if frame]
    if not kept:
        return Record(), FlowMeta()
    packets = decode(frame_batch(kept), tunnels=True)
    use = [i for i in range(len(kept)) if packets["usable"][i] == FLOW_PACKET]
    if not use:
        return Record(), FlowMeta()
    first = use[0]
    source, target = (packets.address(which) for which in ("src", "dst"))
    sport, dport = packets["sport"].tolist(), packets["dport"].tolist()
    start = (source[first].tobytes(), sport[first])
    dirs = tuple(int((source[i].tobytes(), sport[i]) != start) for i in use)
    payload = [b"", b""]
    for i, d in zip(use, dirs, strict=True):
        at = int(packets["payload"][i])
        if at >= 0:
            payload[d] += kept[i][at : at + int(packets["payload_cap"][i])]
    proto, version = int(packets["proto"][first]), int(packets["ip_version"][first])
    both = (payload[0][:_LIMIT], payload[1][:_LIMIT])
    ports = (sport[first], dport[first])
    icmp = proto in ICMP_PROTOS
    tcp = proto == TCP
    record = Record(
        kind="flow",
        ip_version=version,
        proto=proto,
        ports=None if icmp else ports,
        dirs=dirs,
        sizes=tuple(int(packets["payload_len"][i]) for i in use),
        iats=(0, *[-1] * (len(use) - 1)),
        flags=tuple(int(packets["flags"][i]) & 0xFF if tcp else -1 for i in use),
        windows=tuple(int(packets["window"][i]) if tcp else -1 for i in use),
        ttls=tuple(int(packets["ttl"][i]) for i in use),
        icmp=int(packets["icmp"][first]) if icmp else -1,
        payload=both,
        facts=facts_of(proto, *ports, *both),
    )
    orig, resp = (_text(version, rows[first].tobytes()) for rows in (source, target))
    ends = sorted((f"{orig} {ports[0]}", f"{resp} {ports[1]}"))
    meta = FlowMeta(
        host=orig,
        orig_h=orig,
        orig_p=ports[0],
        resp_h=resp,
        resp_p=ports[1],
        proto=proto,
        packets=len(use),
        community_id=f"{proto} {ends[0]} {ends[1]}",
    )
    return record, meta


def _text(version: int, raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, raw[:4]) if version == 4 else socket.inet_ntop(socket.AF_INET6, raw)
