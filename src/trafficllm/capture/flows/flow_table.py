"""The bounded flow table: allocation, growth, eviction, and finished flows as FlowBatch."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.capture.flows.community import community_ids
from trafficllm.capture.flows.conn import CONN_STATES, likely_servers
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.packets import PacketBatch, address_rows
from trafficllm.capture.kernels.flow import DONE_MARGIN, P_FACTS, P_MAX_PAYLOAD, P_SEED, Arrivals, Table, assign, evict, expire
from trafficllm.capture.kernels.gather import gather, summarize
from trafficllm.capture.kernels.layout import (
    C_CHUNKS_DONE,
    C_DONE,
    C_EVICTED,
    C_FREE,
    C_FREE_BUFFERS,
    C_FREE_CHUNKS,
    C_FREE_PACKETS,
    C_HELD,
    C_HELLOS_LOST,
    C_LIVE,
    CHUNK,
    CONTROL,
    END_EOF,
    END_EVICTED,
    END_NAMES,
    ENDPOINT,
    FLOW,
    HISTORY,
    ISLANDS,
    QUEUES,
    STORED,
    SUMMARY,
)
from trafficllm.core.types import I64, U8, FlowBatch

_FLUSH = 32768  # finished flows that are handed out at once: small captures come sorted as a whole
_FLUSH_PACKETS = 1 << 18  # or stored packets of finished ones: a 1 GB capture of flows with 20 packets each peaked at 328 MB without
_POOL_BYTES = 64 << 20  # bound of the packet pool and of the payload pool each; memory is touched only as it is used
_CHUNK_BYTES = 32 << 20  # bound of what is kept beyond payload prefixes: 19,000 post-quantum ClientHellos at once
_UNKNOWN = 1 << 40

_STATE_NAMES = np.array(CONN_STATES, dtype=object)
_END_NAMES = np.array(END_NAMES, dtype=object)


class FlowTable:
    """Flows being assembled. `add` takes packets, `ready`/`drain`/`close` give finished flows, sorted by first packet.

    `most` bounds the packets that can come, where that is known: a table for 100 frames is not one for 10 million (3 ms a file).
    """

    def __init__(self, params: I64, *, table_size: int, most: int = _UNKNOWN) -> None:
        limit, max_payload = max(min(table_size, most), 16), int(params[P_MAX_PAYLOAD])
        width = max_payload + (max_payload + 7) // 8
        buffers = min(max(_POOL_BYTES // max(width, 1), 1024), max(2 * most, 16))
        params[P_FACTS] = min(params[P_FACTS], max_payload << 16)  # nothing lies beyond where no prefix is kept
        chunks = min(_CHUNK_BYTES // (CHUNK + CHUNK // 8), max(4 * most, 16)) if params[P_FACTS] else 0
        params[P_SEED] = secrets.randbits(31)  # bucket order never shows in the output; crafted collisions must not be possible
        self._table = Table(
            flows=np.zeros(limit, dtype=FLOW),
            ends=np.zeros(2 * limit, dtype=ENDPOINT),
            history=np.zeros((limit, HISTORY), dtype=np.uint8),
            islands=np.zeros((2 * limit, 2 * ISLANDS), dtype=np.int64),
            heads=np.full(1 << (limit - 1).bit_length(), -1, dtype=np.int32),
            queues=np.full((QUEUES, 2), -1, dtype=np.int32),
            packets=np.zeros(min(max(_POOL_BYTES // STORED.itemsize, 4096), max(most, 16)), dtype=STORED),
            buffers=np.zeros((buffers, width), dtype=np.uint8),
            buffer_next=np.zeros(buffers, dtype=np.int32),
            chunks=np.zeros((chunks, CHUNK + CHUNK // 8), dtype=np.uint8),
            chunk_next=np.zeros(chunks, dtype=np.int32),
            done=np.zeros(limit + min(_FLUSH, limit) + DONE_MARGIN, dtype=np.int32),
            control=np.zeros(CONTROL, dtype=np.int64),
            params=params,
            ports=likely_servers(),
        )
        self._table.control[[C_FREE, C_FREE_PACKETS, C_FREE_BUFFERS, C_FREE_CHUNKS]] = -1

    @property
    def arrays(self) -> Table:
        """What the kernels work on."""
        return self._table

    @property
    def evicted(self) -> int:
        """Flows thrown out because the table was full."""
        return int(self._table.control[C_EVICTED])

    @property
    def hellos_lost(self) -> int:
        """Hellos of which the part beyond the prefix was given up because the pool for such parts was full."""
        return int(self._table.control[C_HELLOS_LOST])

    @property
    def finished(self) -> int:
        """Flows that the next `drain` hands out."""
        return int(self._table.control[C_DONE])

    def ready(self) -> bool:
        """Enough finished flows for a batch."""
        return bool(self._table.control[C_DONE] >= _FLUSH or self._table.control[C_HELD] >= _FLUSH_PACKETS)

    def add(self, packets: PacketBatch, start: int, stop: int) -> int:
        """Feed rows [start, stop); returns the first row not taken: drain, then call again from there."""
        frames = packets.frames
        arrivals = Arrivals(
            frames.buffer, frames.offset, frames.ts, frames.origlen, frames.link, frames.source, frames.number, packets.rows
        )
        at = int(assign(self._table, arrivals, start, stop))
        if at < stop and self._table.control[C_DONE] == 0:
            evict(self._table, max(int(self._table.control[C_LIVE]) // 16, 1), END_EVICTED)
        return at

    def expire(self, now: int) -> None:
        """Finish the flows that have timed out by `now` (ns), the clock of the packets, though none has come to say so."""
        before = -1
        while before != (before := self.finished):
            expire(self._table, now)

    def close(self) -> None:
        """End of the capture: every live flow is finished."""
        evict(self._table, int(self._table.control[C_LIVE]), END_EOF)

    def drain(self, files: tuple[str, ...], counts: CountsBuilder) -> FlowBatch:
        """All finished flows, sorted by first packet; their memory is free afterwards."""
        table = self._table
        slots = table.done[: int(table.control[C_DONE])].astype(np.int64)
        order = slots[np.argsort(table.flows["first"][slots], kind="stable")]
        batch = _batch(table, order, files)
        table.control[C_DONE] = table.control[C_HELD] = table.control[C_CHUNKS_DONE] = 0
        counts.flows += len(batch)
        counts.evicted = self.evicted
        counts.hellos_lost = self.hellos_lost
        return batch


def _pointers(sizes: npt.NDArray[Any]) -> I64:
    out = np.zeros(sizes.shape[0] + 1, dtype=np.int64)
    np.cumsum(sizes, out=out[1:])
    return out


def _batch(table: Table, order: I64, files: tuple[str, ...]) -> FlowBatch:
    """The flows in `order` as columns; their places in the table are free afterwards."""
    n = order.shape[0]
    rows, history = np.zeros(n, dtype=SUMMARY), np.zeros((n, HISTORY), dtype=np.uint8)
    summarize(table, order, rows, history)
    pkt_ptr = _pointers(rows["stored"])
    payload_ptr, beyond_ptr = _edges(_pair(rows, "prefix")), _edges(_pair(rows, "beyond"))
    packets = np.zeros(int(pkt_ptr[-1]), dtype=STORED)
    payload, beyond = (np.zeros(int(edges[-1, 2]) if n else 0, dtype=np.uint8) for edges in (payload_ptr, beyond_ptr))
    gather(table, order, pkt_ptr, packets, payload_ptr, payload, beyond_ptr, beyond)
    return FlowBatch(
        ts=rows["ts"].copy(),
        duration=rows["duration"].copy(),
        ip_version=rows["ip_version"].copy(),
        proto=rows["proto"].copy(),
        orig_h=address_rows(rows["orig_hi"], rows["orig_lo"]),
        resp_h=address_rows(rows["resp_hi"], rows["resp_lo"]),
        orig_p=rows["orig_p"].copy(),
        resp_p=rows["resp_p"].copy(),
        pkts=_pair(rows, "pkts"),
        payload_bytes=_pair(rows, "bytes"),
        ip_bytes=_pair(rows, "ip"),
        conn_state=_STATE_NAMES[rows["state"]],
        history=_strings(history),
        end_reason=_END_NAMES[rows["end"]],
        community_id=community_ids(rows),
        link=rows["link"].copy(),
        source=rows["source"].copy(),
        vlan=rows["vlan"].copy(),
        tunnel=rows["tunnel"].copy(),
        pkt_ptr=pkt_ptr,
        p_dir=packets["side"].copy(),
        p_ts=packets["ts"].copy(),
        p_ip_len=packets["ip_len"].copy(),
        p_payload=packets["payload"].copy(),
        p_flags=packets["flags"].copy(),
        p_window=packets["window"].copy(),
        p_ttl=packets["ttl"].copy(),
        p_frame=packets["frame"].copy(),
        p_frame_len=packets["frame_len"].copy(),
        p_type=packets["type"].copy(),
        payload_ptr=payload_ptr,
        payload=payload,
        files=files,
        beyond_ptr=beyond_ptr,
        beyond=beyond,
    )


def _edges(sizes: I64) -> I64:
    """Sizes [n, 2] of two sides as the pointers [n, 3] of their bytes, all in one row."""
    edges = _pointers(sizes.reshape(-1))
    return np.stack([edges[0:-1:2], edges[1::2], edges[2::2]], axis=1) if len(sizes) else np.zeros((0, 3), dtype=np.int64)


def _pair(rows: npt.NDArray[Any], name: str) -> I64:
    """Originator's and responder's column as int64 [n, 2]."""
    out = np.empty((rows.shape[0], 2), dtype=np.int64)
    out[:, 0], out[:, 1] = rows[f"orig_{name}"], rows[f"resp_{name}"]
    return out


_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64)
"""Odd multipliers that spread a history's words over its key."""


def _strings(rows: U8) -> npt.NDArray[np.object_]:
    """History rows as str: few are different, so each text is made once; rows are compared as 64-bit words."""
    words = np.ascontiguousarray(rows).view(np.uint64)
    key = words[:, 0].copy()
    for place, odd in enumerate(_ODD[: words.shape[1] - 1], 1):
        key += words[:, place] * odd
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    if not np.array_equal(words[first][which], words):  # two texts share a key: as good as never, but then one by one
        first, which = np.arange(rows.shape[0]), np.arange(rows.shape[0])
    texts = np.array([raw.decode("ascii") for raw in rows[first].view(f"S{HISTORY}").reshape(-1).tolist()], dtype=object)
    return texts[which]
