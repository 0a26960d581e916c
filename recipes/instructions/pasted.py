"""Packets, frames and logs as people paste them into a question; every value is drawn from the pattern's generator.

The pasted part says nothing about the task: the same kinds stand beside questions of every task, and beside none.
"""

from __future__ import annotations

import random
from collections.abc import Callable

PORTS = (80, 443, 53, 22, 445, 1080, 8080, 3389, 6667, 1194, 9001, 5222)
PATHS = ("/index.jsp", "/publico/pagar.jsp", "/login.php?id=2", "/api/v1/items", "/search?q=shoes", "/miembros.jsp")
HOSTS = ("shop.example.com", "intranet.example.org", "www.example.net", "203.0.113.7")


def address(rng: random.Random) -> str:
    """A private or documentation IPv4 address."""
    net = rng.choice(("192.168.1", "10.0.2", "10.20.30", "172.16.4", "198.51.100", "203.0.113"))
    return f"{net}.{rng.randrange(2, 250)}"


def hex_bytes(rng: random.Random, count: int, joint: str = "") -> str:
    """`count` bytes in hexadecimal."""
    return joint.join(f"{rng.randrange(256):02x}" for _ in range(count))


def packet(rng: random.Random) -> str:
    """Field: value pairs with tshark's names, as the published data sets print a packet."""
    source, target = rng.randrange(1025, 65000), rng.choice(PORTS)
    pairs = [
        f"frame.len: {rng.choice((54, 60, 66, 74, 118, 253, 571, 1514))}",
        f"ip.ttl: {rng.choice((52, 64, 112, 128, 255))}",
        f"ip.src: {address(rng)}",
        f"ip.dst: {address(rng)}",
        f"tcp.srcport: {source}",
        f"tcp.dstport: {target}",
        f"tcp.flags: 0x{rng.choice((2, 16, 17, 18, 24)):08x}",
        f"tcp.window_size: {rng.choice((0, 229, 8192, 64240, 65535))}",
    ]
    drop = rng.randrange(3, len(pairs))
    mark = rng.choice(("<packet>: ", "<packet>", "<packet> "))
    tail = f", tcp.payload: {hex_bytes(rng, rng.randrange(4, 12), ':')}" if rng.random() < 0.4 else ""
    return mark + ", ".join(pairs[:drop]) + tail


def flow(rng: random.Random) -> str:
    """The published flow form: frames in hexadecimal between marks."""
    return "<flow>: " + "".join(f"<pck>{hex_bytes(rng, rng.randrange(8, 20))}" for _ in range(rng.randrange(2, 4)))


def frame(rng: random.Random) -> str:
    """The beginning of a frame in plain hexadecimal."""
    return "4500" + hex_bytes(rng, rng.randrange(10, 28), rng.choice(("", " ", ":")))


def http(rng: random.Random) -> str:
    """A first request line with a host, or the published JSON form."""
    method, path, host = rng.choice(("GET", "POST")), rng.choice(PATHS), rng.choice(HOSTS)
    if rng.random() < 0.4:
        return f'{{"method": "{method}", "url": "http://{host}{path}", "body": "id=3&nombre=Vino"}}'
    return f"{method} {path} HTTP/1.1 Host: {host}"


def conn(rng: random.Random) -> str:
    """One line of a connection log."""
    return (
        f"{address(rng)}:{rng.randrange(1025, 65000)} -> {address(rng)}:{rng.choice(PORTS)} "
        f"{rng.choice(('tcp', 'tcp', 'udp'))} {rng.randrange(2, 900)} pkts {rng.randrange(120, 90000)} bytes"
    )


PASTED: dict[str, Callable[[random.Random], str]] = {
    "packet": packet,
    "flow": flow,
    "frame": frame,
    "http": http,
    "conn": conn,
    "addr": address,
}
