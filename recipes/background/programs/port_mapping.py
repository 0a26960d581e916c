"""A gateway's side of NAT-PMP (RFC 6886): answers requests for the outside address and for mappings."""

from __future__ import annotations

import socket
import struct
import time

START = time.time()


def answer(request: bytes) -> bytes:
    """The response to one request."""
    passed = int(time.time() - START)
    if request[1] == 0:
        return struct.pack("!BBHI4s", 0, 128, 0, passed, socket.inet_aton("203.0.113.9"))
    _, _, _, inside, outside, life = struct.unpack("!BBHHHI", request[:12])
    return struct.pack("!BBHIHHI", 0, 128 + request[1], 0, passed, inside, outside, life)


with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("0.0.0.0", 5351))
    while True:
        data, sender = server.recvfrom(64)
        if len(data) >= 2 and data[0] == 0:
            server.sendto(answer(data), sender)
