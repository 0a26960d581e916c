"""Captures cut as another source is: the same snap length, the same bytes a flow, so that both pass through one observer.

Some sources keep the first bytes of each packet, some those of each flow: USTC-TFC 2016 is known as files of 784 bytes a
session, 24 of them the file's header and 16 each packet's. What a flow shows then depends on the cut, not on the traffic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trafficllm.capture.files.read import expand, read_frames
from trafficllm.capture.flows.assembly import assemble, read_flows
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowBatch, FrameBatch

RECORD_HEADER = 16
"""Bytes of a packet's header in a pcap file, which a limit on a session's file counts too."""
_SHARE = 0.9
"""Of the cut packets: this many their flow's last, and it is flows that are cut. Packets cut below their headers belong to none."""


@dataclass(frozen=True, slots=True)
class Cut:
    """`snap` bytes of a packet, `flow` bytes of a flow's packets with their record headers; 0: whole."""

    snap: int = 0
    flow: int = 0


def measured(paths: Sequence[str | Path]) -> Cut:
    """How captures are cut: at a flow's bytes where nearly all cut packets are their flow's last, else at a packet's.

    Raises InputError for what is no capture.
    """
    within: list[int] = []
    ended: list[int] = []
    longest = 0
    for path in expand(paths):
        captured, whole = _lengths(path)
        cut = captured < whole
        for frames in _flow_frames(path):
            at = np.array(frames, dtype=np.int64) - 1
            lengths = captured[at][cut[at]]
            longest = max(longest, int(lengths.max(initial=0)))
            ends = len(at) > 0 and bool(cut[at[-1]])
            within.append(len(lengths) - ends)
            if ends:
                ended.append(int(captured[at].sum()) + RECORD_HEADER * len(at))
    if not longest:
        return Cut()
    by_flow = len(ended) >= _SHARE * (sum(within) + len(ended))
    return Cut(flow=max(ended)) if by_flow else Cut(snap=longest)


def _lengths(path: Path) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Captured and original length of every frame of one file."""
    pairs = [(batch.caplen, batch.origlen) for batch in read_frames([path])]
    none = np.zeros(0, np.uint32)
    return np.concatenate([none, *(one for one, _ in pairs)]), np.concatenate([none, *(two for _, two in pairs)])


def _flow_frames(path: Path) -> Iterator[list[int]]:
    for batch in read_flows([path]):
        for begin, end in zip(batch.pkt_ptr[:-1].tolist(), batch.pkt_ptr[1:].tolist(), strict=True):
            yield batch.p_frame[begin:end].tolist()


def cut_frames(path: str | Path, cut: Cut) -> Iterator[FrameBatch]:
    """Frames of one capture as a source with this cut would have kept them; what lies beyond is gone, not empty.

    Under a limit on a flow's bytes its first packets count (32 of them), in their order; frames of no flow are left out.
    """
    kept = _kept(Path(path), cut)
    for batch in read_frames([path]):
        length = np.minimum(batch.caplen, kept[batch.number - 1])
        rows = length > 0
        yield FrameBatch(
            batch.buffer,
            batch.offset[rows],
            length[rows],
            batch.origlen[rows],
            batch.ts[rows],
            batch.link[rows],
            batch.source[rows],
            batch.number[rows],
            batch.files,
        )


def _kept(path: Path, cut: Cut) -> npt.NDArray[np.uint32]:
    """Bytes of every frame that are kept."""
    captured, _ = _lengths(path)
    most = np.minimum(captured, cut.snap) if cut.snap else captured
    if not cut.flow:
        return most.astype(np.uint32)
    out = np.zeros(len(captured), np.uint32)
    spent: dict[int, int] = defaultdict(int)
    for number, frames in enumerate(_flow_frames(path)):
        for frame in frames:
            left = cut.flow - spent[number] - RECORD_HEADER
            if left <= 0:
                break
            out[frame - 1] = min(int(most[frame - 1]), left)
            spent[number] += RECORD_HEADER + int(out[frame - 1])
    return out


def cut_flows(path: str | Path, cut: Cut, *, options: FlowOptions | None = None) -> Iterator[FlowBatch]:
    """Flows of one capture through that cut; without one, simply its flows."""
    if cut == Cut():
        yield from read_flows([path], options=options)
        return
    yield from assemble(cut_frames(path, cut), options=options or FlowOptions(), counts=CountsBuilder())
