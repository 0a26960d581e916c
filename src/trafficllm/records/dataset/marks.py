"""What a capture set-up leaves on frames and no record carries, read from the captures themselves and kept for the audit.

A data set stores them in `marks.parquet`, row by row beside its records: no model ever reads that file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.capture.files.read import read_frames
from trafficllm.capture.flows.decode import decode
from trafficllm.capture.flows.packets import PacketBatch
from trafficllm.core.errors import InputError
from trafficllm.core.types import F64, I64, FlowMeta, FrameBatch

FILE = "marks.parquet"
KIND_OF = {
    "seq": "sequence",
    "tsval": "sequence",
    "ip_id": "sequence",
    "padding": "padding",
    "cut_at": "truncation",
    "mac_src": "address",
    "mac_dst": "address",
    "vlan": "link_type",
}
"""Each mark and the kind of leak it is. `seq`, `tsval` (TCP timestamp), `ip_id`, MACs and `vlan` are those of a flow's
first packet; `padding` the most bytes behind an IP packet; `cut_at` the longest frame that was not captured whole, or 0."""
MARKS = tuple(KIND_OF)

_TCP, _ETHERNET = 6, 1
_FIXED = 20
_TIMESTAMP, _NOP = 8, 1


def _tsval(options: bytes) -> float:
    """TSval of RFC 7323 section 3.2, or NaN."""
    at = 0
    while at < len(options) and options[at]:
        size = options[at + 1] if options[at] != _NOP and at + 1 < len(options) else 1
        if options[at] == _TIMESTAMP and at + 6 <= len(options):
            return float(int.from_bytes(options[at + 2 : at + 6], "big"))
        at += max(size, 1)
    return float("nan")


def _macs(batch: FrameBatch, rows: npt.NDArray[Any], at: int) -> F64:
    """Ethernet addresses at byte `at` of these frames as numbers; NaN on other links."""
    whole = (batch.link[rows] == _ETHERNET) & (batch.caplen[rows] >= at + 6)
    start = np.where(whole, batch.offset[rows] + at, 0)
    octets = batch.buffer[np.minimum(start[:, None] + np.arange(6), len(batch.buffer) - 1)].astype(np.float64)
    return np.where(whole, octets @ (256.0 ** np.arange(5, -1, -1)), np.nan)


def _stamps(batch: FrameBatch, packets: PacketBatch, rows: npt.NDArray[Any]) -> list[float]:
    starts = batch.offset[rows] + packets["l4"][rows] + _FIXED
    ends = batch.offset[rows] + packets["payload"][rows]
    tcp = (packets["proto"][rows] == _TCP) & (packets["l4"][rows] >= 0) & (ends > starts)
    spans = zip(starts.tolist(), ends.tolist(), tcp.tolist(), strict=True)
    return [_tsval(batch.buffer[start:end].tobytes()) if has else float("nan") for start, end, has in spans]


def _beginnings(batch: FrameBatch, packets: PacketBatch, rows: npt.NDArray[Any]) -> F64:
    """Marks of frames that begin a flow, float64 [rows, marks]; `padding` and `cut_at` are filled in later."""
    zero = np.zeros(len(rows))
    columns = {
        "seq": np.where(packets["proto"][rows] == _TCP, packets["seq"][rows], np.nan),
        "tsval": _stamps(batch, packets, rows),
        "ip_id": np.where(packets["ip_version"][rows] == 4, packets["ip_id"][rows], np.nan),
        "padding": zero,
        "cut_at": zero,
        "mac_src": _macs(batch, rows, 6),
        "mac_dst": _macs(batch, rows, 0),
        "vlan": packets["vlan"][rows],
    }
    return np.column_stack([columns[name] for name in MARKS])


def _of_file(path: Path, frames: I64, edges: I64) -> F64:
    """Marks float64 [flows, marks] of flows of one capture; the frame numbers of flow i are `frames[edges[i] : edges[i + 1]]`."""
    with_frames = np.flatnonzero(np.diff(edges) > 0)
    out = np.full((len(edges) - 1, len(MARKS)), np.nan)
    begins = dict(zip(frames[edges[with_frames]].tolist(), with_frames.tolist(), strict=True))
    wanted = np.array(list(begins), dtype=np.int64)
    extra: list[tuple[npt.NDArray[Any], ...]] = []
    for batch in read_frames([path]):
        packets = decode(batch, tunnels=True)
        used = packets["ip_len"].astype(np.int64) + np.maximum(packets["l3"], 0)
        behind = np.where(packets["ip_len"] > 0, np.maximum(batch.origlen.astype(np.int64) - used, 0), 0)
        cut = np.where(batch.caplen < batch.origlen, batch.caplen, 0).astype(np.int64)
        extra.append((batch.number, behind, cut))
        rows = np.flatnonzero(np.isin(batch.number, wanted))
        out[[begins[number] for number in batch.number[rows].tolist()]] = _beginnings(batch, packets, rows)
    if extra and len(with_frames):
        number, behind, cut = (np.concatenate(column) for column in zip(*extra, strict=True))
        at = np.minimum(np.searchsorted(number, frames), len(number) - 1)
        for name, column in (("padding", behind), ("cut_at", cut)):
            out[with_frames, MARKS.index(name)] = np.maximum.reduceat(column[at], edges[with_frames])
    return out


def of_capture(path: Path, frames: I64, edges: I64) -> dict[str, F64]:
    """Marks by name of the flows of one capture, given by their frame numbers (see `_of_file`); NaN where there is none."""
    try:
        out = _of_file(path, frames, edges)
    except InputError:
        out = np.full((len(edges) - 1, len(MARKS)), np.nan)
    return {name: out[:, k] for k, name in enumerate(MARKS)}


def marks_of(root: str | Path, meta: Sequence[FlowMeta]) -> dict[str, F64]:
    """Marks of each flow, float64 [n] by name (see `KIND_OF`); NaN where there is none.

    `root` is the folder that `FlowMeta.capture` is relative to; a capture that is not there or cannot be read has no marks.
    """
    out = np.full((len(meta), len(MARKS)), np.nan)
    by_file: dict[str, list[int]] = {}
    for i, row in enumerate(meta):
        by_file.setdefault(row.capture, []).append(i)
    for name, rows in sorted(by_file.items()):
        path = Path(root) / name
        if name and path.is_file():
            frames = np.array([number for i in rows for number in meta[i].frames], dtype=np.int64)
            columns = of_capture(path, frames, np.cumsum([0, *(len(meta[i].frames) for i in rows)]))
            out[rows] = np.column_stack(list(columns.values()))
    return {name: out[:, k] for k, name in enumerate(MARKS)}


def write(folder: Path, columns: Mapping[str, F64]) -> None:
    """Put known marks into `folder`; nothing where none is known."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not all(np.isnan(column).all() for column in columns.values()):
        table = pa.table({name: pa.array(column, from_pandas=True) for name, column in columns.items()})
        pq.write_table(table, folder / FILE, compression="zstd")


def read(folder: Path) -> dict[str, F64]:
    """The marks that a data set keeps, as `marks_of` gives them; empty where it keeps none."""
    import pyarrow.parquet as pq

    if not (folder / FILE).is_file():
        return {}
    table = pq.read_table(folder / FILE)
    return {name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in MARKS if name in table.column_names}
