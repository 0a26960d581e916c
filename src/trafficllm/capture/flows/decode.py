"""Frames to packets."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np

from trafficllm.capture.flows.packets import PACKET, PacketBatch
from trafficllm.capture.kernels.decode import LOOK_EVERYWHERE, LOOK_INSIDE, decode_frames
from trafficllm.capture.link.tunnels import VXLAN_PORTS, tunnel_ports
from trafficllm.capture.link.words import TRAIL, TRAIL_START
from trafficllm.core.types import I64, U8, FrameBatch


@cache
def _ports(vxlan: tuple[int, ...]) -> U8:
    return tunnel_ports(vxlan)


def decode(frames: FrameBatch, *, checksums: bool = False, tunnels: bool = False, vxlan_ports: Iterable[int] = VXLAN_PORTS) -> PacketBatch:
    """Decode every frame's headers; never raises, whatever the bytes.

    A row is that of the outermost IP packet, or with `tunnels` of the innermost that can be decoded (see `packets.TUNNELS`).
    With `checksums` the rows' `ip_sum` and `l4_sum` say right or wrong where the whole packet was captured.
    """
    return _decode(frames, np.zeros((1, TRAIL_START), dtype=np.int64), LOOK_INSIDE if tunnels else 0, checksums, tuple(vxlan_ports))


def trace(frames: FrameBatch, *, vxlan_ports: Iterable[int] = VXLAN_PORTS) -> tuple[PacketBatch, I64]:
    """Rows of the last packet met in each frame, and the headers on the way there: int64 [n, TRAIL], see `link.words.note`."""
    trails = np.zeros((max(len(frames), 1), TRAIL), dtype=np.int64)
    return _decode(frames, trails, LOOK_EVERYWHERE, False, tuple(vxlan_ports)), trails


def _decode(frames: FrameBatch, trails: I64, tunnels: int, checksums: bool, vxlan: tuple[int, ...]) -> PacketBatch:
    rows, spare = np.zeros(len(frames), dtype=PACKET), np.zeros(2, dtype=PACKET)
    columns = (frames.offset, frames.caplen, frames.origlen, frames.link)
    decode_frames(frames.buffer, *columns, rows, spare, checksums, tunnels, _ports(vxlan), trails)
    return PacketBatch(frames=frames, rows=rows)
