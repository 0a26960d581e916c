"""What a capture set-up leaves on frames and no record carries: read from the captures themselves, for the audit.

Initial sequence number, padding behind the IP packet, and whether frames were captured short.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trafficllm.capture.decode import decode
from trafficllm.capture.read import read_frames
from trafficllm.core.errors import InputError
from trafficllm.core.types import F64, FlowMeta

MARKS = ("sequence", "padding", "truncation")


def _of_file(path: Path, frames: Sequence[int]) -> dict[int, tuple[float, float, float]]:
    """Marks by frame number of the wanted frames of one capture."""
    wanted = np.unique(np.asarray(frames, dtype=np.int64))
    found: dict[int, tuple[float, float, float]] = {}
    for batch in read_frames([path]):
        packets = decode(batch)
        used = packets["ip_len"].astype(np.int64) + np.maximum(packets["l3"], 0)
        padding = np.where(packets["ip_len"] > 0, batch.origlen.astype(np.int64) - used, 0)
        rows = np.flatnonzero(np.isin(batch.number, wanted))
        for i in rows.tolist():
            short = float(batch.caplen[i] < batch.origlen[i])
            found[int(batch.number[i])] = (float(packets["seq"][i]), float(padding[i]), short)
    return found


def _flow_marks(frames: Sequence[int], found: dict[int, tuple[float, float, float]]) -> list[float]:
    rows = [found[number] for number in frames if number in found]
    if not rows:
        return [float("nan")] * len(MARKS)
    return [rows[0][0], max(row[1] for row in rows), max(row[2] for row in rows)]


def marks_of(root: str | Path, meta: Sequence[FlowMeta]) -> dict[str, F64]:
    """Marks of each flow, float64 [n] by name: `sequence` (first SEQ), `padding` (bytes), `truncation` (0 or 1).

    `root` is the folder that `FlowMeta.capture` is relative to. NaN where the capture is not there or cannot be read.
    """
    out = np.full((len(meta), len(MARKS)), np.nan)
    by_file: dict[str, list[int]] = {}
    for i, row in enumerate(meta):
        by_file.setdefault(row.capture, []).append(i)
    for name, rows in sorted(by_file.items()):
        path = Path(root) / name
        if not name or not path.is_file():
            continue
        try:
            found = _of_file(path, [number for i in rows for number in meta[i].frames])
        except InputError:
            continue
        for i in rows:
            out[i] = _flow_marks(meta[i].frames, found)
    return {name: out[:, k] for k, name in enumerate(MARKS)}
