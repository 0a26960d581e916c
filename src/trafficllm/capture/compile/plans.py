"""Compile semantic flow plans into frames: whatever the actions are, the packets are valid and the repairs counted.

The plan says what happens (open, send 300 bytes, wait, close); addresses, ports by role, numbers, lengths,
checksums, segmentation and times are made here, from documentation ranges and a seed only.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trafficllm.capture.compile import contents as wellformed
from trafficllm.capture.compile import ports as services
from trafficllm.capture.compile import tcp as compile_tcp
from trafficllm.capture.compile.headers import IP_HEADER, MTU, Ends, Framer, Packet, ends_of
from trafficllm.capture.compile.icmp import icmp_packets
from trafficllm.core.files import hash64
from trafficllm.core.types import Action, FlowPlan, FrameBatch

MAX_GAP = 3_600_000_000_000
"""ns: no action waits longer than an hour."""
MAX_SEND = 65_535
"""Bytes of one send: larger sizes are clipped."""
_FILLS = {"zero", "random", "text"}


@dataclass(slots=True)
class CompileCounts:
    """What was compiled, and by kind what the plans had wrong: nothing is repaired silently."""

    flows: int = 0
    packets: int = 0
    repairs: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Wire:
    """What carries a flow: IP version and the largest IP packet in bytes."""

    version: int
    mtu: int


def compile_flows(
    plans: Sequence[FlowPlan],
    *,
    seed: int,
    start: int,
    spread: int,
    first: int = 0,
    mtu: int = MTU,
    counts: CompileCounts | None = None,
    ends: Sequence[Ends] | None = None,
) -> FrameBatch:
    """Ethernet frames of `plans` on one timeline, sorted by time.

    `start` ns since the epoch; flows begin at random times of the `spread` ns after it; `first` is the running
    number of the first plan, so that plans compiled in several calls with one seed keep apart; `mtu` bytes of an IP
    packet at most (9000 keeps most segments of captures taken above segmentation offload whole); `ends` are the hosts
    of each plan, by default two of the documentation ranges that no other plan has. The same arguments give the same
    frames. Never raises for what a plan says: see `CompileCounts.repairs`.

    >>> plan = FlowPlan(6, 4, 443, (Action("open"), Action("open", 1), Action("ack"), Action("send", size=200)))
    >>> len(compile_flows([plan], seed=1, start=0, spread=0))
    4
    """
    counts = counts if counts is not None else CompileCounts()
    times: list[int] = []
    frames: list[bytes] = []
    for index, plan in enumerate(plans, first):
        rng = random.Random(hash64(f"{seed}:{index}".encode()))
        begin = start + (rng.randrange(spread) if spread > 0 else 0)
        proto, version = _network(plan, counts.repairs)
        hosts = ends_of(version, index, seed) if ends is None else ends[index - first]
        framer = Framer(hosts, proto, rng)
        actions = _cleaned(plan.actions, counts.repairs)
        if proto in {1, 58}:
            packets = icmp_packets(actions, hosts, proto, rng, counts.repairs, mtu=mtu)
        elif proto == 6:
            packets = _tcp(plan, actions, Wire(version, mtu), rng, counts.repairs)
        else:
            packets = _udp(plan, actions, Wire(version, mtu), rng, counts.repairs)
        times += [begin + packet.ts for packet in packets]
        frames += [framer.frame(packet) for packet in packets]
    for kind in [kind for kind, count in counts.repairs.items() if not count]:
        del counts.repairs[kind]
    counts.flows += len(plans)
    counts.packets += len(frames)
    return batch_of(times, frames)


def _network(plan: FlowPlan, repairs: Counter[str]) -> tuple[int, int]:
    """Transport and IP version that exist together, nearest to what the plan asks for."""
    version = plan.ip_version
    if version not in {4, 6}:
        repairs["ip_version.unknown"] += 1
        version = 4
    proto = plan.proto
    if proto not in {1, 6, 17, 58}:
        repairs["proto.unknown"] += 1
        proto = 17
    icmp = 1 if version == 4 else 58
    if proto in {1, 58} and proto != icmp:
        repairs["proto.version"] += 1
        proto = icmp
    return proto, version


def _cleaned(actions: Sequence[Action], repairs: Counter[str]) -> list[Action]:
    """Actions with every number inside its range and no more payload than size."""
    out = []
    for action in actions:
        size = min(max(action.size, 0), MAX_SEND)
        gap = min(max(action.gap, 0), MAX_GAP)
        ttl = min(max(action.ttl, -1), 255)
        way = 1 if action.dir else 0
        fill = action.fill if action.fill in _FILLS else "random"
        clean = replace(action, dir=way, size=size, gap=gap, ttl=ttl, fill=fill, flags=action.flags & 0xFF, payload=action.payload[:size])
        repairs["value.range"] += clean != action
        out.append(clean)
    return out


def _tcp(plan: FlowPlan, actions: list[Action], wire: Wire, rng: random.Random, repairs: Counter[str]) -> list[Packet]:
    legal = compile_tcp.Legaliser(repairs).run(actions)
    mss = wire.mtu - IP_HEADER[wire.version] - 20
    contents = [action.payload for action in legal] if plan.whole else wellformed.tcp_contents(legal, rng, repairs, mss=mss)
    ports = _ports("tcp", plan, contents, rng, repairs, speaks_first=bool(legal[0].dir))
    return compile_tcp.Numberer(wire.version, ports, rng, mtu=wire.mtu).run(legal, contents)


def _ports(
    transport: str, plan: FlowPlan, contents: list[bytes], rng: random.Random, repairs: Counter[str], *, speaks_first: bool
) -> tuple[int, int]:
    client = services.client_port(transport, plan.orig_p, rng, repairs)
    if plan.whole:
        return client, plan.resp_p
    return client, services.service_port(transport, plan.resp_p, contents, repairs, speaks_first=speaks_first)


def _udp(plan: FlowPlan, actions: list[Action], wire: Wire, rng: random.Random, repairs: Counter[str]) -> list[Packet]:
    limit = wire.mtu - IP_HEADER[wire.version] - 8
    legal = _datagrams(actions, limit, repairs)
    contents = [action.payload for action in legal] if plan.whole else wellformed.udp_contents(legal, plan.resp_p, rng, repairs)
    ports = _ports("udp", plan, contents, rng, repairs, speaks_first=bool(legal[0].dir))
    ttls = (64, rng.randrange(44, 60))
    packets = []
    now = 0
    for action, content in zip(legal, contents, strict=True):
        now += action.gap
        header = struct.pack("!HHHH", ports[action.dir], ports[1 - action.dir], 8 + len(content), 0)
        packets.append(Packet(now, action.dir, action.ttl if action.ttl > 0 else ttls[action.dir], header + content))
    return packets


def _datagrams(actions: list[Action], limit: int, repairs: Counter[str]) -> list[Action]:
    """Only datagrams, each within the MTU; what is dropped leaves its gap behind."""
    out: list[Action] = []
    carry = 0
    for action in actions:
        if action.op not in {"datagram", "send", "icmp"}:
            repairs["op.transport"] += action.op != "wait"
            carry += action.gap
            continue
        repairs["op.transport"] += action.op == "icmp"
        repairs["datagram.clipped"] += action.size > limit
        out.append(replace(action, gap=action.gap + carry, size=min(action.size, limit), payload=action.payload[:limit]))
        carry = 0
    if not out:
        repairs["plan.empty"] += 1
        return [Action("datagram", size=32)]
    return out


def batch_of(times: Sequence[int], frames: Sequence[bytes]) -> FrameBatch:
    """Ethernet frames at `times` (ns) in order of time; equal times keep the order given."""
    ts = np.array(times, dtype=np.int64)
    order = np.argsort(ts, kind="stable")
    frames = [frames[k] for k in order]
    sizes = np.array([len(frame) for frame in frames], dtype=np.int64)
    n = len(frames)
    return FrameBatch(
        buffer=np.frombuffer(b"".join(frames), dtype=np.uint8),
        offset=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])[:n].astype(np.int64),
        caplen=sizes.astype(np.uint32),
        origlen=sizes.astype(np.uint32),
        ts=ts[order],
        link=np.ones(n, dtype=np.uint16),
        source=np.zeros(n, dtype=np.uint32),
        number=np.arange(1, n + 1, dtype=np.int64),
        files=("compiled",),
    )
