"""The bounded flow table: allocation, growth, eviction, and finished flows as FlowBatch."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.capture.community import community_ids
from trafficllm.capture.conn import CONN_STATES, likely_servers
from trafficllm.capture.counts import CountsBuilder
from trafficllm.capture.flow_table_layout import (
    C_DONE,
    C_EVICTED,
    C_FREE,
    C_FREE_BUFFERS,
    C_FREE_PACKETS,
    C_LIVE,
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
)
from trafficllm.capture.kernels_flow import DONE_MARGIN, P_MAX_PAYLOAD, P_SEED, Arrivals, Table, assign, evict
from trafficllm.capture.kernels_gather import gather, release, summarize
from trafficllm.capture.packets import PacketBatch, address_rows
from trafficllm.core.types import I64, U8, FlowBatch

_FLUSH = 32768  # finished flows that are handed out at once: small captures come sorted as a whole
_POOL_BYTES = 64 << 20  # bound of the packet pool and of the payload pool each; memory is touched only as it is used

_STATE_NAMES = np.array(CONN_STATES, dtype=object)
_END_NAMES = np.array(END_NAMES, dtype=object)


class FlowTable:
    """Flows being assembled. `add` takes packets, `ready`/`drain`/`close` give finished flows, sorted by first packet."""

    def __init__(self, params: I64, *, table_size: int, flip: bool = True) -> None:
        limit, max_payload = max(table_size, 16), int(params[P_MAX_PAYLOAD])
        width = max_payload + (max_payload + 7) // 8
        buffers = max(_POOL_BYTES // max(width, 1), 1024)
        params[P_SEED] = secrets.randbits(31)  # bucket order never shows in the output; crafted collisions must not be possible
        self._table = Table(
            flows=np.zeros(limit, dtype=FLOW),
            ends=np.zeros(2 * limit, dtype=ENDPOINT),
            history=np.zeros((limit, HISTORY), dtype=np.uint8),
            islands=np.zeros((2 * limit, 2 * ISLANDS), dtype=np.int64),
            heads=np.full(1 << (limit - 1).bit_length(), -1, dtype=np.int32),
            queues=np.full((QUEUES, 2), -1, dtype=np.int32),
            packets=np.zeros(max(_POOL_BYTES // STORED.itemsize, 4096), dtype=STORED),
            buffers=np.zeros((buffers, width), dtype=np.uint8),
            buffer_next=np.zeros(buffers, dtype=np.int32),
            done=np.zeros(limit + _FLUSH + DONE_MARGIN, dtype=np.int32),
            control=np.zeros(CONTROL, dtype=np.int64),
            params=params,
            ports=likely_servers(),
        )
        self._table.control[[C_FREE, C_FREE_PACKETS, C_FREE_BUFFERS]] = -1

    @property
    def evicted(self) -> int:
        """Flows thrown out because the table was full."""
        return int(self._table.control[C_EVICTED])

    def ready(self) -> bool:
        """Enough finished flows for a batch."""
        return bool(self._table.control[C_DONE] >= _FLUSH)

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

    def close(self) -> None:
        """End of the capture: every live flow is finished."""
        evict(self._table, int(self._table.control[C_LIVE]), END_EOF)

    def drain(self, files: tuple[str, ...], counts: CountsBuilder) -> FlowBatch:
        """All finished flows, sorted by first packet; their memory is free afterwards."""
        table = self._table
        slots = table.done[: int(table.control[C_DONE])].astype(np.int64)
        order = slots[np.argsort(table.flows["first"][slots], kind="stable")]
        batch = _batch(table, order, files)
        release(table, order)
        table.control[C_DONE] = 0
        counts.flows += len(batch)
        counts.evicted = self.evicted
        return batch


def _pointers(sizes: I64) -> I64:
    out = np.zeros(sizes.shape[0] + 1, dtype=np.int64)
    np.cumsum(sizes, out=out[1:])
    return out


def _batch(table: Table, order: I64, files: tuple[str, ...]) -> FlowBatch:
    n = order.shape[0]
    flows = table.flows[order]
    flip = flows["flip"].astype(np.int64)
    ends = (table.ends[2 * order + flip], table.ends[2 * order + 1 - flip])
    sizes, states = np.zeros((n, 2), dtype=np.int64), np.zeros(n, dtype=np.uint8)
    summarize(table, order, sizes, states)
    pkt_ptr = _pointers(flows["stored"].astype(np.int64))
    prefixes = np.stack([ends[0]["prefix"], ends[1]["prefix"]], axis=1).astype(np.int64)
    edges = _pointers(prefixes.reshape(-1))
    payload_ptr = np.stack([edges[0:-1:2], edges[1::2], edges[2::2]], axis=1) if n else np.zeros((0, 3), dtype=np.int64)
    packets = np.zeros(int(pkt_ptr[-1]), dtype=STORED)
    payload = np.zeros(int(edges[-1]), dtype=np.uint8)
    gather(table, order, pkt_ptr, packets, payload_ptr, payload)
    sides = (address_rows(flows["a_hi"], flows["a_lo"]), address_rows(flows["b_hi"], flows["b_lo"]))
    turned = flip.astype(bool)
    orig_h = np.where(turned[:, None], sides[1], sides[0])
    resp_h = np.where(turned[:, None], sides[0], sides[1])
    orig_p = np.where(turned, flows["b_p"], flows["a_p"]).astype(np.uint16)
    resp_p = np.where(turned, flows["a_p"], flows["b_p"]).astype(np.uint16)
    return FlowBatch(
        ts=flows["start"].copy(),
        duration=np.maximum(flows["last"] - flows["start"], 0),
        ip_version=flows["ip_version"].copy(),
        proto=flows["proto"].copy(),
        orig_h=orig_h,
        resp_h=resp_h,
        orig_p=orig_p,
        resp_p=resp_p,
        pkts=np.stack([ends[0]["packets"], ends[1]["packets"]], axis=1),
        payload_bytes=sizes,
        ip_bytes=np.stack([ends[0]["ip_bytes"], ends[1]["ip_bytes"]], axis=1),
        conn_state=_STATE_NAMES[states],
        history=_strings(table.history[order], flows["hist_len"]),
        end_reason=_END_NAMES[flows["end"]],
        community_id=community_ids(flows),
        link=flows["link"].copy(),
        source=flows["source"].copy(),
        vlan=flows["vlan"].copy(),
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
    )


def _strings(rows: U8, lengths: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    kept = np.where(np.arange(HISTORY) < lengths[:, None], rows, 0).astype(np.uint8)
    return kept.view(f"S{HISTORY}").reshape(-1).astype(str).astype(object)
