"""Frames to packets."""

from __future__ import annotations

import numpy as np

from trafficllm.capture.flows.packets import PACKET, PacketBatch
from trafficllm.capture.kernels.decode import decode_frames
from trafficllm.core.types import FrameBatch


def decode(frames: FrameBatch, *, checksums: bool = False, tunnels: bool = False) -> PacketBatch:
    """Decode every frame's headers; never raises, whatever the bytes.

    A row is that of the outermost IP packet, or with `tunnels` of the innermost that can be decoded (see `packets.TUNNELS`).
    With `checksums` the rows' `ip_sum` and `l4_sum` say right or wrong where the whole packet was captured.
    """
    rows, spare = np.zeros(len(frames), dtype=PACKET), np.zeros(2, dtype=PACKET)
    decode_frames(frames.buffer, frames.offset, frames.caplen, frames.origlen, frames.link, rows, spare, checksums, tunnels)
    return PacketBatch(frames=frames, rows=rows)
