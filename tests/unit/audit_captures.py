"""Labelled captures written byte by byte for the audit's tests: nothing follows the label but what a test plants.

Two labels whose flows differ a little in the size of the request; addresses, ports, times, sequence numbers, TTLs and payload
are drawn alike for both.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from capture_samples import ACK, PSH, SYN, ipv4, pcap

LABELS = ("left", "right")
CAPTURES, FLOWS = 6, 10
START = 1_700_000_000
Plant = Callable[["Flow", int, np.random.Generator], "Flow"]


@dataclass(frozen=True)
class Flow:
    """One TCP conversation and the marks it is written with."""

    client: bytes
    server: bytes
    sport: int
    start: float
    request: bytes
    answer: bytes
    gaps: tuple[float, ...] = (0.0, 0.01, 0.02, 0.05, 0.08)
    isn: tuple[int, int] = (1000, 5000)
    ttl: tuple[int, int] = (64, 57)
    ident: int = 1
    macs: bytes = bytes(12)
    padding: int = 0
    dport: int = 443
    window: int = 64240
    options: bytes = b""
    ethertype: bytes = b"\x08\x00"


@dataclass
class World:
    """Flows of each capture: (label, capture number) -> flows; `link` and `snap` of each label."""

    flows: dict[tuple[str, int], list[Flow]]
    link: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 1))
    snap: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 262144))


def frames(flow: Flow, link: int = 1) -> list[tuple[float, bytes]]:
    """Handshake, request and answer as timed frames."""
    a, b = flow.isn
    up = (flow.client, flow.server, flow.sport, flow.dport, flow.ttl[0])
    down = (flow.server, flow.client, flow.dport, flow.sport, flow.ttl[1])
    steps = [
        (up, a, 0, SYN, b""),
        (down, b, a + 1, SYN | ACK, b""),
        (up, a + 1, b + 1, ACK, b""),
        (up, a + 1, b + 1, PSH | ACK, flow.request),
        (down, b + 1, a + 1 + len(flow.request), PSH | ACK, flow.answer),
    ]
    out = []
    for k, ((src, dst, sport, dport, ttl), seq, ack, flags, data) in enumerate(steps):
        offset = (20 + len(flow.options)) // 4 << 4
        head = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset, flags, flow.window, 0, 0)
        packet = ipv4(6, head + flow.options + data, src, dst, ttl=ttl, ident=(flow.ident + k) & 0xFFFF)
        macs = flow.macs if src == flow.client else flow.macs[6:] + flow.macs[:6]
        whole = macs + flow.ethertype + packet + bytes(flow.padding) if link == 1 else packet
        out.append((flow.start + flow.gaps[k], whole))
    return out


def random_flow(rng: np.random.Generator, label: int) -> Flow:
    """A flow whose marks are drawn alike for every label; `right` asks for 60 bytes more."""
    client, server = bytes([10, *rng.integers(1, 250, 3).tolist()]), bytes([172, 16, *rng.integers(1, 250, 2).tolist()])
    gaps = np.cumsum(rng.uniform(0.001, 0.05, 5)).tolist()
    return Flow(
        client,
        server,
        int(rng.integers(49152, 65000)),
        START + float(rng.uniform(0, 3000)),
        rng.bytes(int(rng.integers(150, 300)) + 60 * label),
        rng.bytes(int(rng.integers(100, 900))),
        tuple(gaps),
        isn=(int(rng.integers(2**32)), int(rng.integers(2**32))),
        ttl=(int(rng.integers(50, 65)), int(rng.integers(50, 65))),
        ident=int(rng.integers(65536)),
        macs=bytes([2, 0, 0, 0, 0, int(rng.integers(8)), 2, 0, 0, 0, 1, int(rng.integers(3))]),
    )


def clean(seed: int = 0, *, captures: int = CAPTURES, flows: int = FLOWS, **fixed: Any) -> World:
    """No leak at all; `fixed` values stand in every flow alike."""
    rng = np.random.default_rng(seed)
    return World(
        {
            (label, n): [replace(random_flow(rng, k), **fixed) for _ in range(flows)]
            for k, label in enumerate(LABELS)
            for n in range(captures)
        }
    )


def changed(world: World, change: Callable[[Flow, int], dict[str, Any]]) -> World:
    """Every flow with some values replaced, which may depend on its label's number."""
    flows = {key: [replace(flow, **change(flow, LABELS.index(key[0]))) for flow in rows] for key, rows in world.flows.items()}
    return replace(world, flows=flows)


def copied(world: World, change: Callable[[Flow], Flow], *, share: int = 1) -> World:
    """`share` flows of each capture come back, changed, in the next capture of the label; capture n knows capture n + 1."""
    flows = {key: list(rows) for key, rows in world.flows.items()}
    count = len(flows) // len(LABELS)
    for (label, n), rows in world.flows.items():
        flows[label, (n + 1) % count][:share] = [change(flow) for flow in rows[-share:]]
    return replace(world, flows=flows)


def write(world: World, root: Path, *, given: bool = False, second_half: bool = False) -> Path:
    """The captures as `<label>/session_<n>.pcap`; `given`: under train/, val/ and test/.

    `second_half`: flows that stand in two captures are cut in two, one half in each.
    """
    seen: set[Flow] = set()
    for (label, n), rows in sorted(world.flows.items()):
        part = ("train/", "train/", "train/", "train/", "val/", "test/")[n % 6] if given else ""
        place = root / f"{part}{label}"
        place.mkdir(parents=True, exist_ok=True)
        timed: list[tuple[float, bytes]] = []
        for flow in rows:
            every = frames(flow, world.link[label])
            twice = sum(flow in others for others in world.flows.values()) > 1
            timed += (every[4:] if flow in seen else every[:4]) if second_half and twice else every
            seen.add(flow)
        data = pcap(sorted(timed), link=world.link[label], snaplen=world.snap[label])
        (place / f"session_{label}_{n:02d}.pcap").write_bytes(data)
    return root
