"""Random flow plans, sound and nonsensical, for the compiler's tests."""

from __future__ import annotations

import random
import struct

from trafficllm.core.types import Action, FlowPlan

OPS = ("open", "send", "ack", "retransmit", "wait", "close", "reset", "datagram", "icmp", "bogus")
SIZES = (0, 0, 1, 5, 100, 517, 1400, 1460, 3000, 65535, 70000, -3)
DNS_QUERY = bytes.fromhex("1234 0100 0001 0000 0000 0000 07") + b"example" + bytes.fromhex("03") + b"com" + bytes.fromhex("00 0001 0001")
HEADS = (
    b"",
    b"GET /index.html HTTP/1.1\r\nHost: ",
    b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Encoding: gzip\r\n\r\n\x89PNG",
    bytes.fromhex("1603010200010001fc0303"),
    bytes.fromhex("160303005a020000560303"),
    bytes.fromhex("1703030100"),
    bytes.fromhex("150303000202"),
    b"SSH-2.0-x\r\n",
    b"d1:ad2:id20:",
    bytes.fromhex("0001005c2112a442"),
    bytes.fromhex("80c80006"),
    bytes.fromhex("c200000001031995670811a26103fa6698620043ec"),
    bytes.fromhex("16feff0000"),
    b"8=FIX.4.2\x01",
    bytes.fromhex("05000b0310"),
    DNS_QUERY,
    DNS_QUERY[:18],
    struct.pack("!6H", 7, 0x8180, 1, 9, 0, 3) + DNS_QUERY[12:],
    b"MZ\x90This program cannot be run",
)
PORTS = (443, 80, 53, 5353, 22, 445, 3306, 123, 8989, 0, 70000, 51413)


def random_plan(rng: random.Random, *, heads: bool = False) -> FlowPlan:
    """Any actions in any order, with numbers in and out of range."""
    actions = tuple(_action(rng, heads=heads) for _ in range(rng.randrange(14)))
    return FlowPlan(rng.choice((6, 6, 6, 17, 17, 1, 58, 99)), rng.choice((4, 6, 5)), rng.choice(PORTS), actions)


def _action(rng: random.Random, *, heads: bool) -> Action:
    payload = b""
    if heads and rng.random() < 0.7:
        payload = rng.choice(HEADS) + rng.randbytes(rng.choice((0, 0, 20, 80)))
    size = rng.choice(SIZES) if rng.random() < 0.5 else len(payload) + rng.choice((0, 0, 1, 30, 400))
    icmp = rng.choice((-1, 0x0800, 0x0303, rng.randrange(65536), rng.choice((128, 129, 133, 134, 135, 136, 1, 3, 11, 13)) << 8))
    return Action(
        rng.choice(OPS),
        rng.randrange(2),
        size,
        payload,
        rng.choice((0, 1000, 10**6, 10**8, -1)),
        rng.choice((-1, 0, 100, 70000)),
        rng.choice((-1, 64, 0, 300)),
        rng.randrange(256),
        icmp,
        rng.choice(("random", "text", "zero", "?")),
    )


def random_plans(count: int, seed: int, *, heads: bool = False) -> list[FlowPlan]:
    """`count` plans, the same for the same seed."""
    rng = random.Random(seed)
    return [random_plan(rng, heads=heads) for _ in range(count)]
